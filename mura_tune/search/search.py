"""The search: exactly N trials a study and their confirmation, however often it is stopped.

A trial fills a slot. What slots there are says `plans`, which one is next `slots`; both are asked
under the study's lock, which a trial lets go once its values are drawn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from mura_tune.config import Budget, SearchConfig
from mura_tune.data.prepare import Prepared
from mura_tune.database.locks import Alive, Lock, lock_of
from mura_tune.database.outages import PATIENCE
from mura_tune.database.storage import GRACE, open_storage
from mura_tune.errors import MuraError
from mura_tune.names import CONFIRM_SUFFIX, check_search_name
from mura_tune.search import space as spaces
from mura_tune.search.comparable import as_begun, same_or_refuse
from mura_tune.search.preflight import check_networks
from mura_tune.search.records import SUPERSEDED, SearchRecord, TrialRecord, TrialWriter
from mura_tune.search.results import load_confirmation
from mura_tune.search.slots import (
    Plan,
    Slot,
    WarmStart,
    confirm_slots,
    next_slot,
    search_slots,
    searched,
    standing,
    untried,
)
from mura_tune.search.space import Rounded
from mura_tune.search.trial import Keep, Material, Objective, Progress, is_of_surroundings, material
from mura_tune.search.warm_start import AUTO, warm_starts
from mura_tune.training.feature_cache import FeatureStore
from mura_tune.training.feeds import FeatureSource, Source, pixel_feed
from mura_tune.training.tasks import TASKS

POLL = 1.0  # seconds between two looks for a slot that others may leave open


@dataclass(frozen=True, eq=False)
class Job:
    """One study to bring to its count."""

    name: str
    study: SearchConfig
    prepared: Prepared


def no_artifacts(_task: str) -> Keep:
    """Keep nothing of a trial but what its record holds."""
    return lambda trial, fits, studies: None


@dataclass(frozen=True)
class WorkerSettings:
    """What every worker is told beside its jobs."""

    url: str
    grace: int = GRACE
    warm_start: str = AUTO
    artifacts: Callable[[str], Keep] = no_artifacts  # what keeps the trials of a task
    features: Path | None = None  # folder of frozen stages' features; None computes them always
    feature_bytes: int = 20 * 10**9
    patience: float = PATIENCE  # seconds to wait while the database is out of reach


@dataclass(frozen=True)
class Ended:
    """A trial that ended, for whoever watches."""

    study: str
    trial: TrialRecord


Event = Progress | Ended


def start(job: Job, how: WorkerSettings, *, allow_space_change: bool = False) -> dict[str, int]:
    """Make the study, or see that it may go on.

    Returns how many trials it has, and how many the study that confirms it, by name.

    Raises:
        InputError: it exists with another search, recipe, dataset or split; or its name belongs to
            a confirmation.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if job.name.endswith(CONFIRM_SUFFIX):
        check_search_name(job.name, "study")
    space = spaces.space_of(job.study)
    check_networks(job.study)
    TASKS[job.study.task].outputs(len(job.prepared.areas))  # or refuse a router of one area
    storage = open_storage(how.url, create=True, patience=how.patience)
    with lock_of(how.url, job.name, how.patience):
        search = SearchRecord(
            optuna.create_study(
                storage=storage, study_name=job.name, direction="maximize", load_if_exists=True
            )
        )
        space = spaces.as_started(space, search.comparable)
        same_or_refuse(
            search,
            job.study,
            spaces.space_to_json(space),
            job.prepared,
            allow_space_change=allow_space_change,
        )
    if how.warm_start != AUTO:  # or refuse what is named
        warm_starts(storage, job.name, job.study, space, how.warm_start)
    confirmation = load_confirmation(storage, job.name)
    return {
        job.name: len(search.trials()),
        job.name + CONFIRM_SUFFIX: len(confirmation.trials()) if confirmation else 0,
    }


def work(
    jobs: Sequence[Job],
    since: Mapping[str, int],
    how: WorkerSettings,
    device: torch.device,
    tell: Callable[[Event], None],
    stop: Callable[[], bool],
) -> None:
    """Be one worker: run open slots until every job's count is full, or `stop()`.

    Args:
        since: number of trials of each study when this call began.

    Raises:
        MuraError: five trials in a row failed for one reason.
        Outage: the database stayed out of reach.
        OSError: a file could not be read or written; the trial it met is run again.
        KeyboardInterrupt: as it came; the trial it met is run again.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = open_storage(how.url, grace=how.grace, patience=how.patience)
    with Alive(how.url, patience=how.patience, doubt=how.grace) as alive:
        storage.on_heartbeat = alive.renew
        courses = [
            _Course(job, how, storage, alive, device, tell, since, how.artifacts(job.study.task))
            for job in jobs
        ]
        while courses and not stop():
            courses = [course for course in courses if not course.finished()]
            courses.sort(key=lambda course: course.running)  # stable: else in the order given
            if not any(course.one_more() for course in courses):
                time.sleep(POLL if courses else 0)  # others run what is left; one may yet die


def pruner(study: SearchConfig) -> optuna.pruners.BasePruner:
    """The pruner of a study; the head-only phase and the first quarter are never compared.

    With folds a step is a fold, and the first may be compared. Optuna compares a step from
    `n_warmup_steps` on, and ours count from 1: the first after a quarter of 8 epochs is 3.
    """
    given, recipe = study.budget.pruner, study.recipe
    steps = study.split.folds or recipe.epochs
    first = 1 if study.split.folds else max(recipe.head.epochs, recipe.epochs // 4) + 1
    common = {
        "n_startup_trials": given.startup,
        "n_warmup_steps": first,
        "n_min_trials": given.min_trials,
    }
    match given.name:
        case "median":
            return optuna.pruners.MedianPruner(**common)
        case "percentile":
            return optuna.pruners.PercentilePruner(given.percentile, **common)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(first, steps)
        case _:
            return optuna.pruners.NopPruner()


@dataclass
class _Course:
    """One study as a worker sees it: the search first, then its confirmation."""

    job: Job
    how: WorkerSettings
    storage: RDBStorage
    alive: Alive
    device: torch.device
    tell: Callable[[Event], None]
    since: Mapping[str, int]
    keep: Keep
    running: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.lock: Lock = lock_of(self.how.url, self.job.name, self.how.patience)
        self.search = SearchRecord(
            optuna.load_study(
                study_name=self.job.name, storage=self.storage, pruner=pruner(self.job.study)
            )
        )
        self.job = replace(self.job, study=as_begun(self.search, self.job.study))
        self.space = spaces.as_started(spaces.space_of(self.job.study), self.search.comparable)
        self._confirmation: SearchRecord | None = None
        self._material: Material | None = None
        self._warm: Sequence[WarmStart] = ()

    def finished(self) -> bool:
        """Whether nothing is left; counts what runs elsewhere on the way."""
        if (stage := self._stage()) is None:
            return True
        search, plan = stage
        trials = search.trials()
        now = standing(trials, plan(trials))
        self.running = now.running
        return search is not self.search and now.done == now.slots

    def one_more(self) -> bool:
        """Run the next open slot; False when none is open."""
        if (stage := self._stage()) is None:
            return False
        search, plan = stage
        self._look_up_siblings()
        self.alive.renew()
        first = self.since.get(search.name, 0)
        self.lock.acquire()
        try:
            slot = next_slot(search, plan, self.space, self.alive.lives, first)
            if slot is None:
                return False
            if self._material is None:
                self.lock.release()  # the others need not wait while it is read
                self._material = material(self.job.prepared, self.job.study, self.device)
                return True
            number = len(search.trials())
            search.handle.sampler = _sampler(self.job.study.budget, number)
            objective = Objective(
                search.name,
                self.job.study,
                self.space,
                self._material,
                self._let_go,
                self.tell,
                self.keep,
                self._source(search),
            )
            self._optimise(search, _Run(objective, self.alive.name, slot))
        finally:
            self.lock.release()
        return True

    def _look_up_siblings(self) -> None:
        """What the next slots may start from. Others need not wait for it: it is not locked."""
        trials, study = self.search.trials(), self.job.study
        self._warm = (
            warm_starts(self.storage, self.job.name, study, self.space, self.how.warm_start)
            if untried(study, trials)
            else ()
        )

    def _let_go(self) -> bool:
        """Let others pick their slots; says whether none could while this one was picked."""
        alone = self.lock.held()
        self.lock.release()
        return alone

    def _optimise(self, search: SearchRecord, run: _Run) -> None:
        try:
            search.handle.optimize(run, n_trials=1, catch=(Exception,))
        except (UpdateFinishedTrialError, ValueError, AssertionError):
            trial = search.trials()[run.number] if run.number >= 0 else None
            if trial is None or trial.state != TrialState.FAIL:
                raise
            # It was silent for too long, and its slot given to another worker: leave it to that.
        except UnboundLocalError as error:  # what Optuna makes of Ctrl-C while it stores the end
            raise error.__context__ or error from None
        if run.trouble:  # told by whoever catches it, in one line
            raise run.trouble
        if run.number >= 0:
            self.tell(Ended(search.name, search.trials()[run.number]))

    def _stage(self) -> tuple[SearchRecord, Plan] | None:
        """The search while it has open slots, then the confirmation, if one is wanted."""
        trials, study = self.search.trials(), self.job.study
        if not searched(study, trials):
            return self.search, lambda now: search_slots(study, self.space, now, lambda: self._warm)
        slots = confirm_slots(study, trials, self.search.identity)
        if not slots:
            return None
        if self._confirmation is None:
            with self.lock:
                handle = optuna.create_study(
                    storage=self.storage,
                    study_name=self.job.name + CONFIRM_SUFFIX,
                    direction="maximize",
                    load_if_exists=True,
                    pruner=optuna.pruners.NopPruner(),
                )
            self._confirmation = SearchRecord(handle)
        return self._confirmation, lambda now: slots

    def _source(self, search: SearchRecord) -> Source:
        """Search trials share what frozen stages give; a confirmation has its own seed's views."""
        if self.how.features is None or search is not self.search:
            return pixel_feed
        return FeatureSource(FeatureStore(self.how.features, self.how.feature_bytes))


@dataclass
class _Run:
    """What Optuna calls for a slot: says whose the trial is and which slot it fills, then runs it.

    Attributes:
        number: of the trial; -1 before there is one.
        trouble: what came in from the surroundings and cut the trial off, if anything did.
    """

    objective: Objective
    worker: str
    slot: Slot
    number: int = -1
    trouble: Exception | None = None

    def __call__(self, trial: optuna.Trial) -> float:
        self.number, writer = trial.number, TrialWriter(trial)
        try:
            writer.store_worker(self.worker, self.slot.key)
            if self.slot.rerun and not writer.read().has_recipe:  # it would draw another's values
                writer.store_reason(SUPERSEDED)
                raise MuraError(f"trial {trial.number} is not what slot {self.slot.key} runs")
            return self.objective(trial)
        except Exception as error:  # nothing is hidden: it is raised again
            if is_of_surroundings(error):
                self.trouble = error
            raise


def _sampler(budget: Budget, trials: int) -> Rounded:
    """A sampler of its own for each trial: the same seed twice would draw the same trial twice."""
    return Rounded(n_startup_trials=budget.random, seed=(budget.seed * 1_000_003 + trials) % 2**32)
