"""The search: exactly N trials of one study, however often it is stopped and started.

A trial fills a slot, 0 to N-1. A slot is done when its trial finished or was pruned; a trial that
was killed leaves its slot open and its values to the next one. All of that is decided under the
study's lock, which a trial lets go once its values are drawn.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState

from mura_tune.config import Budget, StudyConfig
from mura_tune.data.prepare import Prepared
from mura_tune.errors import Diverged, MuraError
from mura_tune.learning.batches import Split, split_of
from mura_tune.learning.metrics import auc_interval
from mura_tune.learning.models import build
from mura_tune.learning.tasks import ABNORMALITY, Task, study_scores
from mura_tune.learning.training import Epoch, fit
from mura_tune.recipe import Recipe
from mura_tune.tuning import space as spaces
from mura_tune.tuning.results import CUT
from mura_tune.tuning.resume import same_or_refuse
from mura_tune.tuning.storage import Alive, StudyLock, locks, open_storage

DONE = (TrialState.COMPLETE, TrialState.PRUNED)
SAME_FAILURES = 5  # in a row: then something is wrong with more than a trial


@dataclass(frozen=True)
class Report:
    """Where a study stands; `trial` is the one that just ended."""

    trial: FrozenTrial | None
    done: int
    wanted: int


def tune(
    study: StudyConfig,
    prepared: Prepared,
    *,
    name: str,
    url: str,
    device: torch.device,
    on_epoch: Callable[[int, Epoch, Recipe], None] = lambda number, epoch, recipe: None,
    on_trial: Callable[[Report], None] = lambda report: None,
) -> optuna.Study:
    """Run trials of study `name` until `study.budget.trials` are finished or pruned, in total.

    Trial 0 is the recipe as it stands; the others are drawn by TPE. Only train and dev are read.

    Raises:
        InputError: the study exists with another search, recipe, dataset or split.
        MuraError: five trials in a row failed for one reason.
        KeyboardInterrupt: as it came; the trial it met is run again by the next call.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = spaces.space_of(study)
    build(study.recipe.arch, pretrained=study.recipe.pretrained)  # or refuse before a study exists
    train, dev = (split_of(prepared, part, device) for part in ("train", "dev"))
    storage = open_storage(url, create=True)
    lock = StudyLock(locks(url) / f"{name}.lock")
    with Alive(locks(url)) as alive:
        worker = _Worker(study, space, train, dev, device, lock, alive, on_epoch)
        lock.acquire()
        try:
            opened = optuna.create_study(
                storage=storage, study_name=name, direction="maximize", load_if_exists=True,
                pruner=pruner(study),
            )  # fmt: skip
            same_or_refuse(opened, study, spaces.space_to_json(space), prepared, name)
        finally:
            lock.release()
        on_trial(Report(None, len(_done(opened)), study.budget.trials))
        failures: list[str] = []
        while worker.one_more(opened):
            trial = opened.get_trials()[worker.number]
            on_trial(Report(trial, len(_done(opened)), study.budget.trials))
            failures = [*failures, _kind(trial)] if trial.state == TrialState.FAIL else []
            if len(failures) >= SAME_FAILURES and len(set(failures[-SAME_FAILURES:])) == 1:
                raise MuraError(
                    f"study {name}: {SAME_FAILURES} trials in a row failed alike "
                    f"({trial.user_attrs['reason']}); mend that, and the same call goes on"
                )
    return opened


def pruner(study: StudyConfig) -> optuna.pruners.BasePruner:
    """The pruner of a study; the head-only phase and the first quarter are never compared."""
    given, recipe = study.budget.pruner, study.recipe
    warmup = max(recipe.head.epochs + 1, recipe.epochs // 4)
    common = {
        "n_startup_trials": given.startup, "n_warmup_steps": warmup,
        "n_min_trials": given.min_trials,
    }  # fmt: skip
    match given.name:
        case "median":
            return optuna.pruners.MedianPruner(**common)
        case "percentile":
            return optuna.pruners.PercentilePruner(given.percentile, **common)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(warmup, recipe.epochs)
        case _:
            return optuna.pruners.NopPruner()


@dataclass
class _Worker:
    """One process's share of a search."""

    study: StudyConfig
    space: spaces.Space
    train: Split
    dev: Split
    device: torch.device
    lock: StudyLock
    alive: Alive
    on_epoch: Callable[[int, Epoch, Recipe], None]
    task: Task = ABNORMALITY
    number: int = field(default=-1, init=False)  # of the trial it ran last
    _slot: int = field(default=0, init=False)

    def one_more(self, study: optuna.Study) -> bool:
        """Run the next open slot; False when none is open."""
        self.lock.acquire()
        try:
            slot = self._next_slot(study)
            if slot is None:
                return False
            self._slot = slot
            study.sampler = _sampler(self.study.budget, len(study.get_trials(deepcopy=False)))
            study.optimize(self._objective, n_trials=1, catch=(Exception,))
        finally:
            self.lock.release()
        return True

    def _next_slot(self, study: optuna.Study) -> int | None:
        """The lowest open slot. Dead trials are failed and their values queued again."""
        trials = study.get_trials(deepcopy=False)
        for trial in trials:
            running = trial.state == TrialState.RUNNING
            if running and not self.alive.lives(trial.user_attrs.get("worker")):
                study._storage.set_trial_user_attr(trial._trial_id, "reason", "killed")
                study.tell(trial.number, state=TrialState.FAIL)
        trials = study.get_trials(deepcopy=False)
        held = {_slot_of(t) for t in trials if t.state in (*DONE, TrialState.RUNNING)}
        open_slots = [slot for slot in range(self.study.budget.trials) if slot not in held]
        if not open_slots:
            return None
        slot = open_slots[0]
        if any(t.state == TrialState.WAITING for t in trials):
            return slot  # a person's, from the dashboard, or one that a crash left queued
        if (values := self._values_for(slot, trials)) is not None:
            study.enqueue_trial(dict(values), user_attrs={"slot": slot})
        return slot

    def _values_for(self, slot: int, trials: list[FrozenTrial]) -> Mapping[str, Any] | None:
        """What a slot must run: what its killed trial had drawn, or trial 0 the defaults."""
        before = [t for t in trials if _slot_of(t) == slot]
        if before and before[-1].user_attrs.get("reason") in CUT and before[-1].params:
            return before[-1].params
        fixed = slot == 0 and not any(t.user_attrs.get("reason") not in CUT for t in before)
        return spaces.defaults(self.study.recipe, self.space) if fixed else None

    def _objective(self, trial: optuna.Trial) -> float:
        self.number = trial.number
        trial.set_user_attr("worker", self.alive.name)
        if "slot" not in trial.user_attrs:
            trial.set_user_attr("slot", self._slot)
        started = time.perf_counter()
        try:
            values = spaces.suggest(trial, self.space)
            recipe = spaces.recipe_for(self.study, values, f"trial {trial.number}")
            trial.set_user_attr("recipe", dataclasses.asdict(recipe))
            trial.set_user_attr("digest", recipe.digest)
        finally:
            self.lock.release()
        try:
            return self._train(trial, recipe)
        except KeyboardInterrupt:
            trial.set_user_attr("reason", "interrupted")
            raise
        except optuna.TrialPruned:
            raise
        except Exception as error:  # whatever it is, it is stored with its trial, and told
            trial.set_user_attr("reason", _reason(error))
            raise
        finally:
            trial.set_user_attr("seconds", round(time.perf_counter() - started, 3))

    def _train(self, trial: optuna.Trial, recipe: Recipe) -> float:
        def on_epoch(epoch: Epoch) -> None:
            trial.report(epoch.score, epoch.number)
            trial.set_user_attr("epochs", epoch.number)
            self.on_epoch(trial.number, epoch, recipe)
            if trial.should_prune():
                raise optuna.TrialPruned

        net = build(
            recipe.arch, pretrained=recipe.pretrained, outputs=self.task.outputs, seed=recipe.seed
        ).to(self.device)
        result = fit(net, self.train, self.dev, recipe, self.task, on_epoch=on_epoch)
        interval = auc_interval(study_scores(result.logits, self.dev))
        trial.set_user_attr("best_epoch", result.best.number)
        trial.set_user_attr("dev_auc", interval.to_json())
        return result.best.score


def _sampler(budget: Budget, trials: int) -> optuna.samplers.TPESampler:
    """A sampler of its own for each trial: the same seed twice would draw the same trial twice."""
    return optuna.samplers.TPESampler(
        n_startup_trials=budget.random, seed=(budget.seed * 1_000_003 + trials) % 2**32
    )


def _done(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=DONE)


def _slot_of(trial: FrozenTrial) -> int | None:
    slot = trial.user_attrs.get("slot")
    return slot if isinstance(slot, int) else None


def _reason(error: Exception) -> str:
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "out of memory"
    if isinstance(error, Diverged):
        return "diverged: " + str(error)
    return f"{type(error).__name__}: {error}".splitlines()[0][:500]


def _kind(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get("reason", "")).partition(":")[0]
