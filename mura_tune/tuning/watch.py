"""What a person watching a search sees on stderr: a bar of trials, and a line for each."""

from __future__ import annotations

import sys
from typing import NoReturn, Self

from optuna.trial import FrozenTrial
from tqdm import tqdm

from mura_tune.config import StudyConfig
from mura_tune.learning.training import Epoch
from mura_tune.recipe import Recipe
from mura_tune.tuning.results import shown_params
from mura_tune.tuning.search import Report


class Epochs:
    """A bar over the epochs of one run."""

    def __init__(self, title: str, recipe: Recipe) -> None:
        self._bar = _bar(recipe.epochs, title, "epoch")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def epoch(self, epoch: Epoch) -> None:
        """Move on by one."""
        self._bar.set_postfix_str(f"loss {epoch.loss:.3f}, dev AUC {epoch.score:.3f}")
        self._bar.update()


class Watch:
    """A bar over the trials of a search, what the present one is doing behind it."""

    def __init__(self, study: StudyConfig) -> None:
        self._bar = _bar(study.budget.trials, "trials", "trial")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def epoch(self, number: int, epoch: Epoch, recipe: Recipe) -> None:
        """Say how far trial `number` is."""
        progress = f"trial {number}: epoch {epoch.number}/{recipe.epochs}"
        self._bar.set_postfix_str(f"{progress}, dev AUC {epoch.score:.3f}")

    def trial(self, report: Report) -> None:
        """Move on, and print the trial that ended."""
        done = min(report.done, report.wanted)
        if report.trial is None:
            self._bar.initial = done  # an earlier call's trials say nothing about this one's speed
        self._bar.update(done - self._bar.n)
        if report.trial is not None:
            tqdm.write(_line(report.trial), file=sys.stderr)


def _bar(total: int, title: str, unit: str) -> tqdm[NoReturn]:
    """A bar in a terminal; elsewhere nothing, so that logs hold plain lines only."""
    return tqdm(total=total, desc=title, unit=unit, disable=not sys.stderr.isatty())


def _line(trial: FrozenTrial) -> str:
    seconds = f"{trial.user_attrs.get('seconds', 0):.1f} s"
    head, params = f"trial {trial.number:>3}", shown_params(trial.params)
    match trial.state.name:
        case "COMPLETE":
            interval = trial.user_attrs["dev_auc"]
            outcome = f"dev AUC {trial.value:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"
        case "PRUNED":
            outcome = (
                f"pruned after epoch {trial.user_attrs.get('epochs')}, dev AUC {trial.value:.3f}"
            )
        case _:
            outcome = f"failed: {trial.user_attrs.get('reason', 'unknown')}"
    return f"{head}  {outcome}  {params}  {seconds}"
