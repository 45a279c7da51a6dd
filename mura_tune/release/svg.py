"""A chart as SVG that stands inside a page: no file, no font, no address of its own."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

BLUE, RED, INK, PALE, GRID = "#1f5fa8", "#c8402f", "#22262b", "#6b727c", "#e6e8eb"
GUIDE, BAND, PAPER = "#c4c8ce", "#f0ece2", "#ffffff"
# What is drawn in these follows the page, which may be dark.
_NAMES = {
    BLUE: "blue",
    RED: "red",
    INK: "ink",
    PALE: "pale",
    GRID: "grid",
    GUIDE: "guide",
    BAND: "band",
    PAPER: "paper",
}
INCHES = (4.3, 3.3)


def chart(
    title: str, x: str, y: str, draw: Callable[[Axes], None], *, height: float = INCHES[1]
) -> str:
    """What `draw` puts into an axes with its title and axes named, as an <svg> element.

    Text stays text, in the page's own font; the element scales with the column it stands in. A
    dollar sign is one: no text is a formula.
    """
    with matplotlib.rc_context({"text.parse_math": False}):
        return _inline(_figure(title, x, y, draw, height), title)


def _figure(title: str, x: str, y: str, draw: Callable[[Axes], None], height: float) -> Figure:
    figure = Figure(figsize=(INCHES[0], height), layout="constrained", facecolor="none")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    draw(axes)
    axes.set_title(title, size=10, c=INK, loc="left", weight="bold")
    axes.set_xlabel(x, size=9, c=INK)
    axes.set_ylabel(y, size=9, c=INK)
    axes.tick_params(labelsize=8, colors=INK, length=3)
    axes.grid(c=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.patch.set_alpha(0)
    for side in axes.spines.values():
        side.set_visible(False)
    if axes.get_legend_handles_labels()[0]:  # below, where it covers nothing
        figure.legend(loc="outside lower left", ncols=2, fontsize=8, frameon=False, labelcolor=INK)
    return figure


def _inline(figure: Figure, title: str) -> str:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)  # two charts would share their names
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # it would rule the whole page
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r"font: (?:(\w+) )?([\d.]+px) [^;\"]*", _font, text)  # as older versions write it
    for colour, name in _NAMES.items():
        text = text.replace(colour, f"var(--{name})")
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    label = html.escape(title, quote=True)
    return re.sub(
        r'<svg[^>]*viewBox="([^"]*)"[^>]*>',
        rf'<svg viewBox="\1" role="img" aria-label="{label}">',
        text,
        count=1,
    )


def _font(found: re.Match[str]) -> str:
    """Weight and size without the family, which the page gives."""
    weight = f"font-weight: {found[1]}; " if found[1] else ""
    return f"{weight}font-size: {found[2]}"
