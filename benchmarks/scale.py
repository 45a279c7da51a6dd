"""Many workers on one PostgreSQL, without training: what a slot costs, and where it ends.

A trial sleeps for eight epochs. Everything else is what a worker of `mura tune` does: its locks,
its look for lost trials, the search's lock, the values that TPE draws, heartbeats, what a trial
stores and reads after each epoch and at its end. Each worker has connections of its own. Clients
and server share the machine's cores.

Part 1: one worker opens slots of a search with 10,000 finished and 1,000 running trials.
Part 2: 1 to 400 workers search from trial 0. Counted is from the moment when all have begun. Their
trials last as long as it takes for so many slots a second to be asked for; in the last line they
end at once, which shows the most slots a second that there are.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import optuna
import psycopg
import torch
from measure import REPO, arguments, leave_out, opened
from optuna.distributions import distribution_to_json
from optuna.trial import TrialState
from sqlalchemy import Engine, event, insert

from mura_tune.config import SearchConfig, load_config
from mura_tune.data.prepare import Prepared, open_dataset, prepare
from mura_tune.database import locks
from mura_tune.database.optuna_private import TABLES, search_id
from mura_tune.database.storage import open_storage
from mura_tune.metrics.estimates import Estimate, StudyScores
from mura_tune.phantoms.dataset import write_phantoms
from mura_tune.search import trial, worker
from mura_tune.search.search import SearchJob, WorkerSettings, start_search
from mura_tune.search.search_record import SearchRecord
from mura_tune.search.space import space_of
from mura_tune.search.trial_record import TrialWriter

sys.path.insert(0, str(REPO / "tests"))
import postgres

NAME, CPU = "XR_WRIST", torch.device("cpu")
EPOCHS, STUDIES = 8, np.array([f"study {number}" for number in range(200)], dtype=object)
SCORES = "x" * 2_000  # as long as the dev scores of 200 studies
THREADS = 20  # workers in a process, which share its interpreter: 400 processes need more memory
LOCK_OF = locks.WorkerLock.lock_of
MOST = 0.0  # in place of the slots a second that workers ask for: as many as they get
SETTLED = 20.0  # seconds after the last worker's first slot: the crowd of the start has gone
CROWDS = ((1, 1.0), (10, 1.0), (100, 1.0), (400, 1.0), (400, 4.0), (40, MOST))


Span = tuple[float, float]  # seconds by the clock, and of this thread's processor


def span(since: Span = (0.0, 0.0)) -> Span:
    return time.perf_counter() - since[0], time.thread_time() - since[1]


class Seen:
    """What the workers of this process spent, of each slot that they opened."""

    waited: ClassVar[list[Span]] = []  # for the search's lock
    locked: ClassVar[list[Span]] = []  # under it
    ending: ClassVar[list[Span]] = []  # from a trial's last epoch until its end is stored
    opening: ClassVar[list[Span]] = []  # from then until the next trial has its slot
    drawing: ClassVar[list[Span]] = []  # the values of a trial, once others may go on
    statements: ClassVar[list[bool]] = []  # of this process, commits too: whether under the lock
    _since = threading.local()

    @classmethod
    def mark(cls) -> Span:
        """What this worker spent since its last mark."""
        spent = span(getattr(cls._since, "at", (0.0, 0.0)))
        cls._since.at = span()
        return spent


class SleepingTrainer:
    """In place of the trainer: its trials last about `seconds`, and store what others store.

    A worker's first trial lasts for any part of that, as if the worker had begun it before: else
    all workers would come back at one time.
    """

    seconds = 0.0
    on_first: Callable[[], object] = staticmethod(lambda: None)  # a worker's first trial trains

    def __init__(self, *_: object, **__: object) -> None:
        self._share = 0.0, 1.0
        self._has_begun = False

    def train(self, writer: TrialWriter, *_: object) -> float:
        Seen.drawing.append(Seen.mark())
        if not self._has_begun:
            self._has_begun = True
            self.on_first()
        seconds, self._share = random.uniform(*self._share) * self.seconds, (0.5, 1.5)
        for epoch in range(1, EPOCHS + 1):
            time.sleep(seconds / EPOCHS)
            with writer.together():
                writer.store_epochs(epoch)
                writer.trial.report(random.random(), epoch)
            writer.trial.should_prune()  # it reads what changed; all trials run to their end
        Seen.mark()
        scores = np.random.default_rng().random(len(STUDIES))
        with writer.together():
            writer.store_estimates(Estimate(0.9, 0.8, 1.0, len(STUDIES), len(STUDIES)), EPOCHS)
            labels = np.zeros(len(STUDIES), np.int64)
            writer.store_scores([StudyScores(STUDIES, STUDIES, labels, scores)])
        writer.store_seconds(seconds)
        return random.random()


class TimedLock:
    """A search's lock that notes how long it was waited for and held."""

    is_held: ClassVar[bool] = False  # the one of part 1

    def __init__(self, lock: locks.Lock) -> None:
        self._lock, self.held = lock, lock.held

    def __enter__(self) -> None:
        began = span()
        self._lock.acquire()
        self._taken, TimedLock.is_held = span(), True
        Seen.waited.append(span(began))

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        TimedLock.is_held = False
        Seen.locked.append(span(self._taken))


def sleep_instead_of_training(seconds: float) -> None:
    """Everything but a worker's data and training stays what it is."""

    def draw(*given: Any) -> Any:
        Seen.opening.append(Seen.mark())
        return draw_recipe(*given)

    draw_recipe = trial.draw_recipe
    SleepingTrainer.seconds = seconds
    vars(worker).update(
        Trainer=SleepingTrainer,
        load_trial_data=lambda *_, **__: None,
        draw_recipe=draw,
    )
    mock.patch.object(
        locks.WorkerLock, "lock_of", lambda *given: TimedLock(LOCK_OF(*given))
    ).start()


def work(job: SearchJob, settings: WorkerSettings, stop: Callable[[], bool]) -> None:
    """Be one worker."""
    Seen.mark()
    worker.run_worker(
        [job], {NAME: 0}, settings, CPU, lambda _: Seen.ending.append(Seen.mark()), stop
    )


def config_of(trials: int) -> SearchConfig:
    small = ("arch=cnn", "pretrained=none", "size=32", "split.folds=0", "budget.confirm.top=0")
    return load_config(NAME, [f"budget.trials={trials}", *small])


def start(url: str, trials: int, prepared: Prepared) -> tuple[SearchJob, WorkerSettings]:
    job = SearchJob(NAME, config_of(trials), prepared)
    settings = WorkerSettings(url, warm_start="none", patience=60)
    start_search(job, settings)
    return job, settings


def fill(url: str, finished: int, workers: Sequence[str]) -> None:
    """Add finished trials, and one that each worker runs, by a few statements."""
    storage = open_storage(url)
    search = SearchRecord(optuna.load_study(study_name=NAME, storage=storage))
    space, recipe, dice = space_of(search.config), asdict(search.config.recipe), random.Random(0)
    key, now = search_id(search.handle), datetime.now()
    rows: dict[str, list[dict[str, Any]]] = {}

    def add(table: str, **row: Any) -> None:
        rows.setdefault(table, []).append(row)

    memory = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [memory.ask(dict(space)).params for _ in range(200)]
    for number in range(finished + len(workers)):
        one, done = number + 1, number < finished
        add(
            "trials",
            trial_id=one,
            number=number,
            study_id=key,
            state=TrialState.COMPLETE if done else TrialState.RUNNING,
            datetime_start=now,
            datetime_complete=now if done else None,
        )
        for name, value in dice.choice(drawn).items():
            add(
                "trial_params",
                trial_id=one,
                param_name=name,
                param_value=space[name].to_internal_repr(value),
                distribution_json=distribution_to_json(space[name]),
            )
        facts = {"slot": number, "worker": workers[number % len(workers)], "epochs": 8}
        for name, fact in facts.items():
            add("trial_user_attributes", trial_id=one, key=name, value_json=json.dumps(fact))
        hidden: dict[str, Any] = {"mura:recipe": recipe}
        if done:
            add("trial_values", trial_id=one, objective=0, value=dice.random(), value_type="FINITE")
            hidden["mura:dev_scores"] = [SCORES]
        else:
            add("trial_heartbeats", trial_id=one)
        for name, fact in hidden.items():
            add("trial_system_attributes", trial_id=one, key=name, value_json=json.dumps(fact))
    with storage.engine.begin() as connection:
        for table, each in rows.items():
            connection.execute(insert(TABLES[table]), each)
        last = "SELECT setval(pg_get_serial_sequence('trials', 'trial_id'), max(trial_id))"
        connection.exec_driver_sql(f"{last} FROM trials")
        connection.exec_driver_sql("ANALYZE")
    storage.engine.dispose()


@contextmanager
def living(url: str, workers: Sequence[str]) -> Iterator[None]:
    """Within it, all of these workers live: one session holds all their locks."""
    plain = url.replace("+psycopg", "")
    with psycopg.connect(plain, autocommit=True) as connection:
        for name in workers:
            key = locks.advisory_key(locks.alive_name(name))
            connection.execute("SELECT pg_advisory_lock(%s)", [key])
        yield


def big_search(server: postgres.Server, prepared: Prepared, finished: int, running: int) -> None:
    """Part 1."""
    url, workers = server.url(), [f"{number}-0000abcd" for number in range(running)]
    job, settings = start(url, finished + running + 12, prepared)
    fill(url, finished, workers)
    print(f"\n{finished:,} finished and {running:,} running trials; one worker opens 12 slots")
    sleep_instead_of_training(0.0)

    def count(*_: object) -> None:
        Seen.statements.append(TimedLock.is_held)

    for name in ("before_cursor_execute", "commit"):
        event.listen(Engine, name, count)
    with living(url, workers):
        work(job, settings, lambda: len(Seen.drawing) == 12)
    for name in ("before_cursor_execute", "commit"):
        event.remove(Engine, name, count)
    print(f"{'milliseconds: median, at most':42} by the clock     of the worker's CPU")
    for what, spans in (
        ("read the search for the first time", Seen.opening[:1]),
        ("open a slot, all told", Seen.opening[1:]),
        ("  of it under the search's lock", Seen.locked[2:]),
        ("draw the trial's values, not locked", Seen.drawing[1:]),
        ("end a trial, not locked", Seen.ending[1:]),
    ):
        cells = [
            f"{statistics.median(each) * 1e3:7.0f} {max(each) * 1e3:7.0f}"
            for each in zip(*spans, strict=True)
        ]
        print(f"  {what:40} {'       '.join(cells)}")
    a_slot = len(Seen.statements) / len(Seen.drawing)
    locked = sum(Seen.statements) / len(Seen.locked)
    print(f"  statements of a trial of {EPOCHS} epochs: {a_slot:.0f}, {locked:.0f} under the lock")


def crowd(
    server: postgres.Server,
    prepared: Prepared,
    number: int,
    rate: float,
    seconds: float,
    settled: float = SETTLED,
) -> None:
    """A line of part 2.

    Args:
        rate: slots a second that all workers ask for.
        seconds: for which slots are counted.
        settled: seconds after the last worker's first slot, before slots are counted.
    """
    url = server.url()
    job, settings = start(url, 10_000, prepared)
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    begun, counting, over = fork.Semaphore(0), fork.Event(), fork.Event()
    shares = [min(THREADS, number - before) for before in range(0, number, THREADS)]
    processes = [
        fork.Process(
            target=_work_in_threads,
            args=(theirs, job, settings, (begun, counting, over), share),
            kwargs={"seconds": number / rate if rate else 0.0},
        )
        for share in shares
    ]
    started = time.monotonic()
    for process in processes:
        process.start()
    for _ in range(number):
        begun.acquire()
    all_begun = time.monotonic() - started
    time.sleep(settled if rate else 0.0)
    counting.set()
    peak, before, began = 0, cpu_seconds(server), time.monotonic()
    plain = url.replace("+psycopg", "")
    with psycopg.connect(plain, autocommit=True) as connection:
        while time.monotonic() - began < seconds:
            time.sleep(1)
            found = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            ).fetchone()
            peak = max(peak, found[0] - 1 if found else 0)
    over.set()
    took = time.monotonic() - began
    answers = [ours.recv() for _ in processes]
    for process in processes:
        process.join()
    spans = [np.concatenate(each) * 1e3 for each in zip(*(a[1] for a in answers), strict=True)]
    opening, waited, locked, drawing, ending = (each[:, 0] for each in spans)
    slots, asked = len(drawing), f"{rate:.0f}" if rate else "most"
    clients = sum(seconds for seconds, _ in answers)
    database = cpu_seconds(server) - before
    print(
        f"{number:7}{asked:>5}{slots:6}{slots / took:6.2f}  {_two(opening)}"
        f"{np.median(spans[0][:, 1]):5.0f} {_two(waited)} {_two(locked)}"
        f"{np.median(drawing):6.0f}{np.median(ending):6.0f}{peak:6}"
        f"{clients / slots * 1e3:6.0f}{database / slots * 1e3:5.0f}"
        f"{(clients + database) / took:6.2f}{all_begun:6.0f}"
    )


def _two(milliseconds: Any) -> str:
    return f"{np.median(milliseconds):5.0f}{np.quantile(milliseconds, 0.95):6.0f}"


def _work_in_threads(
    pipe: Any, job: SearchJob, settings: WorkerSettings, marks: Any, number: int, seconds: float
) -> None:
    begun, counting, over = marks
    SleepingTrainer.on_first = staticmethod(begun.release)
    sleep_instead_of_training(seconds)
    for _ in range(number):
        threading.Thread(target=work, args=(job, settings, over.is_set), daemon=True).start()
    counting.wait()
    seen = (Seen.opening, Seen.waited, Seen.locked, Seen.drawing, Seen.ending)
    for each in seen:
        each.clear()  # part 1 left some before the fork; a worker's start is another matter
    cpu = time.process_time()
    over.wait()
    pipe.send((time.process_time() - cpu, [np.array(each).reshape(-1, 2) for each in seen]))
    os._exit(0)  # connections that were opened before the fork are the parent's to close


def cpu_seconds(server: postgres.Server) -> float:
    """Of the server and of all its processes, those that ended too."""
    main = (server.folder / "data" / "postmaster.pid").read_text().split()[0]
    ticks = sum(map(int, _fields(Path(f"/proc/{main}/stat"))[11:15]))
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = _fields(stat)
        except OSError:
            continue
        if fields[1] == main:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _fields(stat: Path) -> list[str]:
    """Of proc(5), from the third on."""
    return stat.read_text().rpartition(")")[2].split()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--skip", action="store_true", help="no part 1")
    parser.add_argument("--crowd", type=float, nargs=2, help="workers and slots a second asked for")
    given = opened(parser)
    if (programs := postgres.binaries()) is None:
        leave_out("all of it: PostgreSQL is not here (Debian: apt-get install postgresql)")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with (
        tempfile.TemporaryDirectory() as folder,
        postgres.server(programs, "max_connections=1600", "shared_buffers=512MB") as server,
    ):
        write_phantoms(Path(folder) / "phantoms", areas=(NAME,), patients=40, size=64)
        dataset = open_dataset(Path(folder) / "phantoms")
        prepared = prepare(dataset, NAME, 32, config_of(2).split, Path(folder) / "cache")
        if not given.skip:
            big_search(server, prepared, *((200, 20) if given.quick else (10_000, 1_000)))
        crowds = [given.crowd] if given.crowd else CROWDS
        print(TABLE)
        if given.quick:
            for number, rate in ((1, 4.0), (2, MOST)):
                crowd(server, prepared, number, rate, seconds=2, settled=0)
            return
        for number, rate in crowds:
            crowd(server, prepared, int(number), rate, seconds=20 + number / 10)


TABLE = """
20 s after all have begun; a trial sleeps for workers / slots asked for, give or take half of it.
"own": CPU of the worker itself, of the time to open a slot. "CPU": of all workers (w.) and of the
database (db.), a slot. "cores": what both used of the machine's. "start": seconds until the last
worker had its first slot. All others are milliseconds: a median, and a 95 % quantile beside it.
        asked  had   had  to open one  CPU   waits for       holds draws  ends  con-   CPU   CPU
workers   /s slots    /s     by clock  own    the lock    the lock             nect.    w.  db. """
TABLE += "cores start"  # a row has 110 characters


if __name__ == "__main__":
    main()
