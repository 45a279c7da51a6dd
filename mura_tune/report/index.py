"""index.html and RESULTS.md: every release of a folder beside what others published."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from matplotlib.axes import Axes

from mura_tune import files
from mura_tune.errors import InputError, explain_error
from mura_tune.lines import visible
from mura_tune.release_format import checksums
from mura_tune.release_format import manifest as manifests
from mura_tune.release_format.manifest import NAME as MANIFEST
from mura_tune.release_format.manifest import REPORT, SCHEMA
from mura_tune.report.charts import BLUE, chart
from mura_tune.report.page import WARNING, cell, markdown, plain, shell, table, words
from mura_tune.training.recognition import NAMES
from mura_tune.training.tasks import PART

# Over all areas together; the two sets are never put into one table.
PUBLISHED = {
    "MURA's hidden test set": (
        ("DenseNet-169, 320 px (Rajpurkar et al. 2018)", "207", "0.929", "0.705", "0.815", "0.887"),
        (
            "three radiologists, one by one (Rajpurkar et al. 2018)",
            "207",
            "",
            "0.731 to 0.778",
            "",
            "",
        ),
        ("best of the public leaderboard", "207", "", "0.843", "", ""),
    ),
    "MURA's published valid part": (
        ("public code, ensembles of two networks", "1,199", "", "0.66 to 0.68", "", ""),
    ),
}
_NOTE = (
    "Others' figures are over all areas, as they were published, without intervals. The hidden "
    "test set and the published valid part differ a lot (hand: kappa 0.85 and 0.55), and figures "
    "on another data set say nothing about MURA: compare within one set only."
)


KEYS = {"auc": "AUC", "kappa": "kappa", "sensitivity": "sensitivity", "specificity": "specificity"}
_HOW = (
    "Test, by study, with 95 % intervals from 2,000 resamplings of whole patients; each at its "
    "own operating point, which was chosen on dev."
)
_OTHERS = ("published by others", "studies", *KEYS.values())
Release = tuple[str, Mapping[str, Any]]  # its folder's name, and its bundle.json


def write(folder: Path, say: Callable[[str], None]) -> None:
    """Write both files over the releases in `folder`; nothing where there is none.

    Args:
        say: told in a line of each release that is left out, and why.
    """
    found = _releases(folder, say)
    if found:
        files.replace_file(
            folder / "index.html", index_html(found).encode("utf-8", "backslashreplace")
        )
        files.replace_file(
            folder / "RESULTS.md", results_md(found).encode("utf-8", "backslashreplace")
        )


def index_html(releases: Sequence[Release]) -> str:
    """The page, from (folder name, what bundle.json says) of each release."""
    parts = []
    for name, group in _by_set(releases):
        parts.append(f"<h2>Measured on {plain(name)}</h2>")
        for keys, some in _by_figures(group):
            rows = [
                [_link(folder, m), _studies(m), *(cell(m["metrics"]["test"][key]) for key in keys)]
                for folder, m in some
            ]
            parts.append(table(("release", "studies", *keys.values()), rows, wide=True))
            if len(some) > 1:
                parts.append(f'<div class="charts">{_forest(next(iter(keys.items())), some)}</div>')
    for name, others in PUBLISHED.items():
        parts.append(f"<h2>For orientation: {plain(name)}</h2>{table(_OTHERS, others, wide=True)}")
    return shell(
        "mura-tune releases",
        f"<h1>Releases</h1><p class='warning'><b>{WARNING}</b></p><p>{_HOW}</p>{''.join(parts)}"
        f"<p class='note'>{_NOTE}</p>",
    )


def _forest(figure: tuple[str, str], releases: Sequence[Release]) -> str:
    """One figure of each release with its interval, below one another."""
    key, name = figure
    found = [(folder, m["metrics"]["test"][key]) for folder, m in releases]
    there = [(folder, one) for folder, one in found if one["value"] is not None]

    def draw(axes: Axes) -> None:
        for y, (_, one) in enumerate(there):
            axes.plot([one["low"], one["high"]], [y, y], c=BLUE, lw=1.4)
            axes.plot(one["value"], y, "o", c=BLUE, ms=5)
        axes.set_yticks(range(len(there)), [visible(folder) for folder, _ in there])
        axes.set_ylim(len(there) - 0.5, -0.5)

    return chart(f"{name} on test, with 95 %", name, "", draw, height=1.1 + 0.24 * len(there))


def results_md(releases: Sequence[Release]) -> str:
    """The same as Markdown."""
    lines = ["# Results", "", f"**{WARNING}**", "", _HOW, ""]
    for name, group in _by_set(releases):
        lines += [f"## Measured on {markdown(name)}", ""]
        for keys, some in _by_figures(group):
            head = ("release", "model", "studies", *keys.values())
            lines += [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
            for folder, m in some:
                test = m["metrics"]["test"]
                link = f"[{markdown(folder)}]({_url(folder)}/{REPORT})"
                cells = (
                    link,
                    markdown(_model(m)),
                    _studies(m),
                    *(words(test[key]) for key in keys),
                )
                lines.append(f"| {' | '.join(cells)} |")
            lines.append("")
    for name, others in PUBLISHED.items():
        rows = [f"| {' | '.join(row)} |" for row in others]
        lines += [
            f"## For orientation: {name}",
            "",
            f"| {' | '.join(_OTHERS)} |",
            "| --- " * len(_OTHERS) + "|",
            *rows,
            "",
        ]
    return "\n".join([*lines, _NOTE, ""])


def _releases(folder: Path, say: Callable[[str], None]) -> list[Release]:
    """What can be shown, in the order of names; a damaged neighbour takes away nothing but itself.

    Those of schema 1 were measured by other figures, and are passed over.
    """
    found: list[Release] = []
    for place in sorted(path.parent for path in folder.glob(f"*/{MANIFEST}")):
        if place.name.startswith("."):
            continue
        try:
            manifest = _vouched(place)
        except (InputError, OSError) as error:
            say(f"{explain_error(error) or place}; left out of index.html and RESULTS.md")
            continue
        if manifest["schema"] == SCHEMA and "metrics" in manifest:
            found.append((place.name, manifest))
    return found


def _vouched(place: Path) -> dict[str, Any]:
    """What a release's bundle.json says, as its sums have it; the rest is not looked at here."""
    checksums.check_file(place, MANIFEST, checksums.read(place))
    return manifests.read(place / MANIFEST)


def _by_set(releases: Sequence[Release]) -> list[tuple[str, list[Release]]]:
    """Releases by the data set whose valid part they were measured on."""
    groups: dict[str, list[Release]] = {}
    for folder, manifest in releases:
        name = manifest.get("data", {}).get("name") or f"the data set of {folder}"
        groups.setdefault(f"the published valid part of {name}", []).append((folder, manifest))
    return sorted(groups.items())


def _by_figures(group: Sequence[Release]) -> list[tuple[Mapping[str, str], list[Release]]]:
    """What tells normal from abnormal, then what tells areas apart, each with its figures."""
    routers = [one for one in group if one[1].get("task") == PART.name]
    others = [one for one in group if one not in routers]
    return [(keys, some) for keys, some in ((KEYS, others), (NAMES, routers)) if some]


def _link(folder: str, manifest: Mapping[str, Any]) -> str:
    there = f'<a href="{_url(folder)}/{REPORT}">{plain(folder)}</a>'
    return f"{there}<br><small>{plain(_model(manifest))}</small>"


def _url(folder: str) -> str:
    """A folder's name in a link, to the byte."""
    return quote(folder, errors="surrogateescape")


def _studies(manifest: Mapping[str, Any]) -> str:
    """How many, and of them abnormal where that is what was asked."""
    test = manifest["metrics"]["test"]
    some = f" ({test['abnormal']} abnormal)" if "abnormal" in test else ""
    return f"{test['studies']}{some}"


def _model(manifest: Mapping[str, Any]) -> str:
    members = len(manifest.get("members", ())) or 1
    of = f"{members} x " if members > 1 else ""
    return f"{of}{manifest['arch']}, {manifest['preprocessing']['size']} px"
