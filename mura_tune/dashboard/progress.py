"""The progress of a search on stderr: a bar over its trials, and a line for each trial."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn, Self

from optuna.trial import TrialState
from tqdm import tqdm

from mura_tune.search.search import SearchEvent, TrialEnded, WorkerNote
from mura_tune.search.trial_record import TrialRecord
from mura_tune.search.verdict import trial_line
from mura_tune.text import CONFIRM_SUFFIX
from mura_tune.training.fit import Epoch

# The most important fields stand first: a terminal of 80 columns cuts the rest.
_FORM = "{desc} {n_fmt}/{total_fmt}  {elapsed}, {remaining} to go{postfix}"


class Epochs:
    """A bar over the epochs of one run or of several."""

    def __init__(self, title: str, epochs: int, measure: str) -> None:
        self._measure = measure
        self._bar = _bar(epochs, title, "epoch")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def epoch(self, epoch: Epoch) -> None:
        """Move the bar on by one epoch."""
        self._bar.set_postfix_str(f"dev {self._measure} {epoch.score:.3f}, loss {epoch.loss:.3f}")
        self._bar.update()


class SearchProgress:
    """A bar over the trials of one or more searches: running, pruned, failed, best, time left.

    Args:
        budgets: the number of trials of each search, in total.
        trials: returns the trials of a search as they are now.
        measures: the name of the scores of each search, such as AUC.
    """

    def __init__(
        self,
        budgets: Mapping[str, int],
        trials: Callable[[str], Sequence[TrialRecord]],
        measures: Mapping[str, str],
    ) -> None:
        self._budgets = budgets
        self._measures = measures
        self._running: dict[tuple[str, int], str] = {}
        self._ended: dict[str, dict[int, TrialRecord]] = {
            name: {t.number: t for t in trials(name) if t.state.is_finished() and not t.is_foreign}
            for name in budgets
        }
        self._bar = _bar(sum(budgets.values()), "trials", "trial")
        self._bar.initial = self._done()  # an earlier call's say nothing about this one's speed
        self._bar.update(self._done() - self._bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def __call__(self, event: SearchEvent) -> None:
        """Show an event on the bar; a trial that ended gets a line, and so does a note."""
        name = event.search
        if isinstance(event, WorkerNote):
            self.say(event.line)
            return
        if isinstance(event, TrialEnded):
            self._running.pop((name, event.trial.number), None)
            self._ended.setdefault(name, {})[event.trial.number] = event.trial
            head = f"{name}  " if len(self._budgets) > 1 or name.endswith(CONFIRM_SUFFIX) else ""
            measure = self._measures[name.removesuffix(CONFIRM_SUFFIX)]
            tqdm.write(head + trial_line(event.trial, measure), file=sys.stderr)
            self._bar.update(self._done() - self._bar.n)
        else:
            short = f"{event.trial}: {event.epoch}/{event.epochs}"
            self._running[name, event.trial] = short
        self._bar.set_postfix_str(self._state())

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        tqdm.write(line, file=sys.stderr)

    def _done(self) -> int:
        return sum(
            min(budget, sum(t.is_done for t in self._ended[name].values()))
            for name, budget in self._budgets.items()
        )

    def _state(self) -> str:
        ended = [t for name in self._budgets for t in self._ended[name].values()]
        pruned = sum(t.state == TrialState.PRUNED for t in ended)
        failed = sum(t.failed_by_itself for t in ended)
        counts = []
        finished = [t for t in ended if t.state == TrialState.COMPLETE]
        if finished and len(self._budgets) == 1:
            best = max(finished, key=lambda t: t.score)
            counts.append(f"best {best.score:.3f} {best.dev.interval()}")
        counts += [f"{n} {word}" for n, word in ((pruned, "pruned"), (failed, "failed")) if n]
        counts += [f"running {', '.join(self._running.values())}"] if self._running else []
        return ", ".join(counts)


def notify_all(*listeners: Callable[[SearchEvent], None]) -> Callable[[SearchEvent], None]:
    """Return one listener that passes every event on to several."""

    def notify(event: SearchEvent) -> None:
        for listener in listeners:
            listener(event)

    return notify


def _bar(total: int, title: str, unit: str) -> tqdm[NoReturn]:
    """Return a bar that is shown in a terminal only, so that logs hold plain lines."""
    return tqdm(
        total=total,
        desc=title,
        unit=unit,
        disable=not sys.stderr.isatty(),
        bar_format=_FORM,
        dynamic_ncols=True,
    )
