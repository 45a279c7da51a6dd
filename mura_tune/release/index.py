"""index.html and RESULTS.md: every release of a folder beside what others published."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mura_tune import files
from mura_tune.learning.tasks import PART
from mura_tune.release.bundle import MANIFEST, REPORT, SCHEMA
from mura_tune.release.page import WARNING, cell, plain, shell, table, words
from mura_tune.release.routing import NAMES

# Over all areas together; the two sets are never put into one table.
PUBLISHED = {
    "MURA's hidden test set": (
        ("DenseNet-169, 320 px (Rajpurkar et al. 2018)", "0.929", "0.705"),
        ("radiologists (Rajpurkar et al. 2018)", "", "0.731 to 0.778"),
        ("best of the public leaderboard", "", "0.843"),
    ),
    "MURA's published valid part": (("public two-model ensembles", "", "0.66 to 0.68"),),
}
_NOTE = (
    "Others' figures are over all areas. The hidden test set and the published valid part differ a "
    "lot (hand: kappa 0.85 and 0.55), and figures on another data set say nothing about MURA: "
    "compare within one set only."
)


KEYS = {"auc": "AUC", "kappa": "kappa", "sensitivity": "sensitivity",
        "specificity": "specificity"}  # fmt: skip
_HOW = "By study, with 95 % intervals from 2,000 resamplings of whole patients."
Release = tuple[str, Mapping[str, Any]]  # its folder's name, and its bundle.json


def write(folder: Path) -> None:
    """Write both files over the releases in `folder`; nothing where there is none."""
    found = _releases(folder)
    if found:
        files.replace(folder / "index.html", index_html(found).encode())
        files.replace(folder / "RESULTS.md", results_md(found).encode())


def index_html(releases: Sequence[Release]) -> str:
    """The page, from (folder name, what bundle.json says) of each release."""
    parts = []
    for name, group in _by_set(releases):
        parts.append(f"<h2>Measured on {plain(name)}</h2>")
        for keys, some in _by_figures(group):
            rows = [
                [_link(folder, m), str(m["metrics"]["test"]["studies"]),
                 *(cell(m["metrics"]["test"][key]) for key in keys)]
                for folder, m in some
            ]  # fmt: skip
            parts.append(table(("release", "studies", *keys.values()), rows, wide=True))
    for name, others in PUBLISHED.items():
        rows = [list(row) for row in others]
        told = table(("published by others", "AUC", "kappa"), rows)
        parts.append(f"<h2>For orientation: {plain(name)}</h2>{told}")
    return shell(
        "mura-tune releases",
        f"<h1>Releases</h1><p class='warning'><b>{WARNING}</b></p><p>{_HOW}</p>{''.join(parts)}"
        f"<p class='note'>{_NOTE}</p>",
    )


def results_md(releases: Sequence[Release]) -> str:
    """The same as Markdown."""
    lines = ["# Results", "", f"**{WARNING}**", "", _HOW, ""]
    for name, group in _by_set(releases):
        lines += [f"## Measured on {name}", ""]
        for keys, some in _by_figures(group):
            head = ("release", "model", "studies", *keys.values())
            lines += [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
            for folder, m in some:
                test = m["metrics"]["test"]
                cells = (f"[{folder}]({folder}/{REPORT})", _model(m), str(test["studies"]),
                         *(words(test[key]) for key in keys))  # fmt: skip
                lines.append(f"| {' | '.join(cells)} |")
            lines.append("")
    for name, others in PUBLISHED.items():
        rows = [f"| {' | '.join(row)} |" for row in others]
        lines += [f"## For orientation: {name}", "", "| published by others | AUC | kappa |",
                  "| --- " * 3 + "|", *rows, ""]  # fmt: skip
    return "\n".join([*lines, _NOTE, ""])


def _releases(folder: Path) -> list[Release]:
    found = []
    for path in sorted(folder.glob(f"*/{MANIFEST}")):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not path.parent.name.startswith(".") and manifest.get("schema") == SCHEMA:
            found.append((path.parent.name, manifest))
    return found


def _by_set(releases: Sequence[Release]) -> list[tuple[str, list[Release]]]:
    """Releases by the data set whose valid part they were measured on."""
    groups: dict[str, list[Release]] = {}
    for folder, manifest in releases:
        name = manifest["data"].get("name") or f"the data set of {folder}"
        groups.setdefault(f"the published valid part of {name}", []).append((folder, manifest))
    return sorted(groups.items())


def _by_figures(group: Sequence[Release]) -> list[tuple[Mapping[str, str], list[Release]]]:
    """What tells normal from abnormal, then what tells areas apart, each with its figures."""
    routers = [one for one in group if one[1].get("task") == PART.name]
    others = [one for one in group if one not in routers]
    return [(keys, some) for keys, some in ((KEYS, others), (NAMES, routers)) if some]


def _link(folder: str, manifest: Mapping[str, Any]) -> str:
    there = f'<a href="{plain(folder)}/{REPORT}">{plain(folder)}</a>'
    return f"{there}<br><small>{plain(_model(manifest))}</small>"


def _model(manifest: Mapping[str, Any]) -> str:
    return f"{manifest['arch']}, {manifest['preprocessing']['size']} px"
