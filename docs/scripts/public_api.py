"""What the pages about Python need to know of the code, which is read and never run.

MkDocs loads `Extension` from here: it shows a default as its value, and makes links of types.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

import mura_tune

ROOT = Path(__file__).parents[2]
# No signature names it, since `Search.run` takes its fields.
SETTINGS = "mura_tune.api.search.RunSettings"
# A manifest is described by its file format, and pixels in memory are no part of the interface.
INTERNAL = ("mura_tune.release_format.", "mura_tune.data.prepare.", "mura_tune.training.")
DEPTH = 2  # types in signatures, and the types of their fields


@functools.cache
def package() -> Any:
    return griffe.load("mura_tune", search_paths=[str(ROOT)])


def public_names() -> list[str]:
    return [name for name in mura_tune.__all__ if not name.startswith("__")]


@functools.cache
def public_types() -> tuple[str, ...]:
    """Paths of the types that public signatures name and `mura_tune` itself does not give."""
    public = {_target(name).path for name in public_names()}
    level = {*public, SETTINGS}
    seen = set(level)
    for _ in range(DEPTH):
        named = {name for path in level for name in _named_types(_target(path))}
        level = {name for name in named - seen if not name.startswith(INTERNAL)}
        seen |= level
    return tuple(sorted(seen - public, key=lambda path: path.rpartition(".")[2]))


def _target(name: str) -> Any:
    found = package()[name.removeprefix("mura_tune.")]
    return found.final_target if found.is_alias else found


def _named_types(thing: Any) -> Iterator[str]:
    """The paths of our types in the signature of a function or the members of a class."""
    if thing.is_class:
        for name, member in thing.all_members.items():
            if not name.startswith("_") or name == "__init__":
                yield from _named_types(member.final_target if member.is_alias else member)
        return
    annotations = [thing.annotation] if thing.is_attribute else []
    if thing.is_function:
        annotations = [thing.returns, *(parameter.annotation for parameter in thing.parameters)]
    for annotation in annotations:
        if isinstance(annotation, griffe.Expr):
            parts = annotation.iterate(flat=True)
            paths = {part.canonical_path for part in parts if isinstance(part, griffe.ExprName)}
            yield from (path for path in paths if path.startswith("mura_tune.") and _is_type(path))


def _is_type(path: str) -> bool:
    thing = _target(path)
    alias = thing.is_attribute and "TypeVar" not in str(thing.value)
    name = path.rpartition(".")[2]
    return (thing.is_class or alias) and name[0].isupper() and not name.isupper()


def constant(path: str) -> str | None:
    """The source of the value of a module's constant, such as `mura_tune.api.DATA`."""
    module, _, name = path.rpartition(".")
    file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    if not file.is_file():
        file = ROOT.joinpath(*module.split("."), "__init__.py")
    for node in ast.parse(file.read_text(encoding="utf-8")).body if file.is_file() else ():
        for target in node.targets if isinstance(node, ast.Assign) else ():
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=True))
            for one, value in pairs:
                if isinstance(one, ast.Name) and one.id == name:
                    return ast.unparse(value)
    return None


class Extension(griffe.Extension):
    """Defaults as their values; names of public types in docstrings as links."""

    def on_package(self, *, pkg: Any, **_: Any) -> None:
        links = {path.rpartition(".")[2]: path for path in public_types()}
        links |= {name: f"mura_tune.{name}" for name in public_names()}
        self._visit(pkg, links)

    def _visit(self, thing: Any, links: dict[str, str]) -> None:
        def link(match: re.Match[str]) -> str:
            name, member = match[1], match[2]
            return f"[{match[0]}][{links[name]}{member}]" if name in links else match[0]

        if thing.docstring:
            thing.docstring.value = re.sub(r"`(\w+)((?:\.\w+)?)`", link, thing.docstring.value)
        if thing.is_function:
            for parameter in thing.parameters:
                path = getattr(parameter.default, "canonical_path", "")
                if path.startswith("mura_tune."):
                    parameter.default = constant(path) or parameter.default
            return
        for member in getattr(thing, "members", {}).values():
            if not member.is_alias:
                self._visit(member, links)
