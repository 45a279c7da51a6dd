"""bundle.json, a release's manifest, as checked values: nobody else takes a value from one.

What stands there is checked whole, whoever reads it and for whatever: types, bounds, and what
belongs together. A key that this version does not know is passed over. What an older version did
not write may be absent; whoever needs it calls `require`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mura_tune import strict
from mura_tune.areas import TASKS
from mura_tune.errors import InputError
from mura_tune.files import RELEASE_FILES
from mura_tune.names import check_name
from mura_tune.recipe import SIZES
from mura_tune.strict import check_value, join_path

NAME = RELEASE_FILES[0]
SCHEMA = 2  # the one that is written; 1 had one threshold and no calibration
WEIGHTS = "model.safetensors"
CARD, REPORT = "MODEL_CARD.md", "report.html"
MOST_AREAS = 999  # more than any dataset has
MOST_MEMBERS = 100
_LARGEST = 10**9  # of counts
_LONGEST = 10_000  # characters of a text
_FILE = re.compile(r"[A-Za-z0-9][\w.-]{0,99}\.safetensors", re.ASCII)

Check = Callable[[Any, str], None]  # of a value and its dotted path; raises ValueError
Table = Mapping[str, Check]


def read(path: Path) -> dict[str, Any]:
    """What the bundle.json at `path` says; one of schema 1 gets what schema 2 added.

    Raises:
        InputError: not JSON, another schema, or a value that cannot be, by its key.
    """
    if path.stat().st_size > strict.JSON_BYTES:
        raise InputError(f"{path}: larger than {strict.JSON_BYTES // 2**20} MiB; fetch it again")
    return parse(strict.parse_json(path.read_bytes(), path), path)


def parse(raw: Any, source: object) -> dict[str, Any]:
    """The same from a JSON document's value; `source` opens the message of what is refused."""
    try:
        check_value(isinstance(raw, Mapping), "it", raw, "a mapping of names to values")
        schema = raw.get("schema")
        whole(1)(schema, "schema")
        if schema > SCHEMA:
            raise InputError(
                f"{source}: schema {schema}; this version reads 1 and {SCHEMA}, use "
                "the one that made it"
            )
        values = dict(raw)
        if schema == 1:
            record(threshold=_THRESHOLD)(values, "")
            values |= uncalibrated(values["threshold"])
            values.pop("metrics", None)  # of another form, and shown by nothing
        values.setdefault("members", [WEIGHTS])
        task = values.setdefault("task", TASKS[0])
        check_value(task in TASKS, "task", task, f"one of {', '.join(TASKS)}")
        _TABLES[task](values, "")
        _check_agreement(values, task)
    except ValueError as error:
        raise InputError(f"{source}: {error}; fetch the release again") from None
    return values


def require(manifest: Mapping[str, Any], source: object, *paths: str) -> None:
    """Raise InputError unless the dotted `paths` are there, and all that belongs below them."""
    lacking = [one for one in missing(manifest) if any(_within(one, path) for path in paths)]
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise InputError(
            f"{source}: lacks {lacking[0]}{more}, which an older version did not "
            "store; run 'mura finalize' again"
        )


def missing(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Dotted paths that a release of this version has and this one has not."""
    return tuple(_TABLES[manifest.get("task", TASKS[0])].missing(manifest, ""))


def uncalibrated(threshold: Mapping[str, Any]) -> dict[str, Any]:
    """What schema 2 adds, such that a release with this threshold alone answers as it did."""
    value = threshold["value"]
    return {
        "calibration": {"temperature": 1.0, "offset": 0.0, "fitted_on": "nothing"},
        "operating_points": {"max_youden": {"threshold": value, "chosen": threshold["chosen"]}},
        "recommended": "max_youden",
        "abstain": {"low": value, "high": value, "share": 0.0, "error": 0.0, "error_without": 0.0},
    }


def number(low: float = -1e9, high: float = 1e9) -> Check:
    """A finite number within bounds."""

    def test(value: Any, where: str) -> None:
        right = isinstance(value, int | float) and not isinstance(value, bool)
        inside = right and math.isfinite(value) and low <= value <= high
        check_value(inside, where, value, f"a number from {low:g} to {high:g}")

    return test


def whole(low: int = 0, high: int = _LARGEST) -> Check:
    """A whole number within bounds."""

    def test(value: Any, where: str) -> None:
        check_value(
            type(value) is int and low <= value <= high,
            where,
            value,
            f"a whole number from {low} to {high}",
        )

    return test


def text(value: Any, where: str) -> None:
    """Text that can be written in UTF-8."""
    right = isinstance(value, str) and len(value) <= _LONGEST
    check_value(right and not re.search("[\ud800-\udfff]", value), where, value, "text")


def flag(value: Any, where: str) -> None:
    check_value(isinstance(value, bool), where, value, "true or false")


def name(value: Any, where: str) -> None:
    """The name of an area, or of what stands for several."""
    text(value, where)
    try:
        check_name(value, where)
    except InputError as error:
        raise ValueError(str(error)) from None


def weights_file(value: Any, where: str) -> None:
    right = isinstance(value, str) and _FILE.fullmatch(value) is not None
    check_value(right, where, value, "the name of a .safetensors file")


def tree(value: Any, where: str) -> None:
    """Nested mappings of plain values, as a recipe or a study is stored; `config` reads those."""
    check_value(isinstance(value, Mapping), where, value, "a mapping of names to values")
    for key, inner in value.items():
        path = f"{where}.{key}"
        if isinstance(inner, Mapping):
            tree(inner, path)
        else:
            for one in inner if isinstance(inner, list) else [inner]:
                check_value(not isinstance(one, list | dict), path, inner, "plain values")
                if isinstance(one, str):
                    text(one, path)


def maybe(inner: Check) -> Check:
    """A value, or null."""
    return lambda value, where: None if value is None else inner(value, where)


def each(inner: Check, *, least: int = 0, most: int = _LARGEST) -> Check:
    """A list of values of one kind."""

    def test(value: Any, where: str) -> None:
        right = isinstance(value, list) and least <= len(value) <= most
        check_value(right, where, value, f"a list of {least} or more")
        for number_, one in enumerate(value):
            inner(one, f"{where}[{number_}]")

    return test


def named(inner: Check, *, least: int = 0) -> Check:
    """A mapping from any names to values of one kind."""

    def test(value: Any, where: str) -> None:
        right = isinstance(value, Mapping) and len(value) >= least
        check_value(right, where, value, f"a mapping of {least} names or more to values")
        for key, one in value.items():
            text(key, f"a name in {where}")
            inner(one, f"{where}.{key}")

    return test


class Fields:
    """A mapping with known names.

    Args:
        required: fields without which it is refused.
        usual: fields that older versions did not write; `missing` names those that are absent.
        extra: fields that only some releases have.
    """

    def __init__(
        self,
        required: Table,
        usual: Table | None = None,
        extra: Table | None = None,
    ) -> None:
        self._required, self._usual = dict(required), dict(usual or {})
        self._all = {**self._required, **self._usual, **(extra or {})}

    def __call__(self, value: Any, where: str) -> None:
        check_value(
            isinstance(value, Mapping), where or "it", value, "a mapping of names to values"
        )
        for key in self._required:
            if key not in value:
                raise ValueError(f"{join_path(where, key)} is missing")
        for key, test in self._all.items():
            if key in value:
                test(value[key], join_path(where, key))

    def missing(self, value: Mapping[str, Any], where: str) -> Iterator[str]:
        """Paths of usual fields that are absent, here and below."""
        for key, test in self._all.items():
            if key not in value:
                if key in self._usual:
                    yield join_path(where, key)
            elif isinstance(test, Fields):
                yield from test.missing(value[key], join_path(where, key))


def record(**required: Check) -> Fields:
    """A mapping in which every field has to be."""
    return Fields(required)


def estimate(value: Any, where: str) -> None:
    """A figure with its interval; without a value it has no ends."""
    _ESTIMATE(value, where)
    ends = (value["low"], value["high"])
    if value["value"] is not None:
        check_value(None not in ends, where, value, "a value with both ends")


def _within(path: str, top: str) -> bool:
    """Whether a dotted path is another one, or lies below or above it."""
    return f"{path}.".startswith(f"{top}.") or f"{top}.".startswith(f"{path}.")


def _check_agreement(values: Mapping[str, Any], task: str) -> None:
    """Raise ValueError where values that are right by themselves do not belong together."""
    areas, outputs = values.get("areas"), values["outputs"]
    if areas is not None:
        check_value(len(set(areas)) == len(areas), "areas", areas, "names that differ")
    if task != TASKS[0]:
        wanted = len(areas or ()) + (task == "multitask")
        check_value(
            outputs == wanted, "outputs", outputs, f"{wanted}: what {len(areas or ())} areas take"
        )
    check_value(
        len(set(values["members"])) == len(values["members"]),
        "members",
        values["members"],
        "files that differ",
    )
    golden = values.get("golden")
    if golden is not None:
        fits = len(golden) == 3 and all(len(row) == outputs for row in golden)
        check_value(fits, "golden", golden, f"3 rows of {outputs} logits")
    points = values.get("operating_points", {})
    if "recommended" in values:
        recommended = values["recommended"]
        check_value(
            recommended in points, "recommended", recommended, "one of the operating_points"
        )
        if "threshold" in values:
            same = values["threshold"]["value"] == points[recommended]["threshold"]
            check_value(same, "threshold", values["threshold"], f"that of {recommended}")
    band = values.get("abstain", {})
    if "low" in band:
        check_value(band["low"] <= band["high"], "abstain.low", band["low"], "at most abstain.high")
    _check_story(values)


def _check_story(values: Mapping[str, Any]) -> None:
    """The same of what is told about how a release came about."""
    training = values.get("training")
    if training:
        numbers = [epoch["number"] for epoch in training["epochs"]]
        check_value(
            training["best_epoch"] in numbers,
            "training.best_epoch",
            training["best_epoch"],
            "the number of one of the epochs",
        )
    if "seeds" in values:
        released = [run for run in values["seeds"]["runs"] if run["released"]]
        check_value(
            bool(released), "seeds.runs", len(values["seeds"]["runs"]), "one released or more"
        )
    counts = values.get("data", {}).get("counts")
    if counts:
        check_value("train" in counts, "data.counts", [*counts], "counts of train and others")
        for part, own in counts.items():
            check_value(
                set(own) == set(counts["train"]),
                f"data.counts.{part}",
                [*own],
                f"counts of {', '.join(counts['train'])}",
            )


_SHARE = number(0, 1)
_RULE: Table = {"chosen": text}
_THRESHOLD = record(value=_SHARE, chosen=text)
_COUNTED: Table = dict.fromkeys(("studies", "patients"), whole())
_ESTIMATE = Fields(
    dict.fromkeys(("value", "low", "high"), maybe(number(-1, 1))), _COUNTED, {"images": whole()}
)
_AT_POINT = ("sensitivity", "specificity", "ppv", "npv", "accuracy", "f1", "kappa")
_FIGURES: Table = {name: estimate for name in ("auc", "average_precision", *_AT_POINT)}
_PART: Table = {"split": text, "studies": whole(1), "patients": whole(1), "images": whole(1)}
_DOUBT = record(studies=whole(), error=maybe(_SHARE), error_without=_SHARE)
_CALIBRATED = record(ece=estimate, brier=estimate)
_RECOGNISED: Table = {
    **dict.fromkeys(("accuracy", "balanced_accuracy", "macro_f1"), estimate),
    "recall": named(estimate),
    "by_image": record(accuracy=estimate),
    "areas": each(name, least=1, most=MOST_AREAS),
    "confusion": each(each(whole()), least=1, most=MOST_AREAS),
}
_MEASURED = Fields(
    {
        **_PART,
        **_FIGURES,
        "abnormal": whole(),
        "threshold": _SHARE,
        "confusion": record(tp=whole(), fp=whole(), fn=whole(), tn=whole()),
        "by_image": record(**_FIGURES),
        "operating_points": named(record(threshold=_SHARE, **dict.fromkeys(_AT_POINT, estimate))),
        "calibration": record(before=_CALIBRATED, after=_CALIBRATED),
        "abstain": _DOUBT,
    },
    extra={"auc_by_area": named(estimate)},
)
_BOTH = Fields({"body_part": record(**_RECOGNISED)})
_ROUTED = Fields({**_PART, **_RECOGNISED, "abstain": _DOUBT})
_EPOCH = record(
    number=whole(1),
    phase=whole(),
    depth=whole(),
    loss=number(-1e30, 1e30),
    score=number(-1, 1),
    seconds=number(0),
)
_RUN = record(
    seed=whole(0, 2**32),
    best_epoch=whole(1),
    released=flag,
    dev_score=estimate,
    test_score=estimate,
)
_RANGE = record(**dict.fromkeys(("mean", "low", "high"), number(-1, 1)), sd=number(0))
_CORE: Table = {
    "schema": whole(),
    "area": name,
    "arch": text,
    "outputs": whole(1, MOST_AREAS + 1),
    "preprocessing": Fields({"size": whole(SIZES[0], SIZES[-1])}, extra={"decoding": whole(1)}),
    "members": each(weights_file, least=1, most=MOST_MEMBERS),
}
_STORY: Table = {
    "recipe_digest": text,
    "recipe": tree,
    "study": Fields(
        {"config": tree},
        {
            "name": text,
            "monitor": text,
            "trial": whole(),
            "params": tree,
            "dev_score": number(-1, 1),
            "dev_interval": each(number(-1, 1), least=2, most=2),
            "baseline_dev_score": maybe(number(-1, 1)),
            "history": each(record(number=whole(), state=text, score=maybe(number()))),
            "trials": named(whole()),
        },
        {"verdict": text, "dev_studies": whole(1)},
    ),
    "training": record(best_epoch=whole(1), epochs=each(_EPOCH, least=1, most=100_000)),
    "data": Fields(
        {"fingerprint": text, "split_hash": text},
        {
            "counts": named(named(whole(), least=1)),
            "left_out": each(record(kind=text, path=text, detail=text)),
        },
        {"name": text},
    ),
    "versions": named(text),
    "created": text,
}
_EXTRA: Table = {
    "areas": each(name, least=1, most=MOST_AREAS),
    "golden": each(each(number(-1e30, 1e30))),
    "threshold": _THRESHOLD,
    "start_sha256": maybe(text),
    "output": text,
    "seeds": record(
        rule=text, measure=text, runs=each(_RUN, least=1), dev_score=_RANGE, test_score=_RANGE
    ),
}
_CHOSEN: Table = {  # what an answer of normal or abnormal needs
    "calibration": record(temperature=number(1e-6, 1e6), offset=number()),
    "operating_points": named(record(threshold=_SHARE, **_RULE), least=1),
    "recommended": text,
    "abstain": Fields(
        dict.fromkeys(("low", "high", "share", "error", "error_without"), _SHARE), extra=_RULE
    ),
}
_ROUTING: Table = {  # what an answer of an area needs
    "areas": each(name, least=2, most=MOST_AREAS),
    "calibration": record(temperature=number(1e-6, 1e6)),
    "abstain": Fields(
        dict.fromkeys(("confidence", "share", "error", "error_without"), _SHARE), extra=_RULE
    ),
}


def _table(chosen: Table, *measured: Fields) -> Fields:
    def part(value: Any, where: str) -> None:
        for fields in measured:
            fields(value, where)

    metrics = {"metrics": record(dev=part, test=part)}
    extra = {key: test for key, test in _EXTRA.items() if key not in chosen}
    return Fields(_CORE, {**_STORY, **metrics, **chosen}, extra)


ANSWER = {  # what infer and export need of each task, and evaluate with it
    "abnormality": (*_CHOSEN, "recipe_digest"),
    "part": (*_ROUTING, "recipe_digest"),
    "multitask": (*_CHOSEN, "areas", "recipe_digest"),
}
_TABLES = {
    "abnormality": _table(_CHOSEN, _MEASURED),
    "part": _table(_ROUTING, _ROUTED),
    "multitask": _table({**_CHOSEN, "areas": _ROUTING["areas"]}, _MEASURED, _BOTH),
}
