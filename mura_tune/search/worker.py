"""One worker's loop: exactly N trials a search and their confirmation, however often it is stopped.

A worker picks a slot and starts its trial under the search's lock, draws the trial's values and
trains outside of it. `slots` says which slots there are and which is next.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import optuna
import torch
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, TrialState

from mura_tune.config import Budget, SearchConfig
from mura_tune.database.locks import WorkerLock
from mura_tune.database.optuna_private import TrialCache, send_heartbeats
from mura_tune.database.outages import WaitingStorage
from mura_tune.database.storage import open_storage
from mura_tune.errors import MuraError
from mura_tune.networks.device import feature_memory, pixel_memory
from mura_tune.networks.factory import NetworkCopies
from mura_tune.search.comparable import going_on
from mura_tune.search.search import (
    COMPILE_RULES,
    SearchEvent,
    SearchJob,
    TrialEnded,
    WorkerNote,
    WorkerSettings,
)
from mura_tune.search.search_record import SearchRecord, Trials
from mura_tune.search.slots import (
    Plan,
    Slot,
    WarmStart,
    confirm_slots,
    empty_slots,
    find_lost,
    next_slot,
    search_slots,
    standing,
    untried,
)
from mura_tune.search.space import RoundingSampler, as_started, space_of
from mura_tune.search.trial import Trainer, draw_recipe, is_of_surroundings, load_trial_data
from mura_tune.search.trial_record import INTERRUPTED, SUPERSEDED, TrialRecord, is_drawn
from mura_tune.search.warm_start import warm_starts
from mura_tune.text import CONFIRM_SUFFIX
from mura_tune.training.compiling import Inductor, leave_uncompiled
from mura_tune.training.feature_cache import FeatureMemory, FeatureStore
from mura_tune.training.feeds import FeatureSource, Source, pixel_feed

POLL = 1.0  # seconds between two looks for a slot that others may leave open


def run_worker(
    jobs: Sequence[SearchJob],
    since: Mapping[str, int],
    settings: WorkerSettings,
    device: torch.device,
    on_event: Callable[[SearchEvent], None],
    stop: Callable[[], bool],
) -> None:
    """Be one worker: run open slots until every job's count is full, time is over, or `stop()`.

    Args:
        since: number of trials of each search when this call began.

    Raises:
        MuraError: five trials in a row failed for one reason.
        Outage: the database stayed out of reach.
        OSError: a file could not be read or written; the trial it met is run again.
        KeyboardInterrupt: as it came; the trial it met is run again.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = open_storage(settings.url, grace=settings.grace, patience=settings.patience)
    shared = _shared_source(settings, device)
    with WorkerLock(settings.url, patience=settings.patience, grace=settings.grace) as worker_lock:
        storage.on_heartbeat = worker_lock.renew
        searches = [
            _WorkerSearch(job, settings, storage, worker_lock, device, shared, on_event, since)
            for job in jobs
        ]
        try:
            while searches and not stop() and not settings.is_over():
                searches = [search for search in searches if not search.is_done()]
                searches.sort(key=lambda search: search.running)  # stable: else as the jobs are
                if not any(search.run_next() for search in searches):
                    time.sleep(POLL if searches else 0)  # others run what is left; one may yet die
        except KeyboardInterrupt:
            for search in searches:
                search.end_begun()
            raise


def make_pruner(config: SearchConfig) -> optuna.pruners.BasePruner:
    """The pruner of a search; the head-only phase and the first quarter are never compared.

    With folds a step is a fold, and the first may be compared. Optuna compares a step from
    `n_warmup_steps` on, and ours count from 1: the first after a quarter of 8 epochs is 3.
    """
    pruner, recipe = config.budget.pruner, config.recipe
    steps = config.split.fold_count or recipe.epochs
    head = recipe.phases[0] if recipe.head.epochs else recipe.head
    first = 1 if config.split.fold_count else max(head.epochs, recipe.epochs // 4) + 1
    common = {
        "n_startup_trials": pruner.startup,
        "n_warmup_steps": first,
        "n_min_trials": pruner.min_trials,
    }
    match pruner.name:
        case "median":
            return optuna.pruners.MedianPruner(**common)
        case "percentile":
            return optuna.pruners.PercentilePruner(pruner.percentile, **common)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(first, steps)
        case _:
            return optuna.pruners.NopPruner()


def make_sampler(
    budget: Budget, axes: IntersectionSearchSpace | None, trials: int
) -> RoundingSampler:
    """The sampler of the trial after so many: one seed for all would draw one trial for ever.

    Args:
        axes: see `RoundingSampler`.
    """
    seed = (budget.seed * 1_000_003 + trials) % 2**32
    return RoundingSampler(axes, n_startup_trials=budget.random, seed=seed)


def seconds_to_come(trials: Sequence[TrialRecord], depth: int, runs: int) -> float:
    """Seconds that the rest of a search will train at a depth, by its `trials` so far.

    A depth is expected as often, and for as long, as in the trials that have ended.

    Args:
        runs: trials and confirmations that the whole search takes.
    """
    ended = [t for t in trials if t.is_done and t.has_recipe and t.seconds]
    alike = sum(t.seconds or 0 for t in ended if t.recipe.finetune.depth == depth)
    return max(0, runs - len(ended)) * alike / len(ended) if ended else 0.0


@dataclass(frozen=True, eq=False)
class _BegunTrial:
    """A running trial that has its slot, and no values yet.

    Attributes:
        key: of the trial in the database.
        locked: whether the search's lock was held until the trial had its slot.
    """

    key: int
    slot: Slot
    locked: bool


class _Stage(NamedTuple):
    """What a search runs now: itself, or its confirmation.

    Attributes:
        record: of what runs.
        trials: of it, as they were read last.
        plan: its slots, for the trials of a moment.
        running: how many of its slots are being filled.
    """

    record: SearchRecord
    trials: Trials
    plan: Plan
    running: int


class _WorkerSearch:
    """One search as a worker sees it: the search first, then its confirmation.

    Attributes:
        running: how many of its trials ran when `is_done` was asked.
    """

    def __init__(
        self,
        job: SearchJob,
        settings: WorkerSettings,
        storage: WaitingStorage,
        worker_lock: WorkerLock,
        device: torch.device,
        shared: Source,
        on_event: Callable[[SearchEvent], None],
        since: Mapping[str, int],
    ) -> None:
        self.running = 0
        self._stage: _Stage | None = None
        self._job, self._settings, self._storage, self._worker_lock = (
            job,
            settings,
            storage,
            worker_lock,
        )
        self._device, self._on_event, self._since = device, on_event, since
        self._shared = shared
        self._lock = worker_lock.lock_of(job.name)
        self._config = job.config
        self._search = self._record(optuna.load_study, study_name=job.name)
        self._config = going_on(self._search, job.config)
        self._search.handle.pruner = make_pruner(self._config)
        self._space = as_started(space_of(self._config), self._search.comparable)
        self._save_artifacts = settings.artifacts(self._config.task)
        self._confirmation: SearchRecord | None = None
        self._trainer: tuple[int, Trainer] | None = None  # of one division of the patients
        self._axes = IntersectionSearchSpace(include_pruned=True)
        self._build = NetworkCopies()
        self._warm_starts: Sequence[WarmStart] = ()
        self._depth = 0  # of the trial that trains
        self._inductor: Inductor | None = None
        if settings.compiled is not None:
            self._inductor = Inductor(settings.compiled, self._is_worth, self._note)

    def is_done(self) -> bool:
        """Whether nothing is left to run, here or elsewhere."""
        self._stage = self._read_stage()
        self.running = self._stage.running if self._stage else 0
        return self._stage is None

    def run_next(self) -> bool:
        """Run the next open slot, as `is_done` has just seen them; False when none is open."""
        if self._stage is None:
            return False
        search, trials, plan, _ = self._stage
        self._look_up_siblings(trials)
        lost = find_lost(search, trials, self._worker_lock.name, self._worker_lock.living)
        begun: _BegunTrial | None = None
        with self._lock:
            first = self._since.get(search.name, 0)
            slot = next_slot(search, plan, self._space, lost, first)
            if slot is None:
                return False
            division = slot.rerun.division if slot.rerun else 0
            trainer = self._trainer_of(division)
            if trainer is not None:
                begun = self._begin(search, slot)
        if trainer is None:  # others need not wait while it reads; the slot is picked anew
            self._load(division)
        elif begun is not None:
            self._run(trainer, search, begun)
        return True

    def end_begun(self) -> None:
        """Fail what this worker has begun and not ended: an interruption came between the two."""
        for record in filter(None, (self._search, self._confirmation)):
            for trial in record.trials().running:
                if trial.worker == self._worker_lock.name:
                    record.fail(trial, INTERRUPTED)

    def _trainer_of(self, division: int) -> Trainer | None:
        """The trainer that has this division's data, if it is loaded."""
        loaded, trainer = self._trainer or (None, None)
        return trainer if loaded == division else None

    def _load(self, division: int) -> None:
        """Load the data of a division of the patients, in place of another's."""
        self._trainer = None  # or both would be in memory
        data = load_trial_data(
            self._job.prepared,
            self._config,
            self._device,
            division,
            pixel_memory(self._device, self._settings.sharers),
        )
        trainer = Trainer(
            *(self._config, data, self._on_event, self._save_artifacts),
            build=self._build,
            compiler=self._inductor or leave_uncompiled,
        )
        self._trainer = division, trainer

    def _begin(self, search: SearchRecord, slot: Slot) -> _BegunTrial:
        """Start a trial for a slot. Under the lock; its values are drawn once others may go on."""
        key = search.begin(self._worker_lock.name, slot.key)
        return _BegunTrial(key, slot, self._lock.held())

    def _run(self, trainer: Trainer, search: SearchRecord, begun: _BegunTrial) -> None:
        axes = self._axes if search is self._search else None
        sampler_of = functools.partial(make_sampler, self._config.budget, axes)
        writer, slot = search.begun(begun.key, sampler_of), begun.slot
        trial = writer.trial
        with _ending(search, trial):
            with send_heartbeats(trial):
                if not begun.locked:  # a connection was lost, and with it the lock
                    writer.store_reason(SUPERSEDED)
                    raise MuraError("another worker may fill the slot; it is run again")
                if slot.rerun and not writer.read().has_recipe:  # it would draw another's values
                    writer.store_reason(SUPERSEDED)
                    raise MuraError(f"trial {trial.number} is not what slot {slot.key} runs")
                recipe = draw_recipe(writer, self._config, self._space)
                self._depth = recipe.finetune.depth
                score = trainer.train(writer, recipe, self._source(search))
            search.end(trial, TrialState.COMPLETE, score)
        self._on_event(TrialEnded(search.name, search.trials()[trial.number]))

    def _look_up_siblings(self, trials: Trials) -> None:
        """What the next slots may start from. Others need not wait for it: it is not locked."""
        if untried(self._config, trials):
            which = self._settings.warm_start
            self._warm_starts = warm_starts(
                self._storage, self._job.name, self._config, self._space, which
            )
        else:
            self._warm_starts = ()

    def _read_stage(self) -> _Stage | None:
        """The search while it has open slots, then the confirmation, if one is asked for."""
        trials = self._search.trials()
        now = standing(trials, empty_slots(self._config, trials))
        if now.done < now.slots:
            return _Stage(
                self._search,
                trials,
                lambda now: search_slots(self._config, self._space, now, lambda: self._warm_starts),
                now.running,
            )
        slots = confirm_slots(self._config, trials, self._search.identity)
        if not slots:
            return None
        confirmation = self._open_confirmation()
        trials = confirmation.trials()
        now = standing(trials, slots)
        if now.done == now.slots:
            return None
        return _Stage(confirmation, trials, lambda now: slots, now.running)

    def _open_confirmation(self) -> SearchRecord:
        if self._confirmation is None:
            with self._lock:
                self._confirmation = self._record(
                    optuna.create_study,
                    study_name=self._job.name + CONFIRM_SUFFIX,
                    direction="maximize",
                    load_if_exists=True,
                    pruner=optuna.pruners.NopPruner(),
                )
        return self._confirmation

    def _is_worth(self, seconds: float) -> bool:
        """Whether compiling the pass of the trial that trains is worth so many seconds."""
        trials = [*self._search.trials()]
        if self._confirmation is not None:
            trials += self._confirmation.trials()
        to_come = seconds_to_come(trials, self._depth, self._config.budget.runs)
        served = to_come / max(1, self.running)  # the others have their share of it
        return COMPILE_RULES[self._settings.compile](self._device.type, seconds, served)

    def _note(self, line: str) -> None:
        self._on_event(WorkerNote(self._search.name, line))

    def _record(self, open_study: Callable[..., optuna.Study], **options: Any) -> SearchRecord:
        """The search or its confirmation, of which trials are read once they change."""
        return SearchRecord(
            open_study(
                storage=TrialCache(self._storage, self._is_settled),
                **options,
            )
        )

    def _is_settled(self, trial: FrozenTrial) -> bool:
        """Whether a running trial may be looked at again when it ends, and no earlier.

        Hyperband alone compares a trial with those that run.
        """
        return is_drawn(trial) and self._config.budget.pruner.name != "hyperband"

    def _source(self, search: SearchRecord) -> Source:
        """Search trials share what frozen stages give; a confirmation has its own seed's views."""
        return self._shared if search is self._search else pixel_feed


def _shared_source(settings: WorkerSettings, device: torch.device) -> Source:
    """Where the trials of searches get their batches: what frozen stages give, if it is kept."""
    if settings.features is None:
        return pixel_feed
    files = FeatureStore(settings.features, settings.feature_bytes)
    budget = feature_memory(device, settings.sharers)
    return FeatureSource(FeatureMemory(files, budget) if budget else files)


@contextmanager
def _ending(search: SearchRecord, trial: optuna.Trial) -> Iterator[None]:
    """Within it, a trial that is pruned, fails or is interrupted has its end stored.

    A failure of the trial itself is data, and goes no further. What says nothing of the trial (an
    interruption, a disk or a database that fails) is raised again once the trial is failed.
    """
    try:
        yield
    except optuna.TrialPruned:
        search.end(trial, TrialState.PRUNED)
    except (Exception, KeyboardInterrupt) as error:
        search.end(trial, TrialState.FAIL)
        if isinstance(error, KeyboardInterrupt) or is_of_surroundings(error):
            raise
