"""How often areas are recognised, for cards and pages: figures, and what was taken for what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mura_tune.report.page import cell, markdown, plain, table, words
from mura_tune.training.recognition import NAMES

Part = Mapping[str, Any]  # of a part of the data, what `Recognition.to_json` gives


def figure_rows(dev: Part, test: Part) -> list[tuple[str, str, str]]:
    """Each figure with its interval on dev and on test, as plain text."""
    rows = [(name, words(dev[key]), words(test[key])) for key, name in NAMES.items()]
    return rows + [
        (f"{area} recognised", _words(dev, area), _words(test, area)) for area in test["areas"]
    ]


def confusion_md(test: Part) -> str:
    """Studies by area and by what they were taken for, in Markdown."""
    areas = [markdown(area) for area in test["areas"]]
    rows = (
        f"| {area} | {' | '.join(map(str, row))} |"
        for area, row in zip(areas, test["confusion"], strict=True)
    )
    return "\n".join([f"| | {' | '.join(areas)} |", "| --- |" + " --- |" * len(areas), *rows])


def figures_html(dev: Part, test: Part, studies: tuple[int, int]) -> str:
    """The figures as a table; `studies` are those of dev and of test."""
    head = ("", f"test, by study<br>n = {studies[1]}", f"dev, by study<br>n = {studies[0]}")
    rows = [[name, cell(test[key]), cell(dev[key])] for key, name in NAMES.items()]
    rows += [
        [f"{plain(area)} recognised", *(_cell(part, area) for part in (test, dev))]
        for area in test["areas"]
    ]
    return table(head, rows)


def confusion_html(test: Part) -> str:
    """Studies by area and by what they were taken for."""
    areas = [plain(area) for area in test["areas"]]
    rows = [[area, *map(str, row)] for area, row in zip(areas, test["confusion"], strict=True)]
    note = "<p class='note'>Test studies by their area (rows) and by the one called.</p>"
    return table(("area, called:", *areas), rows) + note


def body_part(dev: Mapping[str, Any], test: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The section on the second task of a multi-task release, its heading and what stands under
    it; nothing of any other.

    Args:
        dev: what `Measured.to_json` gives of dev; `test` of test.
    """
    if "body_part" not in test:
        return
    on_dev, on_test = dev["body_part"], test["body_part"]
    figures = figures_html(on_dev, on_test, (dev["studies"], test["studies"]))
    note = (
        "<p class='note'>Its second task, by study, logits averaged over views. The part that "
        "it predicts feeds its answer; the true one is never told.</p>"
    )
    yield "Body part", figures + note + confusion_html(on_test)


def _words(part: Part, area: str) -> str:
    found = part["recall"].get(area)
    return words(found) if found else "no study"


def _cell(part: Part, area: str) -> str:
    found = part["recall"].get(area)
    return cell(found) if found else "no study"
