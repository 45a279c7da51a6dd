"""What the pages share: one HTML shell with its style, tables, and figures in words."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from mura_tune.lines import printable
from mura_tune.metrics.estimates import Estimate

WARNING = "Not a medical device. For research; not for any decision about a patient."


def shell(title: str, body: str) -> str:
    """A whole page; it asks nothing of any other file or address."""
    template = Template(Path(__file__).with_name("page.html").read_text("utf-8"))
    return template.substitute(title=html.escape(title), body=body)


def sections(parts: Sequence[tuple[str, str]]) -> str:
    """Headings with what stands under them, HTML both, and links to each before the first."""
    marks = [_bare(name).lower().replace(" ", "-") for name, _ in parts]
    links = "".join(
        f'<a href="#{mark}">{name}</a>' for mark, (name, _) in zip(marks, parts, strict=True)
    )
    told = (
        f'<h2 id="{mark}">{name}</h2>\n{text}'
        for mark, (name, text) in zip(marks, parts, strict=True)
    )
    return "\n".join([f"<nav>{links}</nav>", *told])


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, wide: bool = False) -> str:
    """A table of cells that are HTML already; the first of a row is its name.

    Args:
        wide: too wide for a phone, where each row becomes a block with its columns named.
    """
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = ""
    for first, *rest in rows:
        cells = zip(head[1:], rest, strict=True)
        named = "".join(f'<td data-name="{_bare(name)}">{cell}</td>' for name, cell in cells)
        body += f'<tr><th scope="row">{first}</th>{named}</tr>'
    kind = ' class="wide"' if wide else ""
    rows = f"<table{kind}><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{rows}</div>'


def cell(estimate: Mapping[str, Any]) -> str:
    """An estimate from bundle.json as HTML."""
    return Estimate.from_json(estimate).html()


def words(estimate: Mapping[str, Any]) -> str:
    """The same as plain text."""
    return Estimate.from_json(estimate).brief()


def markdown(value: object) -> str:
    """Any text as one line of Markdown that shows it as it is, and is no HTML."""
    line = html.escape(printable(value), quote=False)
    return re.sub(r"[\\`*\[\]|~$#!]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", line)


def code(value: object) -> str:
    """Any text as one line of code in Markdown."""
    line = printable(value)
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {line} {fence}" if longest else f"`{line}`"


def shifted(offset: float) -> str:
    """What is added to a logit: + 0.12 or - 0.12."""
    return f"{'-' if offset < 0 else '+'} {abs(offset):.4g}"


def _bare(text: str) -> str:
    """HTML without its tags."""
    return re.sub(r"<[^>]*>", " ", text)


def plain(value: object) -> str:
    """Any value as escaped text; numbers as short as they are exact enough."""
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return html.escape(shown)
