"""Reference pages as Markdown, made from the code: commands, search files, the Python API."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import click
import public_api
import yaml

from mura_tune.axes import Axis
from mura_tune.cli import mura
from mura_tune.cli.mura_infer import infer as mura_infer
from mura_tune.config import PRUNERS, SearchConfig, studies_folder
from mura_tune.recipe import CHOICES, SOLVERS
from mura_tune.strict import field_types

TYPES = {int: "whole number", float: "number", str: "text", bool: "true or false"}


def commands_page() -> str:
    """Every verb of `mura`, and `mura-infer`, with its arguments and options."""
    verbs = list(_commands(mura, "mura"))
    table = [f"| [`{name}`](#{_anchor(name)}) | {_short(command)} |" for name, command in verbs]
    sections = [_command(name, command) for name, command in verbs]
    sections.append(_command("mura-infer", mura_infer))
    return "\n".join(
        [
            "# Commands",
            "",
            "Made from the program's own help, which `mura VERB --help` prints.",
            "",
            "Exit codes: 0 done, 2 bad input or configuration, 130 interrupted, 1 anything else. "
            "With `--json` a verb prints one JSON document on stdout; progress is on stderr.",
            "",
            "| verb | what it does |",
            "| --- | --- |",
            *table,
            f"| [`mura-infer`](#mura-infer) | {_short(mura_infer)} |",
            "",
            *sections,
        ]
    )


def search_files_page() -> str:
    """Every key of a search file: its type, its default, its choices, what it means."""
    path = studies_folder() / "default.yaml"
    text = path.read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    comments = _yaml_comments(text)
    parts = [
        "# Search files",
        "",
        "A search file says what one search does. `studies/default.yaml` holds every key; the "
        "file of an area, such as `studies/XR_HUMERUS.yaml`, names its `base` and what differs. "
        "`--set KEY=VALUE` changes one key for one search and is stored with it: "
        "`--set finetune.lr=3.0e-4`, `--set budget.trials=20`. A key of `recipe` needs no "
        "`recipe.` before it. An unknown key, or a value of another type, is refused.",
        "",
        "`mura show AREA` prints a search file as all of its layers resolve it.",
        "",
    ]
    for section, about in _SECTIONS.items():
        parts += [f"## `{section}`", "", about, ""]
        if section == "search":
            parts += [*_axes(values["search"]), ""]
            continue
        kind = field_types(SearchConfig)[section]
        if not dataclasses.is_dataclass(kind):
            rows = [f"| `{key}` | `{_plain(value)}` |" for key, value in values[section].items()]
            parts += ["| key | in default.yaml |", "| --- | --- |", *rows, ""]
            continue
        parts += ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
        group = ""
        for key, (field_type, note) in _fields(kind):
            whole, _, _ = key.rpartition(".")
            if whole != group and (beside := comments.get(f"{section}.{whole}")):
                parts.append(f"| `{whole}` | keys of its own | | {_cell(beside)} |")
            group = whole
            value = _value(values[section], key)
            meaning = comments.get(f"{section}.{key}") or note
            choices = _CHOICES.get(f"{section}.{key}", ())
            shown_type = " \\| ".join(f"`{c}`" for c in choices) or TYPES.get(field_type, "")
            parts.append(f"| `{key}` | {shown_type} | `{_plain(value)}` | {_cell(meaning)} |")
        parts.append("")
    return "\n".join([*parts, "## `studies/default.yaml`", "", "```yaml", text.rstrip(), "```", ""])


# What README's example calls comes first, in its order.
FIRST = ("load_config", "Search", "SearchOutcome", "finalize", "load_release", "Predictor")


def python_page() -> str:
    """The public names of `mura_tune`, for mkdocstrings to fill in."""
    names = public_api.public_names()
    first = [name for name in FIRST if name in names]
    blocks = [f"::: mura_tune.{name}\n" for name in (*first, *(n for n in names if n not in first))]
    return "\n".join(
        [
            "# Python",
            "",
            "`import mura_tune as mt` gives the names on this page. Nothing heavy is loaded until "
            "one of them is used. [Types](python-types.md) describes what they return. A failure "
            "that a person can cause is an `InputError`, or another `MuraError`, and says in one "
            "line what is wrong and what to do.",
            "",
            "Several functions share these parameters:",
            "",
            "| parameter | meaning |",
            "| --- | --- |",
            *(f"| `{name}` | {meaning} |" for name, meaning in _SHARED.items()),
            "",
            *blocks,
        ]
    )


def types_page() -> str:
    """The types that the signatures of the public names lead to, for mkdocstrings to fill in."""
    blocks = [f"::: {path}\n" for path in public_api.public_types()]
    return "\n".join(
        [
            "# Python types",
            "",
            "What the functions of [Python](python.md) return and take, in alphabetical order. A "
            "script makes none of these by itself. Most can be printed, and many have `to_json()`, "
            "which gives what `--json` prints.",
            "",
            *blocks,
        ]
    )


PAGES = {
    "reference/commands.md": commands_page,
    "reference/search-files.md": search_files_page,
    "reference/python.md": python_page,
    "reference/python-types.md": types_page,
}

_SHARED = {
    "data": "the dataset: a folder in MURA's layout, or a table `.csv`",
    "runs": "the folder of the cache, of checkpoints and of the pictures of trials",
    "storage": "the database: a file or a PostgreSQL URL; None stands for `RUNS/studies.db`",
    "releases": "the folder of releases",
    "release": "its folder, its URL, or its name under `base_url`",
    "base_url": "where a release that is no folder here is fetched from, by its name",
    "device": "`cpu`, `cuda`, `cuda:1`, … or `auto`",
    "strict": "refuse the first unreadable image instead of leaving it out by name",
}
_CHOICES = {f"recipe.{name}": values for name, values in CHOICES.items()}
_CHOICES["budget.pruner.name"] = PRUNERS
_CHOICES["recipe.head.solver"] = SOLVERS
_SECTIONS: Mapping[str, str] = {
    "recipe": "Everything that changes the weights of one training run. Trial 0 runs exactly this.",
    "search": "The axes of the search: fields of `recipe`, each with a range or with choices.",
    "budget": "How much is searched, and how the winner is confirmed.",
    "split": "How the patients of the published training images are divided into train and dev.",
    "final": "The recipe fields that `mura finalize` replaces in the winning recipe.",
}


def _commands(group: click.Group, prefix: str) -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(click.Context(group)):
        command = group.commands[name]
        if command.hidden:
            continue
        if isinstance(command, click.Group):
            yield from _commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def _command(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    rows = [_option(p, context) for p in command.params if isinstance(p, click.Option)]
    lines = [f"## `{name}` {{ #{_anchor(name)} }}", "", "```text", usage, "```", ""]
    lines += [_with_code(inspect.cleandoc(command.help or "").replace("\b\n", "")), ""]
    if rows:
        lines += ["| option | meaning |", "| --- | --- |", *rows, ""]
    return "\n".join(lines)


def _option(option: click.Option, context: click.Context) -> str:
    record = option.get_help_record(context)
    flags, text = record or (", ".join(option.opts), option.help or "")
    return f"| `{_cell(flags)}` | {_with_code(_cell(text.replace(']  [', '; ')))} |"


def _with_code(text: str) -> str:
    """The text with the options in it as code; what is code stays as it is."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"(?<![\w-])--[a-z][a-z-]*[a-z]", r"`\g<0>`", part) for part in parts[::2]]
    return "".join(parts)


def _short(command: click.Command) -> str:
    return _with_code(_cell(command.get_short_help_str(limit=200)))


def _anchor(name: str) -> str:
    return name.replace(" ", "-")


def _axes(axes: Mapping[str, Any]) -> list[str]:
    described = {f.name for f in dataclasses.fields(Axis)}
    rows = []
    for path, axis in axes.items():
        known = {name: axis[name] for name in axis if name in described}
        ends = f"{_plain(known.pop('low'))} to {_plain(known.pop('high'))}"
        scale = "logarithmic" if known.pop("log", False) else "linear"
        step = f", in steps of {known['step']}" if "step" in known else ""
        rows.append(f"| `{path}` | {ends} | {scale}{step} |")
    return [
        "| axis | range in default.yaml | scale |",
        "| --- | --- | --- |",
        *rows,
        "",
        inspect.cleandoc(Axis.__doc__ or ""),
        "",
        "A file over another one replaces the range or the choices of an axis; `null` takes the "
        "axis out. `size` and `monitor` are no axes: all trials of a search see pixels of one "
        "size and are judged by one score.",
    ]


def _fields(cls: type, prefix: str = "") -> Iterator[tuple[str, tuple[Any, str]]]:
    """Dotted names of a dataclass's fields with type and the comment on their line."""
    notes = _comments(cls)
    for name, kind in field_types(cls).items():
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            yield from _fields(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, (kind, notes.get(name, ""))


def _comments(cls: type) -> dict[str, str]:
    """The comment on the line of each field in a dataclass's source, and in those of its bases."""
    found: dict[str, str] = {}
    for base in cls.__bases__:
        found |= _comments(base) if dataclasses.is_dataclass(base) else {}
    source = textwrap.dedent(inspect.getsource(cls))
    lines = source.splitlines()
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            _, _, comment = lines[node.lineno - 1].partition("  # ")
            found[node.target.id] = comment
    return found


def _yaml_comments(text: str) -> dict[str, str]:
    """The comment of each key of default.yaml, with the comment lines that go on below it."""
    comments: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        if match := re.match(r"( *)([\w.]+):[^#]*(?:# ?(.*))?$", line):
            indent, key, comment = len(match[1]), match[2], match[3] or ""
            path = [(width, name) for width, name in path if width < indent] + [(indent, key)]
            comments[".".join(name for _, name in path)] = comment.strip()
        elif path and (match := re.match(r" +# *(.*)$", line)):
            comments[".".join(name for _, name in path)] += f" {match[1].strip()}"
    return comments


def _value(values: Any, key: str) -> Any:
    for name in key.split("."):
        values = values[name]
    return values


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    """Text for one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
