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
from mura_tune.data.prepare import Prepared, divided_views
from mura_tune.database.outages import Outage
from mura_tune.errors import Diverged
from mura_tune.metrics.areas import ACCURACY
from mura_tune.metrics.comparison import average_folds
from mura_tune.metrics.dev_fold import DevFold
from mura_tune.metrics.estimates import StudyScores
from mura_tune.metrics.ranking import AUC
from mura_tune.networks.factory import build_network
from mura_tune.networks.network import Network
from mura_tune.recipe import Recipe
from mura_tune.search.comparable import numbered_studies
from mura_tune.search.space import Space, recipe_for, suggest
from mura_tune.search.trial_record import INTERRUPTED, OUTAGE, TrialWriter
from mura_tune.text import printable
from mura_tune.training.batches import Split, load_split
from mura_tune.training.compiling import Compiler, leave_uncompiled
from mura_tune.training.feeds import Source, pixel_feed
from mura_tune.training.fit import Epoch, FitResult, fit
from mura_tune.training.tasks import task_of

_DIGITS = 6  # of a score, where people see it: finer than one pair of studies among a million

# Saves what people look at: of a trial, its fits with the dev split of each, and all dev studies.
SaveArtifacts = Callable[[optuna.Trial, Sequence[tuple[FitResult, Split]], StudyScores], None]


@dataclass(frozen=True)
class TrialProgress:
    """A trial of a search after an epoch, and its latest dev score."""

    search: str
    trial: int
    epoch: int
    epochs: int
    score: float


@dataclass(frozen=True, eq=False)
class TrialData:
    """What every trial of a search learns from: pairs of train and dev, one unless there are folds.

    All of them on `device`.

    Attributes:
        own_dev: the studies that judge, where they are not those of the search.
    """

    pairs: tuple[tuple[Split, Split], ...]
    device: torch.device
    own_dev: tuple[DevFold, ...] = ()


def load_trial_data(
    prepared: Prepared,
    config: SearchConfig,
    device: torch.device,
    division: int = 0,
    budget: int | None = None,
) -> TrialData:
    """The search's train and dev; with folds, k pairs that cover every patient but test's once.

    Args:
        division: what is added to `split.seed`: the data of another division of the patients.
        budget: see `load_split`.
    """
    views = divided_views(prepared, config.split, division)
    pairs = (
        (load_split(view, "train", device, budget), load_split(view, "dev", device, budget))
        for view in views
    )
    own_dev = (numbered_studies(view, prepared, config.task) for view in views) if division else ()
    return TrialData(tuple(pairs), device, tuple(own_dev))


def draw_recipe(writer: TrialWriter, config: SearchConfig, space: Space) -> Recipe:
    """The recipe of a new trial, drawn and stored; a confirming trial has one already.

    An error is raised again, once its reason is stored: without one the trial would be run again.
    """
    try:
        record = writer.read()
        if record.has_recipe:
            return record.recipe
        with writer.together():
            values = suggest(writer.trial, space)
            recipe = recipe_for(config, values, f"search {writer.search} trial {record.number}")
            writer.store_recipe(recipe)
    except Outage:
        raise  # nothing more can be stored
    except Exception as error:
        # Raised again at once; the reason is stored for any kind, or the trial would be run again.
        writer.store_reason(_reason(error))
        raise
    return recipe


@dataclass(frozen=True, eq=False)
class Trainer:
    """Trains one trial after another of a search, or of its confirmation.

    Attributes:
        save_artifacts: called before a trial ends, since a finished trial takes no files.
        build: makes networks as `build_network` does.
        compiler: of the passes through the networks.
    """

    config: SearchConfig
    data: TrialData
    on_epoch: Callable[[TrialProgress], None]
    save_artifacts: SaveArtifacts
    build: Callable[..., Network] = build_network
    compiler: Compiler = leave_uncompiled

    def train(self, writer: TrialWriter, recipe: Recipe, source: Source = pixel_feed) -> float:
        """The dev score of a trial, all of whose results are stored with it.

        Whatever ends the trial early is raised again, once its reason is stored.

        Args:
            source: where a phase's batches come from.
        """
        started = time.perf_counter()
        try:
            score = self._train(writer, recipe, source)
        except Outage:
            raise  # nothing more can be stored; a trial without a reason is run again
        except (optuna.TrialPruned, UpdateFinishedTrialError):
            writer.store_seconds(_seconds_since(started))
            raise
        except (Exception, KeyboardInterrupt) as error:  # whatever it is, it is raised again
            writer.store_reason(_reason(error))
            writer.store_seconds(_seconds_since(started))
            raise
        writer.store_seconds(_seconds_since(started))
        return score

    def _train(self, writer: TrialWriter, recipe: Recipe, source: Source) -> float:
        trial = writer.trial
        fits: list[tuple[FitResult, Split]] = []
        alone = len(self.data.pairs) == 1
        task = task_of(self.config.task, recipe)
        for number, (train, dev) in enumerate(self.data.pairs):

            def on_epoch(epoch: Epoch, before: int = number * recipe.epochs) -> None:
                done, total = before + epoch.number, recipe.epochs * len(self.data.pairs)
                with writer.together():
                    writer.store_epochs(done)
                    if alone:
                        _report(trial, epoch.score, epoch.number)
                self.on_epoch(TrialProgress(writer.search, trial.number, done, total, epoch.score))
                if alone:
                    _prune(trial)

            net = task.start(recipe, train, self.build).to(self.data.device)
            result = fit(
                *(net, train, dev, recipe, task),
                on_epoch=on_epoch,
                source=source,
                compiler=self.compiler,
            )
            fits.append((result, dev))
            if not alone:  # the mean of the folds so far, fold by fold
                mean = float(np.mean([f.epoch.score for f, _ in fits]))
                _report(trial, mean, number + 1)
                _prune(trial)
        tables = [task.table(result.logits, dev) for result, dev in fits]
        kept_epochs = [f.epoch.number for f, _ in fits]
        auc = area = None
        if recipe.monitor != "auc":  # it is stored whatever decides
            auc = average_folds(tables, measure=AUC).rounded(_DIGITS)
        if task.beside:
            area_tables = [task.beside(result.logits, dev) for result, dev in fits]
            area = average_folds(area_tables, measure=ACCURACY).rounded(_DIGITS)
        dev_score = average_folds(tables, measure=task.measure).rounded(_DIGITS)
        with writer.together():
            writer.store_estimates(dev_score, kept_epochs[0] if alone else kept_epochs, auc, area)
            writer.store_scores(tables)
            if self.data.own_dev:
                writer.store_own_dev(self.data.own_dev)
        self.save_artifacts(trial, fits, tables[0] if alone else _pooled(tables))
        return round(float(np.mean([f.epoch.score for f, _ in fits])), _DIGITS)


def _pooled(runs: Sequence[StudyScores]) -> StudyScores:
    """The studies of all folds in one table, for pictures."""
    joined = {
        f.name: np.concatenate([getattr(run, f.name) for run in runs]) for f in fields(StudyScores)
    }
    return StudyScores(**joined)


def _report(trial: optuna.Trial, score: float, step: int) -> None:
    trial.report(round(score, _DIGITS), step)


def _prune(trial: optuna.Trial) -> None:
    """End a trial that is worse than others were at its latest step, as the pruner sees it."""
    if trial.should_prune():
        raise optuna.TrialPruned


def is_of_surroundings(error: Exception) -> bool:
    """Whether an error says something about disk, database or network, and nothing of a trial."""
    if isinstance(error, OSError):
        return error.errno != errno.ENOMEM
    return isinstance(error, SQLAlchemyError | StorageInternalError)


def _seconds_since(started: float) -> float:
    return round(time.perf_counter() - started, 3)


def _reason(error: Exception | KeyboardInterrupt) -> str:
    """What is stored as the reason of a trial that failed."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return "out of memory"
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return "out of memory"
    if is_of_surroundings(error):
        return f"{OUTAGE}: {printable(error)}"[:500]
    if isinstance(error, Diverged):
        return "diverged: " + str(error)
    return f"{type(error).__name__}: {printable(error)}"[:500]
