"""Pages and Markdown files, made by the Jinja2 templates in `templates/`.

A value that a template prints is escaped, unless its type says that it is HTML (`Markup`) or
Markdown (`Markdown`) already. An estimate is printed with its interval, another fraction to four
significant digits. A name that a template does not have is an error.
"""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mura_tune.evaluation.decision import describe_calibration, describe_rest
from mura_tune.evaluation.split_uses import describe_uses
from mura_tune.metrics.calibration_error import CalibrationError
from mura_tune.metrics.estimates import Estimate, describe_error, range_text
from mura_tune.text import printable, shell_command

TableRow = tuple[object, ...]  # cells, of which a template prints each
WARNING = "Not a medical device. For research; not for any decision about a patient."


class Markdown(str):
    """Text that is Markdown already, and is not escaped again."""

    __slots__ = ()


def render_html(template: str, **values: object) -> str:
    """The HTML page, or the piece of one, that a template makes of these values.

    A whole page asks nothing of any other file or address.

    Raises:
        jinja2.UndefinedError: the template needs a value that is not there.
    """
    return _html_environment().get_template(template).render(values)


def render_markdown(template: str, **values: object) -> str:
    """The Markdown that a template makes of these values; raises as `render_html` does."""
    return _markdown_environment().get_template(template).render(values)


def escape_markdown(value: object) -> Markdown:
    """Any text as one line of Markdown that shows the text as it is, and is no HTML."""
    line = html.escape(printable(value), quote=False)
    return Markdown(re.sub(r"[\\`*\[\]|~$#!]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", line))


def markdown_code(value: object) -> Markdown:
    """Any text as one line of code in Markdown."""
    line = printable(value)
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    return Markdown(f"{fence} {line} {fence}" if longest else f"`{line}`")


def markdown_table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> Markdown:
    """A table in Markdown, its cells escaped."""
    lines = ([_print_markdown(cell) for cell in line] for line in (head, *rows))
    first, *others = (f"| {' | '.join(map(str, line))} |" for line in lines)
    return Markdown("\n".join([first, "| --- " * len(head) + "|", *others]))


def format_percent(share: float) -> str:
    """A share in whole percents: `17%`."""
    return f"{share:.0%}"


def _print_html(value: object) -> object:
    """What stands in a page for a value; Jinja2 escapes it where it is not `Markup`."""
    if isinstance(value, Estimate):
        return Markup(value.html())
    if isinstance(value, CalibrationError):
        return value.brief()
    return f"{value:.4g}" if isinstance(value, float) else value


def _print_markdown(value: object) -> Markdown:
    """What stands in a Markdown file for a value."""
    if isinstance(value, Markdown):
        return value
    if isinstance(value, Estimate | CalibrationError):
        return Markdown(value.brief())
    return escape_markdown(f"{value:.4g}" if isinstance(value, float) else value)


def _anchor(heading: str) -> str:
    """The name of a heading in a link."""
    return heading.lower().replace(" ", "-")


def _environment(escape_html: bool, print_value: Callable[[Any], Any]) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=escape_html,
        finalize=print_value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["warning"] = WARNING
    environment.globals["range_text"] = range_text
    environment.filters["describe_uses"] = describe_uses
    environment.filters["percent"] = format_percent
    environment.filters["describe_calibration"] = describe_calibration
    return environment


@functools.cache
def _html_environment() -> Environment:
    environment = _environment(True, _print_html)
    environment.filters["anchor"] = _anchor
    environment.filters["describe_error"] = describe_error
    environment.filters["describe_rest"] = describe_rest
    return environment


@functools.cache
def _markdown_environment() -> Environment:
    environment = _environment(False, _print_markdown)
    environment.globals["table"] = markdown_table
    environment.globals["command"] = lambda *words: Markdown(shell_command(*words))
    environment.filters["as_markdown"] = Markdown  # our own sentence, with intervals in brackets
    environment.filters["code"] = markdown_code
    environment.filters["code_list"] = lambda values: Markdown(
        ", ".join(map(markdown_code, values))
    )
    environment.filters["describe_error"] = lambda *values: Markdown(describe_error(*values))
    environment.filters["describe_rest"] = lambda *values: Markdown(describe_rest(*values))
    return environment
