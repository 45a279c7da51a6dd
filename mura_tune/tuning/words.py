"""What a study found, and each of its trials, in words for people."""

from __future__ import annotations

from typing import Any

from optuna.trial import FrozenTrial

from mura_tune.tuning.results import Best, Trial
from mura_tune.tuning.stored import dev_score_of

FEW = 10  # patients of a class, below which a percentile interval says too little


def describe(found: Best) -> str:
    """The winner, what it had to beat, and whether it did."""
    ended = ", ".join(f"{n} {word}" for word, n in found.counts.items() if n)
    lines = [f"study {found.study}: {ended}", f"best      {_line(found, found.best)}"]
    if found.baseline:
        lines.append(f"baseline  {_line(found, found.baseline)}")
    lines.append(f"          finished trials range from {found.span[0]:.3f} to {found.span[1]:.3f}")
    if found.confirmed:
        seeds = len(found.confirmed[0].scores)
        lines.append(
            f"confirmed with {seeds} new seed{'s' * (seeds > 1)} each (dev {found.monitor}):"
        )
        lines += [
            f"  trial {c.trial:>3}  mean {c.mean:.3f}  ({', '.join(f'{s:.3f}' for s in c.scores)})"
            for c in found.confirmed
        ]
    lines.append(verdict(found))
    return "\n".join(lines)


def verdict(found: Best) -> str:
    """Whether the winner beats the baseline, and by how much."""
    how = "over new seeds" if found.confirmed else "by one seed each, the winner's picked as best"
    if found.baseline is None:
        return "no baseline finished: nothing to compare the winner with"
    if found.best.number == found.baseline.number:
        return "the baseline itself is the winner: the search found nothing better"
    d = found.difference
    assert d is not None  # there is a baseline, and another won
    text = (f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}] dev {found.monitor}, paired by patient, "
            f"{how}")  # fmt: skip
    if found.rarer < FEW:
        return (f"{found.rarer} dev patients of one class are too few to say whether the winner "
                f"beats the baseline: {text}")  # fmt: skip
    if d.low > 0:
        return f"the winner beats the baseline: {text}"
    if d.high < 0:
        return f"the winner is worse than the baseline: {text}"
    return f"the winner is not shown to beat the baseline: {text}"


def shown_params(params: dict[str, Any]) -> str:
    """A trial's values in a line, to three digits."""
    return "  ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in params.items()
    )


def trial_line(trial: FrozenTrial, measure: str) -> str:
    """How a trial ended, in a line; `measure` is what its score is."""
    seconds = f"{trial.user_attrs.get('seconds', 0):.1f} s"
    role = trial.user_attrs.get("from") or trial.user_attrs.get("role") or ""
    if "of" in trial.user_attrs:
        role = f"again trial {trial.user_attrs['of']}"
    head, params = f"trial {trial.number:>3}", shown_params(trial.params)
    match trial.state.name:
        case "COMPLETE":
            score = dev_score_of(trial)
            outcome = f"dev {measure} {trial.value:.3f} [{score['low']:.3f}, {score['high']:.3f}]"
        case "PRUNED":
            outcome = (
                f"pruned after epoch {trial.user_attrs.get('epochs')}, "
                f"dev {measure} {trial.value:.3f}"
            )
        case _:
            outcome = f"failed: {trial.user_attrs.get('reason', 'unknown')}"
    told = f"{head}  {outcome}  {seconds}" + (f"  ({role})" if role else "")
    return f"{told}  {params}"


def _line(found: Best, trial: Trial) -> str:
    low, high = trial.interval
    score = f"dev {found.monitor} {trial.score:.3f} [{low:.3f}, {high:.3f}] (n = {trial.studies})"
    return f"trial {trial.number}: {score}\n          {shown_params(trial.params)}"
