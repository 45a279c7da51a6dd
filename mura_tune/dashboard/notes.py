"""Notes for the dashboard, in Markdown: one for each trial and one for each search."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, json_to_distribution
from optuna_dashboard import get_note, save_note

from mura_tune.search.results import SearchResult, count_outcomes, numbered, read_result
from mura_tune.search.search_record import SearchRecord
from mura_tune.search.trial_record import TrialRecord, TrialWriter
from mura_tune.search.verdict import describe_verdict
from mura_tune.strict import flatten
from mura_tune.training.fit import FitResult

WIDE = 120  # characters; a page of the dashboard is as wide as its longest line
SplitCounts = Mapping[str, Mapping[str, int]]  # such as dev -> studies -> 120


def write_trial_note(
    trial: optuna.Trial,
    fits: Sequence[FitResult],
    pictures: Mapping[str, str],
    missing: str,
    monitor: str,
    caption: str,
) -> str:
    """Return a trial's note: score, cost and recipe in tables, pictures below.

    Args:
        pictures: the path at which the dashboard serves each picture, by file name.
        missing: why there are no pictures; shown where `pictures` is empty.
        monitor: the name of the score.
        caption: the text above the pictures.
    """
    record = TrialWriter(trial).read()
    score, recipe = record.dev, flatten(asdict(record.recipe))
    searched = {path: recipe.pop(path, value) for path, value in record.params.items()}
    seconds = sum(epoch.seconds for fit in fits for epoch in fit.epochs)
    result = {
        f"dev {monitor}": f"**{score.value:.3f}**",
        "95 % interval": score.range(),
        **_other_estimates(record),
        "studies": score.studies,
        "patients": score.patients,
        "epochs": ", ".join(str(len(fit.epochs)) for fit in fits),
        "best": ", ".join(str(fit.epoch.number) for fit in fits),
        "seconds": f"{seconds:.0f}" if seconds >= 100 else f"{seconds:.3g}",
    }
    rest = ", ".join(f"{path} {three_digits(value)}" for path, value in recipe.items())
    rest = "  \n".join(textwrap.wrap(f"The rest of the recipe: {rest}.", WIDE))
    lines = [*_head(result), _row(result.values()), ""]
    if searched:
        lines += [*_head(searched), _row(map(three_digits, searched.values())), ""]
    if not pictures:
        return "\n".join([*lines, rest, "", f"Pictures: {missing}."])
    shown = (line for name, path in pictures.items() for line in ("", f"![{name}]({path})"))
    return "\n".join([*lines, rest, "", caption, *shown])


def _other_estimates(trial: TrialRecord) -> dict[str, str]:
    """Estimates that do not decide: the AUC where another score decides, and the accuracy of the
    body part where recognising it is a second task."""
    estimates = {"body part recognised": trial.dev_area, "dev study AUC": trial.other_auc}
    return {name: estimate.brief() for name, estimate in estimates.items() if estimate}


def write_study_note(
    search: SearchRecord,
    confirmation: SearchRecord | None = None,
    *,
    resume: str,
    finalize: str,
    split_counts: SplitCounts | None = None,
) -> None:
    """Store the note of a search: its result so far, its axes, its data and its commands.

    Args:
        confirmation: of the search, if there is one yet.
        resume: the command that goes on with the search.
        finalize: the command that releases its winner.
        split_counts: the number of images, studies and patients of each split.
    """
    comparable = search.comparable
    assert comparable is not None  # it was started
    body = "\n".join(
        [
            *_result(search, confirmation),
            "",
            "#### What is searched",
            "",
            *_axes(comparable["space"], flatten(comparable["recipe"])),
            "",
            "#### On which data",
            "",
            *_data(comparable, split_counts),
            "",
            "#### Commands",
            "",
            *_head(["to", "run"]),
            _row(["go on with the search", f"`{resume}`"]),
            _row(["release the winner", f"`{finalize}`"]),
        ]
    )
    if get_note(search.handle) != body:  # saving it again would discard what a person writes there
        save_note(search.handle, body)


def three_digits(value: Any) -> str:
    """A value for people: a fraction to three significant digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _result(search: SearchRecord, confirmation: SearchRecord | None) -> Iterator[str]:
    """The verdict, and a table of the winner, the candidates and the baseline."""
    trials = search.trials()
    ended = (
        ", ".join(f"{n} {word}" for word, n in count_outcomes(trials).items() if n) or "none yet"
    )
    if not any(trial.is_finished for trial in trials):
        yield f"**No trial has finished yet.** Trials: {ended}."
        return
    result = read_result(search, confirmation)
    words = describe_verdict(result)
    yield f"**{words[0].upper()}{words[1:]}.**"
    yield ""
    confirmations = {c.trial: c for c in result.confirmed}
    means = {t.number: t.confirmed for t in (result.best, result.baseline) if t and t.confirmed}
    new = ["mean over new seeds", "95 % interval, studies", "each seed"] if confirmations else []
    searched = "in the search, one seed" if confirmations else f"dev {result.monitor}, one seed"
    yield from _head(["", "trial", *new, searched, "95 % interval", "studies"])
    for number, name in _named_trials(result).items():
        row: list[object] = [name, number]
        if confirmations:
            seeds, mean = confirmations.get(number), means.get(number)
            row += [
                f"**{seeds.mean:.3f}**" if seeds else "",
                f"{mean.range()}, {mean.studies}" if mean else "",
                ", ".join(f"{score:.3f}" for score in seeds.scores) if seeds else "",
            ]
        dev = trials[number].dev
        picked = " (picked for it)" if number == result.best.number else ""
        yield _row([*row, f"{dev.value:.3f}{picked}", dev.range(), dev.studies])
    yield ""
    state = "are confirmed" if confirmations else "are not confirmed with new seeds (yet)"
    if result.pending:
        state = f"are being confirmed with new seeds ({numbered('trial', result.pending)} to go)"
    yield f"Trials: {ended}. The best {state}."
    for number, reason in result.unconfirmed.items():
        yield f"Trial {number} could not be confirmed: {reason}."
    if result.foreign:
        yield (
            f"Left out: {numbered('trial', result.foreign)}, of another program, without recipe "
            "or scores."
        )


def _named_trials(result: SearchResult) -> dict[int, str]:
    """The trials worth a row, in order, and what each is called."""
    first = "best so far" if result.pending else "winner"
    names = {result.best.number: first}
    names |= {c.trial: "candidate" for c in result.confirmed if c.trial not in names}
    if result.baseline and result.baseline.number != result.best.number:
        names[result.baseline.number] = "baseline"
    elif result.baseline:
        names[result.best.number] = f"{first}: the baseline"
    return names


def _axes(space: Mapping[str, Any], recipe: Mapping[str, Any]) -> Iterator[str]:
    """A row for each searched field: its range, and the baseline's value."""
    yield from _head(["recipe field", "range", "baseline"])
    for path, raw in space.items():
        shown = _range(json_to_distribution(json.dumps(raw)))
        yield _row([f"`{path}`", shown, three_digits(recipe.get(path))])


def _range(axis: BaseDistribution) -> str:
    if isinstance(axis, CategoricalDistribution):
        return ", ".join(three_digits(choice) for choice in axis.choices)
    numeric: Any = axis  # floats and integers alike have these four
    scale = ", on a log scale" if numeric.log else ""
    if numeric.step not in (None, 1):
        scale = f", in steps of {three_digits(numeric.step)}"
    return f"{three_digits(numeric.low)} to {three_digits(numeric.high)}{scale}"


def _data(comparable: Mapping[str, Any], split_counts: SplitCounts | None) -> Iterator[str]:
    """The area, the splits and the fingerprints of the data."""
    split = comparable["split"]
    rule = f"{split['dev']:.0%} of the training patients are dev"
    if split.get("folds"):
        rule = f"a score is the mean over {split['folds']} folds of the training patients"
    yield (
        f"{comparable['area']}: {rule} (seed {split['seed']}); no patient is in two splits. "
        "The search does not read test, MURA's published `valid` split."
    )
    yield ""
    if split_counts:
        units = list(next(iter(split_counts.values())))
        yield from _head(["split", *units])
        yield from (_row([split_name, *row.values()]) for split_name, row in split_counts.items())
        yield ""
    yield f"Fingerprints: data `{comparable['dataset'][:12]}`, "
    yield f"split `{comparable['split_hash'][:12]}`."


def _head(names: Iterable[object]) -> list[str]:
    names = list(names)
    return [_row(names), "|" + " :--- |" * len(names)]


def _row(cells: Iterable[object]) -> str:
    """A row of a table. The dashboard sets columns without a gap, so each cell brings its own."""
    return "| " + " &emsp; | ".join(map(str, cells)) + " |"
