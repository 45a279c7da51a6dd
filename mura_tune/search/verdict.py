"""What a search found, and each of its trials, in words for people."""

from __future__ import annotations

from typing import Any

from mura_tune.metrics.comparison import FEW
from mura_tune.search.results import FinishedTrial, SearchResult, numbered
from mura_tune.search.trial_record import TrialRecord


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
        seeds = len(result.confirmed[0].scores)
        plural = "" if seeds == 1 else "s"
        lines.append(f"confirmed with {seeds} new seed{plural} each (dev {result.monitor}):")
    for run in result.confirmed:
        each = ", ".join(f"{score:.3f}" for score in run.scores)
        lines.append(f"  trial {run.trial:>3}  mean {run.mean:.3f}  ({each})")
    lines += [
        f"  trial {number:>3}  not confirmed: {reason}"
        for number, reason in result.unconfirmed.items()
    ]
    return lines


def describe_verdict(result: SearchResult) -> str:
    """Whether the winner beats the baseline, by how much, and over which scores."""
    if result.pending:
        return (
            f"no winner yet: the confirmation is not done ({numbered('trial', result.pending)} "
            "to go); the same 'mura tune' goes on with it"
        )
    if result.baseline is None:
        return "no baseline finished: nothing to compare the winner with"
    if result.best.number == result.baseline.number:
        return "the baseline itself is the winner: the search found nothing better"
    d = result.difference
    assert d is not None  # there is a baseline, and another won
    text = f"{d.signed()} dev {result.monitor}, paired by patient, {_compared(result)}"
    if result.rarer < FEW:
        return (
            f"{result.rarer} dev patients of one class are too few to say whether the winner "
            f"beats the baseline: {text}"
        )
    if d.low > 0:
        return f"the winner beats the baseline: {text}"
    if d.high < 0:
        return f"the winner is worse than the baseline: {text}"
    return f"the winner is not shown to beat the baseline: {text}"


def _compared(result: SearchResult) -> str:
    """Which scores the difference is of."""
    if result.over_new_seeds:
        return "over new seeds"
    picked = "by one seed each, the winner's picked as best"
    return f"{picked}: the baseline is not confirmed" if result.confirmed else picked


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
    score = f"dev {result.monitor} {trial.score:.3f} {trial.estimate.interval()}"
    n = f"(n = {trial.estimate.studies})"
    return f"trial {trial.number}: {score} {n}\n          {shown_params(trial.params)}"
