"""What the pages share: one HTML shell with its style, tables, and figures in words."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

WARNING = "Not a medical device. For research; not for any decision about a patient."

_SHELL = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ --ink: #22262b; --pale: #6b727c; --line: #dfe3e8; --soft: #f5f6f8; --blue: #1f5fa8;
  --red: #c8402f; color-scheme: light; }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; padding: 1.2rem clamp(.8rem, 3vw, 2rem) 3rem; max-width: 1180px; background: #fff;
  color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", "Liberation Sans", Arial, sans-serif; }}
h1 {{ font-size: 1.7rem; line-height: 1.2; margin: .3rem 0; }}
h2 {{ font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-top: .5rem; border-top: 2px solid var(--line); }}
h3 {{ font-size: 1rem; margin: 1.4rem 0 .5rem; }}
small, .note {{ color: var(--pale); font-weight: normal; font-size: .87rem; }}
p {{ max-width: 75ch; margin: .5rem 0; }}
a {{ color: var(--blue); }}
.warning {{ background: #fdf1ee; border-left: 4px solid var(--red); padding: .5rem .8rem; max-width: none; }}
.keys {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .7rem; margin: 1rem 0; }}
.keys div {{ background: var(--soft); border-radius: 6px; padding: .6rem .8rem; }}
.keys b {{ display: block; font-size: 1.5rem; line-height: 1.2; }}
.keys span {{ color: var(--pale); font-size: .85rem; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem; }}
th, td {{ text-align: left; padding: .35rem .5rem; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: break-word; }}
thead th {{ color: var(--pale); font-weight: 600; font-size: .85rem; }}
th {{ font-weight: 600; }} tbody th {{ overflow-wrap: break-word; }} .path {{ overflow-wrap: anywhere; }}
td i {{ font-style: normal; color: var(--pale); white-space: nowrap; }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 1rem; }}
.charts svg {{ width: 100%; height: auto; display: block; stroke-linejoin: round; }}
.columns {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); gap: 1.5rem; align-items: start; }}
.matrix {{ width: auto; }} .matrix td {{ text-align: center; min-width: 84px; padding: .8rem .5rem;
  border: 3px solid #fff; background: var(--soft); }}
.matrix td b {{ display: block; font-size: 1.3rem; }} .matrix .good {{ background: #e3edf8; }} .matrix .bad {{ background: #fbe6e2; }}
.cases {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 1rem; align-items: start; }}
figure {{ margin: 0; padding: .6rem; background: var(--soft); border-radius: 6px; }}
figcaption {{ font-size: .85rem; overflow-wrap: anywhere; margin-bottom: .4rem; }}
.pair {{ display: grid; grid-template-columns: 1fr 1fr; gap: 0 4px; margin-bottom: 4px; }}
.pair small {{ grid-column: 1 / -1; }}
.pair img {{ width: 100%; height: auto; display: block; background: #000; }}
pre {{ background: var(--soft); padding: .7rem .9rem; border-radius: 6px; font-size: .85rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }}
code {{ white-space: nowrap; font-size: .92em; }}
@media (max-width: 600px) {{ body {{ font-size: 14px; }} th, td {{ padding: .3rem .25rem; }}
  table {{ font-size: .8rem; }}
  .wide-table thead {{ display: none; }}
  .wide-table tr {{ display: grid; grid-template-columns: repeat(3, 1fr); border-bottom: 1px solid var(--line);
    padding: .3rem 0; }}
  .wide-table th {{ grid-column: 1 / -1; border: 0; }} .wide-table td {{ border: 0; }}
  .wide-table td::before {{ content: attr(data-name); display: block; color: var(--pale); }}
  td i {{ display: block; font-size: .92em; }} .matrix td {{ min-width: 70px; }} }}
@media print {{ h2 {{ break-after: avoid; }} figure, svg {{ break-inside: avoid; }} }}
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


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, wide: bool = False) -> str:
    """A table of cells that are HTML already; the first of a row is its name.

    Args:
        wide: too wide for a phone, where each row becomes a block with its columns named.
    """
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = ""
    for first, *rest in rows:
        cells = zip(head[1:], rest, strict=True)
        named = "".join(f'<td data-name="{name}">{cell}</td>' for name, cell in cells)
        body += f"<tr><th>{first}</th>{named}</tr>"
    kind = ' class="wide-table"' if wide else ""
    return f"<table{kind}><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


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


def plain(value: object) -> str:
    """Any value as escaped text; numbers as short as they are exact enough."""
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return html.escape(shown)
