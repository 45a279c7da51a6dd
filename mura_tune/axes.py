"""Axes of a search: recipe fields with the values that trials draw for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mura_tune.recipe import field_type
from mura_tune.strict import check_value, convert

ALL = "all"  # as `high`: every stage of the network
MOST_CHOICES = 100
MOST_STEPS = 1_000_000
Value = str | int | float | bool | None  # one plain value


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One searched recipe field: `low` to `high` (`high: all` = every stage), or `choices`.

    With a `step` the values are low, low + step, …, as far as they are at most high.
    """

    low: float | int | None = None
    high: float | int | str | None = None
    log: bool = False
    step: float | int | None = None
    choices: tuple[Value, ...] | None = None

    def __post_init__(self) -> None:
        if self.choices is not None:
            check_value(
                0 < len(self.choices) <= MOST_CHOICES,
                "choices",
                list(self.choices),
                f"a list of 1 to {MOST_CHOICES} values",
            )
            check_value(
                self.low is None and self.high is None,
                "choices",
                "choices beside low/high",
                "one or the other",
            )
            return
        check_value(isinstance(self.low, int | float), "low", self.low, "a number")
        check_value(
            isinstance(self.high, int | float) or self.high == ALL, "high", self.high, "a number"
        )
        check_value(self.step is None or not self.log, "step", self.step, "left out on a log scale")
        check_value(self.step is None or self.step > 0, "step", self.step, "above 0")
        check_value(not self.log or self.first > 0, "low", self.low, "above 0 on a log scale")
        if isinstance(self.high, int | float):
            check_value(self.first <= self.high, "low", self.low, f"at most high ({self.high})")
            self._check_step(self.high - self.first)

    def _check_step(self, width: float) -> None:
        if self.step is None or not width:
            return
        check_value(self.step <= width, "step", self.step, f"at most high - low ({width})")
        check_value(
            width / self.step <= MOST_STEPS,
            "step",
            self.step,
            f"at least a millionth of high - low ({width})",
        )

    @property
    def first(self) -> float | int:
        """`low` of an axis that is a range."""
        assert self.low is not None
        return self.low

    @property
    def ends(self) -> tuple[Any, ...]:
        """Every choice, or both ends but for `all`, which the network decides."""
        return self.choices or tuple(v for v in (self.low, self.high) if v != ALL)

    @property
    def values(self) -> Sequence[Any]:
        """Every value of a range of whole numbers, ascending; the ends of another axis."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return range(self.low, self.high + 1, int(self.step or 1))
        return self.ends

    def of_type(self, kind: type) -> Axis:
        """The axis with its values as the field's type has them: `low: 1` of a float is 1.0.

        Raises:
            ValueError: a value of another type, or a range of text.
        """
        if self.choices is not None:
            return Axis(choices=tuple(convert(kind, choice, "choices") for choice in self.choices))
        check_value(kind is not str, "low", self.low, "left out: text takes choices, [A, B]")
        typed = {
            name: convert(kind, value, name)
            for name in ("low", "high", "step")
            if (value := getattr(self, name)) is not None and value != ALL
        }
        return dataclasses.replace(self, **typed)


def convert_axis(path: str, axis: Axis) -> Axis:
    """Return an axis whose values have the type of its field.

    Raises:
        ValueError: no such field, or a value that it cannot have; the message begins with the path.
    """
    try:
        kind = field_type(path)
    except ValueError as error:
        raise ValueError(f"search.{error}") from None
    try:
        typed = axis.of_type(kind)
        check_value(
            typed.high != ALL or path.endswith("depth"),
            "high",
            ALL,
            "a number: only a depth knows all stages",
        )
    except ValueError as error:
        raise ValueError(f"search.{path}.{error}") from None
    return typed


def merge_axes(base: Any, layer: Any) -> Any:
    """Merge a layer's axis over the axis of the same field below it.

    Choices replace a range, and a range replaces choices. Two new ends drop the old step, but keep
    the old scale.
    """
    if not isinstance(base, Mapping) or not isinstance(layer, Mapping):
        return layer
    brought = {key for key, value in layer.items() if value is not None}
    if "choices" in brought:
        base = {}
    elif brought & {"low", "high"}:
        gone = {"choices", "step"} if {"low", "high"} <= brought else {"choices"}
        base = {key: value for key, value in base.items() if key not in gone}
    return {key: value for key, value in {**base, **layer}.items() if value is not None}
