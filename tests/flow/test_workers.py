"""Searches that are started together, killed, stopped and resumed end exact, and leave nothing.

Each case is as small as it can be and still fail; `make chaos` is the same at full size.
"""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chaos
import postgres as postgresql
import pytest
import sqlalchemy
import torch
from chaos import LEAVES_WITHIN, STUDY, amiss, opened, small, trials_of
from commands import Forked, hit, unblock_ctrl_c, until
from conftest import TINY, Ran
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool
from untrained import CPU

from mura_tune.data.prepare import Prepared, open_dataset, prepare
from mura_tune.database.locks import lock_of
from mura_tune.database.outages import WaitingStorage
from mura_tune.database.storage import open_storage
from mura_tune.database.urls import url_of
from mura_tune.search import search, worker
from mura_tune.search import trial as trial_module
from mura_tune.search.pool import PRELOAD, StopRequest, _serve_forks
from mura_tune.search.search import SearchJob, WorkerSettings
from mura_tune.search.trial_record import DONE
from mura_tune.training.fit import fit

SIMULTANEOUS = 4
# Added to chaos.SETS: one trial is confirmed, or none.
CONFIRM = ["--set=budget.confirm.top=1", "--set=budget.confirm.seeds=1"]
QUICK = ["--set=budget.confirm.top=0"]
SLOW = 120.0  # seconds that anything else may take on a machine with other work


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def prepared(phantoms: Path, cache: Path) -> Prepared:
    return prepare(open_dataset(phantoms), STUDY, 32, small().split, cache)


@pytest.fixture
def runs(prepared: Prepared, cache: Path, tmp_path: Path) -> Path:
    """A folder of runs, where the pixels are decoded."""
    shutil.copytree(cache, tmp_path / "cache")
    return tmp_path


@pytest.fixture
def tune(phantoms: Path, runs: Path, tmp_path: Path) -> Iterator[Callable[..., Forked]]:
    """Start a small search: `tune(url, total, workers, …)`. What is left of it is killed."""
    started: list[Forked] = []

    def call(url: str, total: int, workers: int, *more: str, grace: int = 60) -> Forked:
        args = chaos.arguments(url, phantoms, runs, total, workers, grace)
        started.append(Forked([*args, *QUICK, *more], tmp_path / f"log-{len(started)}"))
        return started[-1]

    yield call
    for command in started:
        hit(command.pid, signal.SIGCONT)
        command.end()


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return url_of(str(tmp_path / "studies.db"))


@pytest.fixture
def close_storages(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Closes every storage that a worker has opened in this process, when called and at last."""
    opens: list[RDBStorage] = []

    def tracked(url: str, **options: Any) -> RDBStorage:
        opens.append(open_storage(url, **options))
        return opens[-1]

    def close() -> None:
        for one in opens:
            one.remove_session()
            one.engine.dispose()
        opens.clear()

    monkeypatch.setattr(worker, "open_storage", tracked)
    yield close
    close()


def trials(url: str) -> list[FrozenTrial]:
    with opened(url, create=True) as storage:
        return [record.frozen for record in trials_of(storage, STUDY)]


def await_epoch(command: Forked, url: str) -> None:
    """Wait until a trial is past its first epoch."""

    def past(storage: RDBStorage) -> bool:
        assert command.code() is None, command.log.read_text()
        running = [one.frozen for one in trials_of(storage, STUDY).running]
        return any("epochs" in trial.user_attrs for trial in running)

    with opened(url, create=True) as storage:
        until(lambda: past(storage), SLOW)


def lost(url: str) -> list[str]:
    """Why trials were cut off."""
    failed = [t for t in trials(url) if t.state == TrialState.FAIL]
    return [t.user_attrs.get("reason", "silent") for t in failed]


def test_kills_lose_nothing_and_repeat_nothing(
    storage: str, phantoms: Path, runs: Path, tmp_path: Path
) -> None:
    args = [*chaos.arguments(storage, phantoms, runs, trials=4, workers=2), *CONFIRM]
    found = chaos.storm(Forked, args, storage, tmp_path / "log", trials=4, kills=3, seed=0)
    assert found.wrong == []
    assert (found.workers_killed, found.commands_killed) == (2, 1)


def test_first_starts_at_one_moment_make_one_study(storage: str, prepared: Prepared) -> None:
    found = chaos.crowd(SIMULTANEOUS, SearchJob(STUDY, small(), prepared), [storage])
    assert found == {storage: []}


def test_four_workers_and_a_dashboard_that_polls_do_not_lock_each_other_out(
    tune: Callable[..., Forked], sqlite: str, tmp_path: Path
) -> None:
    command = tune(sqlite, 8, 4)
    await_epoch(command, sqlite)
    board = Forked(["dashboard", f"--storage={sqlite}", "--port=0"], tmp_path / "board")
    try:
        until(lambda: "http" in board.log.read_text(), SLOW)
        address = board.log.read_text().split()[-1]
        polls = 0
        while command.code() is None:
            for page in ("dashboard", "api/studies", "api/studies/1?after=0"):
                with urllib.request.urlopen(address + page, timeout=SLOW) as answer:
                    assert answer.status == 200
                    polls += len(answer.read()) > 0
            time.sleep(0.1)  # a page asks every few seconds: the workers need the processor
    finally:
        board.end()
    assert command.wait(SLOW) == 0
    assert polls > 3
    assert "locked" not in command.log.read_text() + board.log.read_text()
    assert amiss(sqlite, 8) == []
    assert lost(sqlite) == []


def _once(command: Forked) -> None:
    command.interrupt()
    command.wait(SLOW)


def _twice(command: Forked) -> None:
    command.interrupt()
    until(lambda: "finishing what runs" in command.log.read_text(), LEAVES_WITHIN)
    command.interrupt()


def _politely(command: Forked) -> None:
    hit(command.pid, signal.SIGTERM)


def _parent_only(command: Forked) -> None:
    hit(command.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("stop", "code", "cut"),
    [(_once, 130, 0), (_twice, 130, 1), (_politely, 130, 1), (_parent_only, -9, 1)],
)
def test_however_it_is_stopped_it_leaves_at_once_and_goes_on_exactly(
    tune: Callable[..., Forked], sqlite: str, stop: Callable[[Forked], None], code: int, cut: int
) -> None:
    first = tune(sqlite, 3, 2, "--set=finetune.epochs=8")
    await_epoch(first, sqlite)
    stop(first)
    until(lambda: first.left() == [], LEAVES_WITHIN)
    assert first.wait(1) == code
    said = first.log.read_text()
    assert "Error" not in said
    next_call = tune(sqlite, 3, 1, "--set=finetune.epochs=8")
    assert next_call.wait(SLOW) == 0, next_call.log.read_text()
    assert next_call.left() == []
    assert amiss(sqlite, 3) == []
    assert min(len(lost(sqlite)), 1) == cut  # once finishes what runs; all else runs it again


def test_nobody_is_hired_after_ctrl_c(tune: Callable[..., Forked], sqlite: str) -> None:
    command = tune(sqlite, 6, 2, "--set=finetune.epochs=8")
    await_epoch(command, sqlite)
    command.interrupt()
    assert hit(command.workers()[0], signal.SIGKILL)
    assert command.wait(SLOW) == 130
    assert "takes its place" not in command.log.read_text()
    assert sum(t.state in DONE for t in trials(sqlite)) < 6


def test_ctrl_c_while_a_trials_end_is_stored_is_ctrl_c(
    prepared: Prepared, sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = WaitingStorage.set_trial_state_values

    def interrupted(
        storage: WaitingStorage, trial_id: int, state: TrialState, values: Any = None
    ) -> bool:
        if state == TrialState.COMPLETE:
            raise KeyboardInterrupt
        return write(storage, trial_id, state, values)

    job, settings = SearchJob(STUDY, small(), prepared), WorkerSettings(sqlite, warm_start="none")
    since = search.start_search(job, settings)
    monkeypatch.setattr(WaitingStorage, "set_trial_state_values", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker.run_worker([job], since, settings, CPU, lambda event: None, lambda: False)
    monkeypatch.undo()
    worker.run_worker([job], since, settings, CPU, lambda event: None, lambda: False)
    assert amiss(sqlite, 2) == []


def _crew_of_one(folder: Path) -> None:
    """A command in a session of its own, up to its first worker; 0: it started after Ctrl-C."""
    os.setsid()
    unblock_ctrl_c()
    os.environ["PYTHONPATH"] = str(folder)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["slow_to_import"])
    with StopRequest(print) as stop:
        _serve_forks()
        process = context.Process(target=time.sleep, args=(0,))
        process.start()
        process.join()
    sys.exit(0 if (process.exitcode, stop.requested) == (0, True) else 3)


def test_ctrl_c_while_workers_still_import_is_no_crash(tmp_path: Path) -> None:
    """What workers come from survives a Ctrl-C that it gets, as all of a terminal's, on its way."""
    (tmp_path / "slow_to_import.py").write_text(
        "import pathlib, time\n"
        "pathlib.Path(__file__).with_name('importing').touch()\n"
        "time.sleep(2)\n"
    )
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOAD, "mura_tune.dashboard.updates"])
    command = context.Process(target=_crew_of_one, args=(tmp_path,))
    command.start()
    assert command.pid
    try:
        until((tmp_path / "importing").exists, SLOW)
        os.killpg(command.pid, signal.SIGINT)
        command.join(SLOW)
        assert command.exitcode == 0
    finally:
        command.kill()
        command.join()


def test_a_command_that_slept_too_long_leaves_its_trial_to_another(
    tune: Callable[..., Forked], storage: str
) -> None:
    sleeper = tune(storage, 4, 1, grace=2)
    await_epoch(sleeper, storage)
    hit(sleeper.pid, signal.SIGSTOP)
    while not _free(storage):
        hit(sleeper.pid, signal.SIGCONT)  # with a lock, it would hold up the other
        time.sleep(0.01)
        assert sleeper.code() is None
        hit(sleeper.pid, signal.SIGSTOP)
    other = tune(storage, 4, 1, grace=2)
    until(lambda: "silent" in lost(storage), SLOW, other.log.read_text)
    hit(sleeper.pid, signal.SIGCONT)
    assert sleeper.wait(SLOW) == 0, sleeper.log.read_text()
    assert other.wait(SLOW) == 0, other.log.read_text()
    assert amiss(storage, 4) == []


def _free(url: str) -> bool:
    """Whether nobody holds the study's lock, or is in the middle of a write."""
    lock = lock_of(url, STUDY)
    if not lock.attempt():
        return False
    lock.release()
    open_transactions = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND starts_with(state, 'idle in transaction')"
    )
    engine = sqlalchemy.create_engine(url.replace("timeout=60", "timeout=0"), poolclass=NullPool)
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            return connection.exec_driver_sql(open_transactions).scalar() == 0
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        except OperationalError:
            return False
        return True


@pytest.mark.parametrize("moment", ["epochs", "seconds"])
def test_a_trial_that_was_given_away_ends_quietly(
    prepared: Prepared, sqlite: str, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """While it trains, and just before its end is stored: `seconds` is the last of its values."""
    write = WaitingStorage.store_rows
    given: list[int] = []

    def late(storage: WaitingStorage, trial_id: int, rows: FrozenTrial) -> None:
        write(storage, trial_id, rows)
        if moment in rows.user_attrs and not given:
            given.append(trial_id)
            storage.set_trial_user_attr(trial_id, "reason", "silent")
            storage.set_trial_state_values(trial_id, TrialState.FAIL)

    monkeypatch.setattr(WaitingStorage, "store_rows", late)
    job, settings = SearchJob(STUDY, small(), prepared), WorkerSettings(sqlite, warm_start="none")
    since = search.start_search(job, settings)
    worker.run_worker([job], since, settings, CPU, lambda event: None, lambda: False)
    assert lost(sqlite) == ["silent"]
    assert amiss(sqlite, 2) == []


def test_a_stopped_worker_holds_nobody_up_for_ever(
    tune: Callable[..., Forked], sqlite: str, tmp_path: Path
) -> None:
    """Not even while it holds the study's lock; and nothing is left of it at the end."""
    command = tune(sqlite, 6, 2, grace=2)
    lock = tmp_path / "studies.locks" / f"{STUDY}.lock"
    until(lambda: bool(lock.exists() and command.workers()), SLOW)
    stopped = 0
    while not stopped:
        assert command.code() is None, "it ended before a worker was met with the lock"
        for pid in set(_holders(lock)) - {command.pid}:
            hit(pid, signal.SIGSTOP)
            if pid in _holders(lock):
                stopped = pid
            else:
                hit(pid, signal.SIGCONT)
        time.sleep(0.001)
    assert command.wait(SLOW) == 0
    assert command.left() == []
    assert "(SIGKILL); another takes its place" in command.log.read_text()
    assert amiss(sqlite, 6) == []


def _holders(lock: Path) -> list[int]:
    """Processes that hold a lock on a file (proc(5), /proc/locks; `->` marks those that wait)."""
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    inode = str(lock.stat().st_ino)
    return [
        int(words[4]) for words in lines if words[1] == "FLOCK" and words[5].split(":")[-1] == inode
    ]


def test_another_number_of_workers_goes_on_to_the_exact_total(
    tune: Callable[..., Forked], sqlite: str
) -> None:
    for total, workers in ((2, 2), (5, 3)):
        assert tune(sqlite, total, workers).wait(SLOW) == 0
    assert amiss(sqlite, 5) == []
    assert len(trials(sqlite)) == 5
    assert len({tuple(t.params.values()) for t in trials(sqlite)}) == 5


def test_three_failures_are_told_and_the_search_goes_on(
    run: Callable[..., Ran], phantoms: Path, monkeypatch: pytest.MonkeyPatch, sqlite: str
) -> None:
    calls = iter(range(100))

    def unlucky(net: torch.nn.Module, *args: Any, **options: Any) -> Any:
        number = next(calls)
        if number == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        if number == 3:
            with torch.no_grad():
                next(net.parameters()).fill_(float("nan"))
        if number == 5:
            raise RuntimeError("an odd thing")
        return fit(net, *args, **options)

    monkeypatch.setattr(trial_module, "fit", unlucky)
    options = (f"--data={phantoms}", f"--storage={sqlite}", "--trials=5", "--no-artifacts", *TINY)
    ended = run("tune", STUDY, *options)
    assert ended.code == 0, ended.err
    ran = trials(sqlite)
    failed = {t.number: t.user_attrs["reason"] for t in ran if t.state == TrialState.FAIL}
    assert list(failed) == [1, 3, 5]
    assert failed[1] == "out of memory"
    assert failed[3].startswith("diverged: the loss is nan at step")
    assert failed[5] == "RuntimeError: an odd thing"
    assert all(reason in ended.err for reason in failed.values())
    assert sorted(t.user_attrs["slot"] for t in ran if t.number not in failed) == list(range(5))
    found = json.loads(run("best", STUDY, f"--storage={sqlite}", "--json").out)
    scores = {t.number: t.values[0] for t in ran if t.state == TrialState.COMPLETE}
    assert found["best"]["score"] == max(scores.values()) == scores[found["best"]["number"]]
    assert found["counts"]["failed"] == 3


def test_a_full_disk_is_one_line_and_the_same_line_goes_on(
    run: Callable[..., Ran], phantoms: Path, monkeypatch: pytest.MonkeyPatch, sqlite: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/runs/features/a")

    options = (f"--data={phantoms}", f"--storage={sqlite}", "--trials=1", "--no-artifacts", *TINY)
    line = ("tune", STUDY, *options)
    monkeypatch.setattr(trial_module, "fit", full)
    ended = run(*line)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.splitlines()[-1] == (
        "mura: /runs/features/a: no space left on the device; make room, and the same command "
        "goes on"
    )
    assert "Traceback" not in ended.err
    monkeypatch.undo()
    assert run(*line).code == 0
    assert [t.state.name for t in trials(sqlite)] == ["FAIL", "COMPLETE"]
    assert amiss(sqlite, 1) == []


def test_connections_that_are_cut_while_trials_run_change_nothing(
    prepared: Prepared,
    postgres: postgresql.Server,
    capfd: pytest.CaptureFixture[str],
    close_storages: Callable[[], None],
) -> None:
    """Of the baseline, the last of the search, and a confirmation: each has its own verdict."""
    url, cut = postgres.url(), 0

    def tell(event: search.SearchEvent) -> None:
        nonlocal cut
        if isinstance(event, search.TrialProgress):
            cut += 1
            postgres.disconnect(url)

    study = small("budget.trials=2", "budget.confirm.top=1", "budget.confirm.seeds=1")
    job, settings = SearchJob(STUDY, study, prepared), WorkerSettings(url, warm_start="none")
    since = search.start_search(job, settings)
    worker.run_worker([job], since, settings, CPU, tell, lambda: False)
    assert cut >= 3
    assert amiss(url, 2) == []
    assert [t.state.name for t in trials(url)] == ["COMPLETE"] * 2
    assert trials(url)[0].user_attrs["role"] == "baseline"
    close_storages()
    assert "Traceback" not in capfd.readouterr().err


class _Crash(BaseException):
    """The process is gone: nothing is written after it."""


def test_a_crash_at_any_write_loses_nothing_and_repeats_nothing(
    sqlite: str,
    prepared: Prepared,
    monkeypatch: pytest.MonkeyPatch,
    close_storages: Callable[[], None],
) -> None:
    """The first process crashes before its first write, the second before its second, …"""
    writes, crash_at = 0, 1

    def fragile(write: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            nonlocal writes
            writes += 1
            if writes >= crash_at:
                raise _Crash
            return write(*args, **options)

        return counted

    for name in vars(WaitingStorage):
        if name.startswith(("create_new", "set_", "add_trial", "store_")):
            monkeypatch.setattr(WaitingStorage, name, fragile(getattr(WaitingStorage, name)))
    study = small("budget.trials=2", "budget.confirm.top=1", "budget.confirm.seeds=1")
    job, settings = SearchJob(STUDY, study, prepared), WorkerSettings(sqlite, warm_start="none")
    ended = False
    while not ended:
        writes = 0
        try:
            since = search.start_search(job, settings)
            worker.run_worker([job], since, settings, CPU, lambda event: None, lambda: False)
            ended = True
        except _Crash:
            crash_at += 1
        close_storages()
    assert crash_at > 15  # a trial takes about so many writes
    monkeypatch.undo()
    assert amiss(sqlite, 2) == []
