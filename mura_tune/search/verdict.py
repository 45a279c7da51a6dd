"""What a study found, and each of its trials, in words for people."""

from __future__ import annotations

from typing import Any

from mura_tune.search.records import TrialRecord
from mura_tune.search.results import Best, Trial, numbers

FEW = 10  # patients of a class, below which a percentile interval says too little


def describe(found: Best) -> str:
    """The winner, what it had to beat, and whether it did."""
    ended = ", ".join(f"{n} {word}" for word, n in found.counts.items() if n)
    lines = [f"study {found.study}: {ended}", f"best      {_line(found, found.best)}"]
    if found.baseline:
        lines.append(f"baseline  {_line(found, found.baseline)}")
    lines.append(f"          finished trials range from {found.span[0]:.3f} to {found.span[1]:.3f}")
    lines += _confirmation(found)
    if found.foreign:
        verb = "is" if len(found.foreign) == 1 else "are"
        lines.append(
            f"{numbers('trial', found.foreign)} {verb} another program's, without recipe "
            "or scores, and left out of account"
        )
    lines.append(verdict(found))
    return "\n".join(lines)


def _confirmation(found: Best) -> list[str]:
    """A line for each candidate that was trained again, or could not be."""
    lines = []
    if found.confirmed:
        seeds = len(found.confirmed[0].scores)
        plural = "" if seeds == 1 else "s"
        lines.append(f"confirmed with {seeds} new seed{plural} each (dev {found.monitor}):")
    for one in found.confirmed:
        each = ", ".join(f"{score:.3f}" for score in one.scores)
        lines.append(f"  trial {one.trial:>3}  mean {one.mean:.3f}  ({each})")
    lines += [
        f"  trial {number:>3}  not confirmed: {reason}"
        for number, reason in found.unconfirmed.items()
    ]
    return lines


def verdict(found: Best) -> str:
    """Whether the winner beats the baseline, by how much, and over which scores."""
    if found.pending:
        return (
            f"no winner yet: the confirmation is not done ({numbers('trial', found.pending)} "
            "to go); the same 'mura tune' goes on with it"
        )
    if found.baseline is None:
        return "no baseline finished: nothing to compare the winner with"
    if found.best.number == found.baseline.number:
        return "the baseline itself is the winner: the search found nothing better"
    d = found.difference
    assert d is not None  # there is a baseline, and another won
    text = f"{d.signed()} dev {found.monitor}, paired by patient, {_compared(found)}"
    if found.rarer < FEW:
        return (
            f"{found.rarer} dev patients of one class are too few to say whether the winner "
            f"beats the baseline: {text}"
        )
    if d.low > 0:
        return f"the winner beats the baseline: {text}"
    if d.high < 0:
        return f"the winner is worse than the baseline: {text}"
    return f"the winner is not shown to beat the baseline: {text}"


def _compared(found: Best) -> str:
    """Which scores the difference is of."""
    if found.over_new_seeds:
        return "over new seeds"
    picked = "by one seed each, the winner's picked as best"
    return f"{picked}: the baseline is not confirmed" if found.confirmed else picked


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


def _line(found: Best, trial: Trial) -> str:
    score = f"dev {found.monitor} {trial.score:.3f} {trial.estimate.interval()}"
    n = f"(n = {trial.estimate.studies})"
    return f"trial {trial.number}: {score} {n}\n          {shown_params(trial.params)}"
