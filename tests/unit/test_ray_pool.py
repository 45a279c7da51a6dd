"""What a Ray actor does with a search; chaos_ray.py is about whole clusters."""

import pickle
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from chaos import STUDY, opened, small, trials_of
from commands import until

from mura_tune.api.search import RunSettings
from mura_tune.cluster import ray_pool
from mura_tune.cluster.ray_pool import RayPool, RayWorker
from mura_tune.data.prepare import Prepared
from mura_tune.database.urls import url_of
from mura_tune.errors import InputError, MuraError
from mura_tune.search.pool import WorkerEnded, WorkerMessage
from mura_tune.search.search import SearchJob, TrialEnded, WorkerSettings, start_search
from mura_tune.software import running_software

SLOW = 120.0  # seconds that a search of two trials may take on a machine with other work


class Call:
    """`RayWorker.run` in a thread, as Ray calls it, and what the worker said until now."""

    def __init__(self, url: str, prepared: Prepared, *sets: str) -> None:
        job, settings = SearchJob(STUDY, small(*sets), prepared), WorkerSettings(url)
        since = start_search(job, settings)
        self.said: list[WorkerMessage] = []
        self.worker = RayWorker()
        work = ([job], since, settings)
        threading.Thread(target=self.worker.run, args=(work, False, 1), daemon=True).start()

    def listen(self, last: type) -> list[WorkerMessage]:
        """Until the worker has said something of this kind."""
        deadline = time.monotonic() + SLOW
        while not any(isinstance(one, last) for one in self.said) and time.monotonic() < deadline:
            self.said += self.worker.listen(1.0)
        return self.said


def test_an_actor_brings_a_search_to_its_count(url: str, prepared: Prepared) -> None:
    said = Call(url, prepared).listen(WorkerEnded)
    assert sum(isinstance(one, TrialEnded) for one in said) == 2
    assert said[-1] == WorkerEnded()
    with opened(url) as storage:
        assert [trial.is_done for trial in trials_of(storage, STUDY)] == [True, True]


@pytest.mark.parametrize(("word", "ended"), [("finish", True), ("stop", False)])
def test_an_actor_stops_when_it_is_told_to(
    url: str, prepared: Prepared, word: ray_pool.Word, ended: bool
) -> None:
    call = Call(url, prepared, "budget.trials=50", "finetune.epochs=12", "budget.pruner.name=none")
    until(lambda: "RUNNING" in _states(url), SLOW)
    call.worker.obey(word)
    assert call.listen(WorkerEnded)[-1] == WorkerEnded()
    assert "RUNNING" not in _states(url)
    assert any(isinstance(one, TrialEnded) and one.trial.is_done for one in call.said) == ended


def _states(url: str) -> list[str]:
    with opened(url) as storage:
        return [trial.state.name for trial in trials_of(storage, STUDY)]


def test_an_actor_says_what_ended_it(tmp_path: Path, prepared: Prepared) -> None:
    worker = RayWorker()
    settings = WorkerSettings(url_of(str(tmp_path / "none.db")))
    worker.run(([SearchJob(STUDY, small(), prepared)], {}, settings), False, 1)
    error, end = worker.listen(0.0)
    assert isinstance(error, MuraError)
    assert "none.db" in str(error)
    assert end == WorkerEnded()
    assert worker.listen(0.0) == []


def test_an_actor_of_another_version_runs_nothing(url: str, prepared: Prepared) -> None:
    other = replace(running_software(), source="f" * 64)
    worker = RayWorker()
    settings = WorkerSettings(url, software=other)
    worker.run(([SearchJob(STUDY, small(), prepared)], {}, settings), False, 1)
    error, end = worker.listen(0.0)
    assert f"and the command is of {other}" in str(error)
    assert end == WorkerEnded()


def test_pixels_travel_with_a_job(prepared: Prepared) -> None:
    (job,) = ray_pool.with_pixels([SearchJob(STUDY, small(), prepared)])
    arrived = pickle.loads(pickle.dumps(job)).prepared
    assert getattr(arrived.pixels, "filename", None) is None  # no file of another machine
    assert (arrived.pixels == prepared.pixels).all()


@pytest.mark.parametrize(
    ("workers", "cpus", "gpus", "sharers"),
    [(3, 1, 0, 3), (40, 1, 0, 16), (40, 4, 0, 4), (4, 32, 0, 1), (4, 1, 0.5, 2), (4, 1, 2, 1)],
)
def test_workers_of_a_node_or_of_a_gpu_share_its_memory(
    workers: int, cpus: float, gpus: float, sharers: int
) -> None:
    nodes = [{"CPU": 16.0, "GPU": 4.0}, {"CPU": 8.0}, {}]
    assert ray_pool.count_sharers(workers, cpus, gpus, nodes) == sharers


def test_without_ray_the_extra_is_named(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"mura-tune\[ray\]"):
        RayPool(2).run([], {}, WorkerSettings(url), print, print)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (RunSettings(on="dask"), "--on dask"),
        (RunSettings(on="ray", devices="cuda:0"), "--worker-gpus"),
        (RunSettings(on="ray", worker_gpus=1.5), "--worker-gpus"),
        (RunSettings(on="ray", worker_cpus=0.0), "--worker-cpus"),
    ],
)
def test_what_ray_could_not_give_is_refused(settings: RunSettings, word: str) -> None:
    with pytest.raises(InputError, match=word):
        settings.pool()
