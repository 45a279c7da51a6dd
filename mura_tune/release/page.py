"""What the pages share: one HTML shell with its style, tables, and figures in words."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mura_tune.learning.intervals import wilson

WARNING = "Not a medical device. For research; not for any decision about a patient."

_SHELL = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ --ink: #22262b; --pale: #626974; --line: #dfe3e8; --soft: #f4f5f7; --paper: #fff; --blue: #1f5fa8;
  --red: #c8402f; --good: #e3edf8; --bad: #fbe6e2; --warn: #fdf1ee; --grid: #e6e8eb; --guide: #c4c8ce;
  --band: #f0ece2; color-scheme: light dark; }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ --ink: #e3e6ea; --pale: #a2aab5; --line: #363c44;
  --soft: #20242a; --paper: #14171b; --blue: #74b0f2; --red: #f08a7b; --good: #1d3450; --bad: #4a2620;
  --warn: #33211e; --grid: #2a2f36; --guide: #59616b; --band: #2c2920; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; padding: 1.2rem clamp(.8rem, 3vw, 2rem) 3rem; max-width: 1180px; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", "Liberation Sans", Arial, sans-serif; }}
h1 {{ font-size: 1.7rem; line-height: 1.2; margin: .3rem 0; }}
h2 {{ font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-top: .5rem; border-top: 2px solid var(--line); }}
h3 {{ font-size: 1rem; margin: 1.4rem 0 .5rem; }}
small, .note {{ color: var(--pale); font-weight: normal; font-size: .87rem; }}
p {{ max-width: 75ch; margin: .5rem 0; }}
a {{ color: var(--blue); }} nav a {{ margin-right: 1rem; display: inline-block; padding: .15rem 0; }}
summary {{ cursor: pointer; padding: .3rem 0; }}
.warning {{ background: var(--warn); border-left: 4px solid var(--red); padding: .5rem .8rem; max-width: none; }}
.keys {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .7rem; margin: 1rem 0; }}
.keys div {{ background: var(--soft); border-radius: 6px; padding: .6rem .8rem; }}
.keys b {{ display: block; font-size: 1.5rem; line-height: 1.2; }}
.keys span {{ color: var(--pale); font-size: .85rem; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem; }}
th, td {{ text-align: left; padding: .35rem .5rem; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: break-word; font-weight: normal; }}
thead th {{ color: var(--pale); font-weight: 600; font-size: .85rem; }}
tbody th {{ font-weight: 600; }} .path {{ overflow-wrap: anywhere; }}
td i {{ font-style: normal; color: var(--pale); white-space: nowrap; }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); gap: 1rem;
  margin-top: .8rem; }}
.charts.two {{ grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); }}
.charts svg {{ width: 100%; height: auto; display: block; stroke-linejoin: round; max-width: 560px; }}
.columns {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); gap: 1.5rem; align-items: start; }}
.matrix {{ width: auto; }} .matrix td {{ text-align: center; min-width: 84px; padding: .8rem .5rem;
  border: 3px solid var(--paper); background: var(--soft); }}
.matrix td b {{ display: block; font-size: 1.3rem; }} .matrix .good {{ background: var(--good); }}
.matrix .bad {{ background: var(--bad); }}
.cases, .views {{ display: flex; flex-wrap: wrap; gap: 1rem; }} .views {{ gap: .6rem; }}
figure {{ margin: 0; padding: .6rem; background: var(--soft); border-radius: 6px; max-width: 100%; }}
figcaption {{ font-size: .85rem; overflow-wrap: anywhere; margin-bottom: .4rem; width: 0; min-width: 100%; }}
.pair {{ display: grid; grid-template-columns: 1fr 1fr; gap: 2px 4px; width: 20.8rem; max-width: 100%; }}
.pair small {{ grid-column: 1 / -1; }}
.pair img {{ width: 100%; height: 11.5rem; object-fit: contain; display: block; background: #000; }}
.scale {{ display: flex; flex-wrap: wrap; gap: .2rem .6rem; align-items: center; font-size: .85rem; }}
.scale i {{ width: 10rem; height: .8rem; }}
pre {{ background: var(--soft); padding: .7rem .9rem; border-radius: 6px; font-size: .85rem; overflow-x: auto; }}
code {{ font-size: .92em; white-space: nowrap; }} code.path {{ white-space: normal; }}
@media (max-width: 600px) {{ body {{ font-size: 14px; }} th, td {{ padding: .3rem .25rem; }}
  table {{ font-size: .8rem; }}
  .wide thead {{ display: none; }}
  .wide tr {{ display: grid; grid-template-columns: repeat(3, 1fr); border-bottom: 1px solid var(--line);
    padding: .3rem 0; }}
  .wide th {{ grid-column: 1 / -1; border: 0; }} .wide td {{ border: 0; }} .wide td:empty {{ display: none; }}
  .wide td::before {{ content: attr(data-name); display: block; color: var(--pale); }}
  td i {{ display: block; font-size: .92em; }} .matrix td {{ min-width: 70px; }} .pair img {{ height: 10.5rem; }} }}
@media print {{ body {{ max-width: none; padding: 0; }} nav {{ display: none; }} pre {{ white-space: pre-wrap; }}
  .charts, .charts.two {{ grid-template-columns: 1fr 1fr; }} h2, h3 {{ break-after: avoid; }}
  figure, svg, tr, pre {{ break-inside: avoid; }} * {{ print-color-adjust: exact; }} }}
</style>
</head>
<body>
{body}
</body>
</html>
"""  # noqa: E501 - a style's rule reads best on its line


def shell(title: str, body: str) -> str:
    """A whole page; it asks nothing of any other file or address."""
    return _SHELL.format(title=html.escape(title), body=body)


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
    """A figure from bundle.json with its interval, as HTML."""
    if estimate["value"] is None:
        return "<i>undefined</i>"
    ends = f"[{estimate['low']:.3f}, {estimate['high']:.3f}]"
    return f"{estimate['value']:.3f} <i>{ends}</i>"


def words(estimate: Mapping[str, Any]) -> str:
    """The same as plain text."""
    if estimate["value"] is None:
        return "undefined"
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def wrong(error: float, n: int) -> str:
    """An error as a share of `n` answers, with its interval, as if they were independent."""
    low, high = wilson(error, n)
    return f"{error * n:.0f} of {n} are answered wrong, {error:.3f} [{low:.3f}, {high:.3f}]"


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
