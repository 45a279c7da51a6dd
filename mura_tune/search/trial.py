"""One trial: values become a recipe, the recipe a network, its dev score has an interval."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import optuna
import torch
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from sqlalchemy.exc import SQLAlchemyError

from mura_tune.config import SearchConfig
from mura_tune.data.prepare import Prepared, prepare_folds
from mura_tune.database.outages import Outage
from mura_tune.errors import Diverged, MuraError
from mura_tune.lines import printable
from mura_tune.metrics.areas import ACCURACY
from mura_tune.metrics.comparison import average_folds
from mura_tune.metrics.estimates import StudyScores
from mura_tune.metrics.ranking import AUC
from mura_tune.recipe import Recipe
from mura_tune.search import space as spaces
from mura_tune.search.records import INTERRUPTED, OUTAGE, SUPERSEDED, TrialWriter
from mura_tune.training.batches import Split, load_split
from mura_tune.training.feeds import Source, pixel_feed
from mura_tune.training.fit import Epoch, FitResult, fit
from mura_tune.training.tasks import task_of

DIGITS = 6  # of a score, where people see it: finer than one pair of studies among a million

# Keeps what people look at: of a trial, its fits with the dev split of each, and all dev studies.
Keep = Callable[[optuna.Trial, Sequence[tuple[FitResult, Split]], StudyScores], None]


@dataclass(frozen=True)
class Progress:
    """A trial after an epoch, for whoever watches."""

    study: str
    trial: int
    epoch: int
    epochs: int
    score: float


@dataclass(frozen=True, eq=False)
class Material:
    """What every trial of a study learns from: pairs of train and dev, one unless there are folds.

    All of them on `device`.
    """

    pairs: tuple[tuple[Split, Split], ...]
    device: torch.device


def material(prepared: Prepared, study: SearchConfig, device: torch.device) -> Material:
    """The study's train and dev; with folds, k pairs that cover every patient but test's once."""
    views = prepare_folds(prepared, study.split) if study.split.folds else (prepared,)
    pairs = ((load_split(v, "train", device), load_split(v, "dev", device)) for v in views)
    return Material(tuple(pairs), device)


@dataclass(frozen=True, eq=False)
class Objective:
    """What Optuna calls.

    Attributes:
        drawn: called once the values stand and the lock may go; says whether it was held so far.
    """

    name: str
    study: SearchConfig
    space: spaces.Space
    material: Material
    drawn: Callable[[], bool]
    tell: Callable[[Progress], None]
    keep: Keep
    source: Source = pixel_feed

    def __call__(self, trial: optuna.Trial) -> float:
        started, writer = time.perf_counter(), TrialWriter(trial, self.name)
        try:
            recipe = self._recipe(writer)
        finally:
            alone = self.drawn()
        try:
            if not alone:  # a connection was lost, and with it the lock: another may fill the slot
                writer.store_reason(SUPERSEDED)
                raise MuraError("the lock was lost while values were drawn; the slot is run again")
            score = self._train(writer, recipe)
        except Outage:
            raise  # nothing more can be stored; a trial without a reason is run again
        except KeyboardInterrupt:
            writer.store_reason(INTERRUPTED)
            writer.store_seconds(_elapsed(started))
            raise
        except (optuna.TrialPruned, UpdateFinishedTrialError):
            writer.store_seconds(_elapsed(started))
            raise
        except Exception as error:  # whatever it is, it is stored with its trial, and told
            if alone:
                writer.store_reason(_reason(error))
            writer.store_seconds(_elapsed(started))
            raise
        writer.store_seconds(_elapsed(started))
        return score

    def _recipe(self, writer: TrialWriter) -> Recipe:
        record, trial = writer.read(), writer.trial
        if record.has_recipe:  # a confirmation: a searched trial's, with another seed
            return record.recipe
        values = spaces.suggest(trial, self.space)
        source = f"study {self.name} trial {trial.number}"
        recipe = spaces.recipe_for(self.study, values, source)
        writer.store_recipe(recipe)
        return recipe

    def _train(self, writer: TrialWriter, recipe: Recipe) -> float:
        trial = writer.trial
        fits: list[tuple[FitResult, Split]] = []
        alone = len(self.material.pairs) == 1
        task = task_of(self.study.task, recipe.monitor)
        for number, (train, dev) in enumerate(self.material.pairs):

            def on_epoch(epoch: Epoch, before: int = number * recipe.epochs) -> None:
                done, total = before + epoch.number, recipe.epochs * len(self.material.pairs)
                writer.store_epochs(done)
                self.tell(Progress(self.name, trial.number, done, total, epoch.score))
                if alone:
                    _report(trial, epoch.score, epoch.number)

            net = task.network(recipe, len(train.areas)).to(self.material.device)
            result = fit(net, train, dev, recipe, task, on_epoch=on_epoch, source=self.source)
            fits.append((result, dev))
            if not alone:  # the mean of the folds so far, fold by fold
                mean = float(np.mean([f.best.score for f, _ in fits]))
                _report(trial, mean, number + 1)
        tables = [task.table(result.logits, dev) for result, dev in fits]
        best_epochs = [f.best.number for f, _ in fits]
        auc = area = None
        if recipe.monitor != "auc":  # it is stored whatever decides
            auc = average_folds(tables, measure=AUC).rounded(DIGITS)
        if task.beside:
            area_tables = [task.beside(result.logits, dev) for result, dev in fits]
            area = average_folds(area_tables, measure=ACCURACY).rounded(DIGITS)
        dev_score = average_folds(tables, measure=task.measure).rounded(DIGITS)
        writer.store_estimates(dev_score, best_epochs[0] if alone else best_epochs, auc, area)
        writer.store_scores(tables)
        self.keep(trial, fits, tables[0] if alone else _pooled(tables))
        return round(float(np.mean([f.best.score for f, _ in fits])), DIGITS)


def _pooled(runs: Sequence[StudyScores]) -> StudyScores:
    """The studies of all folds in one table, for pictures."""
    joined = {
        f.name: np.concatenate([getattr(run, f.name) for run in runs]) for f in fields(StudyScores)
    }
    return StudyScores(**joined)


def _report(trial: optuna.Trial, score: float, step: int) -> None:
    trial.report(round(score, DIGITS), step)
    if trial.should_prune():
        raise optuna.TrialPruned


def is_of_surroundings(error: Exception) -> bool:
    """Whether an error says something about disk, database or network, and nothing of a trial."""
    if isinstance(error, OSError):
        return error.errno != errno.ENOMEM
    return isinstance(error, SQLAlchemyError | StorageInternalError)


def _elapsed(started: float) -> float:
    return round(time.perf_counter() - started, 3)


def _reason(error: Exception) -> str:
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return "out of memory"
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return "out of memory"
    if is_of_surroundings(error):
        return f"{OUTAGE}: {printable(error)}"[:500]
    if isinstance(error, Diverged):
        return "diverged: " + str(error)
    return f"{type(error).__name__}: {printable(error)}"[:500]
