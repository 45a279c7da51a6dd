"""What a search found, and each of its trials, in words for people."""

from __future__ import annotations

from enum import Enum
from typing import Any

from mura_tune.metrics.comparison import FEW
from mura_tune.metrics.estimates import Estimate
from mura_tune.search.results import FinishedTrial, SearchResult, numbered
from mura_tune.search.trial_record import TrialRecord


class Verdict(Enum):
    """What is said of a winner that is confirmed, and of the baseline."""

    BEATS = "the winner beats the baseline"
    WORSE = "the winner is worse than the baseline"
    NOT_SHOWN = "the winner is not shown to beat the baseline"
    TOO_FEW = "too few to say whether the winner beats the baseline"
    BASELINE = "the baseline itself is the winner: the search found nothing better"


def judge(difference: Estimate, rarer: int) -> Verdict:
    """What the difference of winner and baseline over new seeds says.

    Args:
        rarer: dev patients of the class that has fewer.
    """
    if rarer < FEW:
        return Verdict.TOO_FEW
    if difference.low > 0:
        return Verdict.BEATS
    return Verdict.WORSE if difference.high < 0 else Verdict.NOT_SHOWN


def describe_result(result: SearchResult) -> str:
    """The winner, what it had to beat, and whether it did."""
    ended = ", ".join(f"{n} {word}" for word, n in result.counts.items() if n)
    lines = [f"search {result.search}: {ended}", f"best      {_line(result, result.best)}"]
    if result.baseline:
        lines.append(f"baseline  {_line(result, result.baseline)}")
    lines.append(
        f"          finished trials range from {result.span[0]:.3f} to {result.span[1]:.3f}"
    )
    lines += _confirmation(result)
    if result.foreign:
        verb = "is" if len(result.foreign) == 1 else "are"
        lines.append(
            f"{numbered('trial', result.foreign)} {verb} another program's, without recipe "
            "or scores, and left out of account"
        )
    lines.append(describe_verdict(result))
    return "\n".join(lines)


def _confirmation(result: SearchResult) -> list[str]:
    """A line for each candidate that was trained again, or could not be."""
    lines = []
    if result.confirmed:
        lines.append(f"confirmed with {_new_seeds(result)} (dev {result.monitor}):")
    for run in result.confirmed:
        each = ", ".join(f"{score:.3f}" for score in run.scores)
        lines.append(f"  trial {run.trial:>3}  mean {run.mean:.3f}  ({each})")
    lines += [
        f"  trial {number:>3}  not confirmed: {reason}"
        for number, reason in result.unconfirmed.items()
    ]
    return lines


def describe_verdict(result: SearchResult) -> str:
    """Whether the winner beats the baseline, by how much, and over which scores.

    That it does is said of scores over new seeds alone. The scores of the search picked the winner.
    """
    if result.pending:
        return (
            f"no winner yet: the confirmation is not done ({numbered('trial', result.pending)} "
            "to go); the same 'mura tune' goes on with it"
        )
    if result.baseline is None:
        return "no baseline finished: nothing to compare the winner with"
    if result.best.number == result.baseline.number:
        return Verdict.BASELINE.value
    d = result.difference
    assert d is not None  # there is a baseline, and another won
    text = f"{d.signed()} dev {result.monitor}, paired by patient"
    if reason := _no_claim(result):
        return f"whether the winner beats the baseline is not known: {reason}: {text}"
    verdict = judge(d, result.rarer)
    few = f"{result.rarer} dev patients of one class are " if verdict is Verdict.TOO_FEW else ""
    return f"{few}{verdict.value}: {text}, over {_new_seeds(result)}"


def _no_claim(result: SearchResult) -> str:
    """Why nothing is claimed of winner and baseline; empty where both have new seeds."""
    assert result.baseline is not None
    if result.best.confirmed and result.baseline.confirmed:
        return ""
    if result.over_new_seeds:
        return "one new seed each does not say how much seeds vary"
    by_search = "by the search's scores, one seed each, the winner's picked for it"
    if result.confirmed:
        return f"the baseline is not confirmed; {by_search}"
    return f"no trial is confirmed with new seeds; {by_search}"


def _new_seeds(result: SearchResult) -> str:
    """How many new seeds a candidate has, and on which patients they are judged."""
    seeds = len(result.confirmed[0].scores)
    text = "1 new seed" if seeds == 1 else f"{seeds} new seeds"
    if not result.config.budget.confirm.resplit:
        return text
    division = "folds" if result.config.split.fold_count else "a dev split"
    return f"{text}, {'on' if seeds == 1 else 'each on'} {division} of its own"


def shown_params(params: dict[str, Any]) -> str:
    """A trial's values in a line, to three digits."""
    return "  ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in params.items()
    )


def trial_line(trial: TrialRecord, measure: str) -> str:
    """How a trial ended, in a line; `measure` is what its score is."""
    seconds = f"{trial.seconds or 0:.1f} s"
    role = trial.warm_start or trial.role or ""
    if trial.confirmed_trial is not None:
        role = f"again trial {trial.confirmed_trial}"
    head, params = f"trial {trial.number:>3}", shown_params(trial.params)
    match trial.state.name:
        case "COMPLETE":
            outcome = f"dev {measure} {trial.score:.3f} {trial.dev.interval()}"
        case "PRUNED":
            outcome = f"pruned after epoch {trial.epochs}, dev {measure} {trial.score:.3f}"
        case _:
            ended = "cut off" if trial.was_cut_off else "failed"
            outcome = f"{ended}: {trial.reason or 'unknown'}"
    named_role = f"  ({role})" if role else ""
    return f"{head}  {outcome}  {seconds}{named_role}  {params}"


def _line(result: SearchResult, trial: FinishedTrial) -> str:
    """A trial's mean over new seeds, then its score in the search; and its values."""
    searched = f"{trial.score:.3f} {trial.estimate.interval()} (n = {trial.estimate.studies})"
    score = f"dev {result.monitor} {searched}, one seed"
    is_best, is_baseline = (
        other is not None and trial.number == other.number
        for other in (result.best, result.baseline)
    )
    run = next((run for run in result.confirmed if run.trial == trial.number), None)
    if run:  # a baseline is confirmed whatever its score
        picked = "picked for it" if is_best and not is_baseline else "in the search"
        mean = f"{trial.confirmed}, mean over" if trial.confirmed else f"{run.mean:.3f},"
        score = f"dev {result.monitor} {mean} {_new_seeds(result)}\n          [{searched} {picked}]"
    elif is_best:
        score += ", picked for it"
    return f"trial {trial.number}: {score}\n          {shown_params(trial.params)}"
