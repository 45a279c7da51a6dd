"""Kill workers and whole searches at random moments, and see what is left: `make chaos`.

Four workers search 24 trials and confirm the best, while 30 times one of them, or the command that
started them, gets `kill -9`. A worker is replaced by its command; a command is called again.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
import postgres
from commands import Command, Launch, Shell, command_line, hit, start_together
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from mura_tune import config
from mura_tune.data.prepare import open_dataset, prepare
from mura_tune.database.storage import open_storage
from mura_tune.database.urls import url_of
from mura_tune.phantoms.dataset import write_phantoms
from mura_tune.search.results import count_outcomes
from mura_tune.search.search import SearchJob
from mura_tune.search.search_record import SearchRecord, Trials
from mura_tune.search.slots import confirm_slots
from mura_tune.search.trial_record import TrialRecord
from mura_tune.text import CONFIRM_SUFFIX

STUDY = "XR_WRIST"
KINDS = ("SQLite", "PostgreSQL")
# A trial of a second or so: short enough for 24 of them, long enough to be hit.
SETS = [
    f"--set={item}"
    for item in (
        "arch=cnn",
        "size=32",
        "pretrained=none",
        "finetune.epochs=3",
        "batch=16",
        "split.dev=0.3",
        "split.seed=1",
        "split.folds=0",
        "budget.pruner.startup=4",
    )
]
GRACE = 5  # seconds
LULL = 0.3  # seconds from a trial's end to the next kill, on average
LAST = 0.8  # of all trials have ended when the last kill is due
PARENTS = 10  # one kill in ten meets the command
LEAVES_WITHIN = 10.0  # seconds, whatever a search has met
PATIENCE = 600.0  # seconds that a search may take from one kill to the next, or to its end


@dataclass(frozen=True)
class Survived:
    """What a study looked like after its storm; nothing is `wrong` with it, we hope."""

    workers_killed: int
    commands_killed: int
    seconds: float
    search: dict[str, int]
    confirmation: dict[str, int]
    wrong: list[str]


def storm(
    launch: Launch, args: Sequence[str], url: str, log: Path, *, trials: int, kills: int, seed: int
) -> Survived:
    """Run `mura ARGS` on `url` until it ends by itself, through `kills` kills.

    The kills are spread over the whole study, the confirmation too: each is due when a share of
    the trials has ended, and comes at a random moment after that.
    """
    began, dice = time.monotonic(), random.Random(seed)
    parents = set(dice.sample(range(kills), max(1, kills // PARENTS)))
    killed: Counter[str] = Counter()
    step = LAST * trials / kills
    command = launch(args, log)
    try:
        with opened(url, create=True) as storage:
            for number in range(kills):
                _wait(command, storage, number * step)
                if _ended(storage) < (number + 1) * step:  # else the kills are behind
                    time.sleep(dice.uniform(0, 2 * LULL))
                if number in parents:
                    killed["command"] += hit(command.pid, signal.SIGKILL)
                    command.wait(10)
                    command = launch(args, log)
                else:
                    killed["worker"] += _kill_one(command, dice)
        code = command.wait(PATIENCE)
        began_to_leave = time.monotonic()
        while (left := command.left()) and time.monotonic() < began_to_leave + LEAVES_WITHIN:
            time.sleep(0.1)
    finally:
        command.end()
    wrong = [f"exit code {code}: {log.read_text()[-500:]}"] if code else []
    wrong += [f"left behind: {', '.join(map(command_line, left))}"] if left else []
    wrong += [f"{sum(killed.values())} of {kills} kills landed"] if killed.total() != kills else []
    with opened(url) as storage:
        search, again = (trials_of(storage, name) for name in (STUDY, STUDY + CONFIRM_SUFFIX))
    return Survived(
        killed["worker"],
        killed["command"],
        time.monotonic() - began,
        count_outcomes(search),
        count_outcomes(again),
        wrong + amiss(url, trials),
    )


def amiss(url: str, trials: int, name: str = STUDY) -> list[str]:
    """What is wrong with a study that should be at its end: a line each."""
    with opened(url) as storage:
        record = SearchRecord(optuna.load_study(study_name=name, storage=storage))
        stored, identity = record.config, record.identity
        search, again = (trials_of(storage, one) for one in (name, name + CONFIRM_SUFFIX))
    wrong = _unfilled(name, search, list(range(trials)))
    keys = [slot.key for slot in confirm_slots(stored, search, identity)]
    return wrong + _unfilled(name + CONFIRM_SUFFIX, again, keys)


@contextmanager
def opened(url: str, *, create: bool = False) -> Iterator[RDBStorage]:
    """A storage to look into; no connection of it is left open."""
    storage = open_storage(url, create=create)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def trials_of(storage: RDBStorage, name: str) -> Trials:
    """Of a study that may not be there yet."""
    try:
        trials = storage.get_all_trials(storage.get_study_id_from_name(name), deepcopy=False)
    except KeyError:
        return Trials()
    return Trials(trials, name)


def _unfilled(name: str, trials: Sequence[TrialRecord], keys: Sequence[int | str]) -> list[str]:
    """Whether each slot was filled once, nothing still runs, and every trial says what it was."""
    done = [t for t in trials if t.is_done]
    filled = Counter(t.slot for t in done)
    wrong = [] if len(done) == len(keys) else [f"{len(done)} done instead of {len(keys)}"]
    wrong += [f"slot {key} was filled {filled[key]} times" for key in keys if filled[key] != 1]
    wrong += [f"slot {key} is no slot" for key in filled if key not in keys]
    for trial in trials:
        state = trial.state
        if not state.is_finished():
            wrong.append(f"trial {trial.number} is {state.name}")
        elif trial.failed_by_itself:
            wrong.append(f"trial {trial.number} failed: {trial.reason}")
        elif trial.is_done and not trial.has_recipe:
            wrong.append(f"trial {trial.number} has no recipe")
        elif state == TrialState.COMPLETE and not (
            trial.has_dev and trial.dev.low <= trial.score <= trial.dev.high
        ):
            wrong.append(f"trial {trial.number} has no interval")
    return [f"{name}: {what}" for what in wrong]


def _wait(command: Command, storage: RDBStorage, due: float) -> None:
    """Until so many trials have ended and there is a worker to hit, or nothing is left to hit."""
    deadline = time.monotonic() + PATIENCE
    while command.code() is None and time.monotonic() < deadline:
        if command.workers() and _ended(storage) >= due:
            return
        time.sleep(0.2)


def _ended(storage: RDBStorage) -> int:
    names = (STUDY, STUDY + CONFIRM_SUFFIX)
    return sum(t.is_done for name in names for t in trials_of(storage, name))


def _kill_one(command: Command, dice: random.Random) -> int:
    """Kill a worker, whichever: 1 if there was one before the command ended."""
    while command.code() is None:
        workers = sorted(command.workers())
        if workers and hit(dice.choice(workers), signal.SIGKILL):
            return 1
        time.sleep(0.05)
    return 0


def crowd(number: int, job: SearchJob, urls: Sequence[str]) -> dict[str, list[str]]:
    """What is wrong after so many processes opened each new database at one moment and searched."""
    codes = start_together(number, job, urls, PATIENCE)
    wrong = {}
    for url in urls:
        with opened(url) as storage:
            names = {study.study_name for study in storage.get_all_studies()}
            number_of_trials = len(trials_of(storage, job.name))
        wrong[url] = [f"studies {names}"] if names != {job.name} else []
        if number_of_trials != job.config.budget.trials:
            wrong[url].append(f"{number_of_trials} trials")
        wrong[url] += [f"exit code {code}" for code in codes if code != 0]
        wrong[url] += amiss(url, job.config.budget.trials, job.name)
    return wrong


def small(*sets: str) -> config.SearchConfig:
    """A search of two trials that take a fraction of a second."""
    return config.load_config(
        STUDY,
        [
            "arch=cnn",
            "size=32",
            "pretrained=none",
            "head.epochs=0",
            "finetune.epochs=1",
            "batch=16",
            "split.dev=0.3",
            "split.seed=1",
            "split.folds=0",
            "budget.trials=2",
            "budget.confirm.top=0",
            *sets,
        ],
    )


def arguments(
    url: str, data: Path, runs: Path, trials: int, workers: int, grace: int = GRACE
) -> list[str]:
    """Of `mura`, for a search that a storm may hit."""
    return [
        "tune",
        STUDY,
        f"--data={data}",
        f"--runs={runs}",
        f"--storage={url}",
        f"--trials={trials}",
        f"--workers={workers}",
        f"--grace={grace}",
        "--no-artifacts",
        *SETS,
    ]


def main() -> None:
    """Print a line a storm and a line a crowd; exit code 1 if one left something wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    sizes = {"kills": 30, "seeds": 3, "trials": 24, "workers": 4, "crowds": 5, "starts": 16}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    if (programs := postgres.binaries()) is None:
        sys.exit("no PostgreSQL on this machine (Debian: apt-get install postgresql)")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    wrong: list[str] = []
    try:
        write_phantoms(folder / "phantoms", areas=(STUDY,), patients=40, size=96)
        with postgres.server(programs) as server:
            print(
                f"{asked.kills} times kill -9, of workers or of the command that started them, "
                f"while {asked.workers}\nworkers search {asked.trials} trials and confirm the "
                "best; what was cut off was run again\n"
            )
            _line("storage", "seed", "workers", "commands", "seconds", "trials", "confirmation")
            for seed, kind in _each(asked.seeds):
                runs, url = _place(folder, f"storm-{kind}-{seed}", kind, server)
                args = arguments(url, folder / "phantoms", runs, asked.trials, asked.workers)
                found = storm(
                    Shell,
                    args,
                    url,
                    runs / "log",
                    trials=asked.trials,
                    kills=asked.kills,
                    seed=seed,
                )
                _line(
                    kind,
                    seed,
                    found.workers_killed,
                    found.commands_killed,
                    f"{found.seconds:.0f}",
                    _words(found.search),
                    _words(found.confirmation),
                    *found.wrong,
                )
                wrong += found.wrong
            dataset = open_dataset(folder / "phantoms")
            prepared = prepare(dataset, STUDY, 32, small().split, folder / "cache")
            job = SearchJob(STUDY, small(), prepared)
            print(
                f"\n{asked.starts} processes at one moment on a database that none has seen, "
                f"{asked.crowds} times\n"
            )
            for kind in KINDS:
                places = [
                    _place(folder, f"crowd-{kind}-{n}", kind, server) for n in range(asked.crowds)
                ]
                crowded = crowd(asked.starts, job, [url for _, url in places])
                told = [line for lines in crowded.values() for line in lines]
                print(f"{kind:10}  " + ("; ".join(told) or "each time one study, two trials"))
                wrong += told
    finally:
        shutil.rmtree(folder)
    print(
        "\nSomething is wrong."
        if wrong
        else "\nNothing is wrong: each count is exact, no two trials share a slot, none is "
        "running, each has\nits recipe and each finished one its interval, the "
        "confirmation is complete, no process is left."
    )
    sys.exit(bool(wrong))


def _each(number: int) -> list[tuple[int, str]]:
    return [(n, kind) for n in range(number) for kind in KINDS]


def _place(folder: Path, name: str, kind: str, server: postgres.Server) -> tuple[Path, str]:
    """A folder and a database of its own."""
    (folder / name).mkdir()
    return folder / name, url_of(str(folder / name / "s.db")) if kind == "SQLite" else server.url()


def _line(
    kind: str, seed: object, workers: object, commands: object, seconds: str, *rest: str
) -> None:
    print(
        f"{kind:10}  {seed!s:4}  {workers!s:7}  {commands!s:8}  {seconds:>7}  " + "; ".join(rest),
        flush=True,
    )


def _words(ended: dict[str, int]) -> str:
    return ", ".join(f"{number} {word}" for word, number in ended.items() if number)


if __name__ == "__main__":
    main()
