"""bundle.json, a release's manifest, as frozen dataclasses: nobody else takes a value from one.

What stands there is checked whole, whoever reads it and for whatever: types, bounds, and what
belongs together. A key that this version does not know is passed over. What an older version did
not write may be absent: `Manifest.require` refuses a manifest without it, before it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from mura_tune import strict
from mura_tune.areas import TASK_NAMES
from mura_tune.errors import InputError
from mura_tune.files import RELEASE_FILES
from mura_tune.recipe import Recipe, recipe_from_dict
from mura_tune.release_format.entries import (
    BandEntry,
    CalibrationEntry,
    ConfidenceEntry,
    DataEntry,
    FamiliarityEntry,
    OperatingPointEntry,
    PreprocessingEntry,
    RouterCalibrationEntry,
    RunsEntry,
    SearchEntry,
    ThresholdEntry,
    TrainingEntry,
)
from mura_tune.release_format.metrics_entries import (
    AbnormalityMetricsEntry,
    MetricsEntry,
    MultitaskMetricsEntry,
    RouterMetricsEntry,
)
from mura_tune.release_format.recalibration import RecalibrationOriginEntry
from mura_tune.release_format.schema import (
    LATER,
    MOST_AREAS,
    NULL,
    Entry,
    Key,
    area_name,
    area_names,
    each,
    maybe,
    named,
    number,
    text,
    tree,
    weights_file,
    whole,
)
from mura_tune.strict import check_value, join_path

MANIFEST = RELEASE_FILES[0]
# The schema that is written. Schema 1 had one threshold and no calibration. Schema 2 did not say
# how a study's probability is made of its views' (their mean), and the band had no bound.
SCHEMA = 3
WEIGHTS = "model.safetensors"
CARD, REPORT = "MODEL_CARD.md", "report.html"
MOST_MEMBERS = 100


class Manifest(Entry):
    """What bundle.json says of a release, whatever its task; `parse` gives the task's own class.

    Attributes:
        task: one of `areas.TASK_NAMES`.
        areas: that the release was trained on; empty where an older version stored none.
        arch: the network's name.
        outputs: K, logits of a view; `output` says in words what they are.
        members: files of weights; the logits of several are averaged.
        start_sha256: of the weights that training began with, where these were a file.
        search: the search that the recipe was found by ("study" in the file).
        familiarity: how it tells what is not like the radiographs it was trained on; older
            releases, and networks without pooled features, have none.
        runs: several final runs, where there were ("seeds" in the file).
        reference_logits: logits (3, K) of three stored pictures, by which a release shows that
            its network computes here what it computed where it was made ("golden" in the file).
    """

    # bundle.json's keys in the order in which they are written
    _KEYS: ClassVar[tuple[str, ...]] = (
        *("schema", "area", "task", "areas", "arch", "outputs", "preprocessing", "calibration"),
        *("operating_points", "recommended", "threshold", "abstain"),
        *("recalibration", "recipe", "recipe_digest"),
        *("start_sha256", "study", "training", "metrics", "data"),
        *("familiarity", "versions", "created"),
        *("output", "seeds", "members", "golden"),
    )
    _ANSWER: ClassVar[tuple[str, ...]] = ("recipe_digest",)  # keys that an answer needs

    schema: Annotated[int, whole()] = SCHEMA
    area: Annotated[str, area_name]
    task: Annotated[str, text] = TASK_NAMES[0]
    areas: Annotated[tuple[str, ...], area_names()] = ()
    arch: Annotated[str, text]
    outputs: Annotated[int, whole(1, MOST_AREAS + 1)]
    preprocessing: PreprocessingEntry
    members: Annotated[tuple[str, ...], each(weights_file, least=1, most=MOST_MEMBERS)]
    recipe: Annotated[Mapping[str, Any], tree, LATER]
    recipe_digest: Annotated[str, text, LATER]
    start_sha256: Annotated[str | None, maybe(text), NULL] = None
    search: Annotated[SearchEntry, SearchEntry.parse, Key("study"), LATER]
    training: Annotated[TrainingEntry, TrainingEntry.parse, LATER]
    metrics: Annotated[MetricsEntry, MetricsEntry.parse, LATER]
    data: Annotated[DataEntry, DataEntry.parse, LATER]
    familiarity: Annotated[FamiliarityEntry | None, FamiliarityEntry.parse] = None
    versions: Annotated[Mapping[str, str], named(text), LATER]
    created: Annotated[str, text, LATER]
    output: Annotated[str | None, text] = None
    runs: Annotated[RunsEntry | None, RunsEntry.parse, Key("seeds")] = None
    reference_logits: Annotated[
        tuple[tuple[float, ...], ...] | None, each(each(number(-1e30, 1e30))), Key("golden")
    ] = None

    @property
    def refit_folds(self) -> int | None:
        """How many patient folds stood in for dev in a release that was trained on train and dev;
        None in one that was trained on train alone."""
        return self.training.folds if self.has("training") else None

    def to_json(self) -> dict[str, Any]:
        """What bundle.json holds: plain values, with the keys in the order of the file."""
        plain = super().to_json()
        return {key: plain[key] for key in self._KEYS if key in plain}

    def require(self, source: object, *paths: str) -> None:
        """Raise InputError unless the dotted `paths` are there, and all that belongs below them."""
        lacking = [field for field in self.missing() if any(_within(field, path) for path in paths)]
        if lacking:
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            raise InputError(
                f"{source}: lacks {lacking[0]}{more}, which an older version did not "
                "store; run 'mura finalize' again"
            )

    def require_answer(self, source: object) -> None:
        """The same of what infer and export need, and evaluate with it."""
        self.require(source, *self._ANSWER)

    def read_recipe(self, source: object) -> Recipe:
        """The recipe; InputError, opened by `source`, where this version reads none."""
        return recipe_from_dict(self.recipe, str(source))

    def check_agreement(self, where: str) -> None:
        areas, members = self.areas, self.members
        different = len(set(areas)) == len(areas)
        check_value(different, "areas", list(areas), "names that differ")
        self._check_outputs()
        check_value(
            len(set(members)) == len(members), "members", list(members), "files that differ"
        )
        if self.familiarity is not None:
            name = self.familiarity.file
            check_value(name not in members, "familiarity.file", name, "none of the members")
        if self.reference_logits is not None:
            rows = self.reference_logits
            fits = len(rows) == 3 and all(len(row) == self.outputs for row in rows)
            check_value(fits, "golden", [*map(list, rows)], f"3 rows of {self.outputs} logits")

    def _check_outputs(self) -> None:
        """Raise ValueError unless the outputs are as many as the areas take."""

    def _check_outputs_are(self, number: int) -> None:
        rule = f"{number}: what {len(self.areas)} areas take"
        check_value(self.outputs == number, "outputs", self.outputs, rule)


class AbnormalityManifest(Manifest):
    """A release that answers normal or abnormal.

    Attributes:
        operating_points: thresholds by name; the one named `recommended` is the release's own.
        threshold: the recommended operating point again.
        abstain: the band of doubt.
        recalibration: where these come from in a recalibrated release. It has no `metrics`: its
            decision was never measured on the dataset that it was trained with.
    """

    _ANSWER: ClassVar[tuple[str, ...]] = (
        *("calibration", "operating_points", "recommended", "abstain", "recipe_digest"),
    )

    calibration: Annotated[CalibrationEntry, CalibrationEntry.parse, LATER]
    operating_points: Annotated[
        Mapping[str, OperatingPointEntry], named(OperatingPointEntry.parse, least=1), LATER
    ]
    recommended: Annotated[str, text, LATER]
    threshold: Annotated[ThresholdEntry | None, ThresholdEntry.parse] = None
    abstain: Annotated[BandEntry, BandEntry.parse, LATER]
    metrics: Annotated[AbnormalityMetricsEntry, AbnormalityMetricsEntry.parse, LATER]
    recalibration: Annotated[RecalibrationOriginEntry | None, RecalibrationOriginEntry.parse] = None

    @property
    def operating_point(self) -> OperatingPointEntry:
        """The recommended one: a study is called abnormal at or above its threshold."""
        return self.operating_points[self.recommended]

    def missing(self, where: str = "") -> Iterator[str]:
        absent = "" if self.recalibration is None else join_path(where, "metrics")
        return (path for path in super().missing(where) if path != absent)

    def check_agreement(self, where: str) -> None:
        super().check_agreement(where)
        if self.schema >= 3:
            for key, name in (("calibration", "aggregation"), ("abstain", "bound")):
                if self.has(key) and not getattr(self, key).has(name):
                    raise ValueError(f"{key}.{name} is missing")
        if not self.has("recommended"):
            return
        points = self.operating_points if self.has("operating_points") else {}
        known = self.recommended in points
        check_value(known, "recommended", self.recommended, "one of the operating_points")
        if self.threshold is not None:
            same = self.threshold.value == points[self.recommended].threshold
            check_value(same, "threshold", self.threshold.to_json(), f"that of {self.recommended}")
        if self.recalibration is not None:
            own, after = points[self.recommended].threshold, self.recalibration.after.threshold
            check_value(own == after, "recalibration.after.threshold", after, f"{own}, its own")


class MultitaskManifest(AbnormalityManifest):
    """A release that answers normal or abnormal, and with an area."""

    _ANSWER: ClassVar[tuple[str, ...]] = (*AbnormalityManifest._ANSWER, "areas")

    areas: Annotated[tuple[str, ...], area_names(least=2), LATER]
    metrics: Annotated[MultitaskMetricsEntry, MultitaskMetricsEntry.parse, LATER]

    def _check_outputs(self) -> None:
        self._check_outputs_are(len(self.areas) + 1)


class RouterManifest(Manifest):
    """A release that answers with an area; `abstain` is the least confidence of an answer."""

    _ANSWER: ClassVar[tuple[str, ...]] = ("areas", "calibration", "abstain", "recipe_digest")

    areas: Annotated[tuple[str, ...], area_names(least=2), LATER]
    calibration: Annotated[RouterCalibrationEntry, RouterCalibrationEntry.parse, LATER]
    abstain: Annotated[ConfidenceEntry, ConfidenceEntry.parse, LATER]
    metrics: Annotated[RouterMetricsEntry, RouterMetricsEntry.parse, LATER]

    def _check_outputs(self) -> None:
        self._check_outputs_are(len(self.areas))


MANIFESTS: Mapping[str, type[Manifest]] = dict(
    zip(TASK_NAMES, (AbnormalityManifest, RouterManifest, MultitaskManifest), strict=True)
)


def read_manifest(path: Path) -> Manifest:
    """What the bundle.json at `path` says; one of schema 1 gets what an answer needs.

    Raises:
        InputError: not JSON, another schema, or a value that cannot be, by its key.
    """
    if path.stat().st_size > strict.JSON_BYTES:
        raise InputError(f"{path}: larger than {strict.JSON_BYTES // 2**20} MiB; fetch it again")
    return parse_manifest(strict.parse_json(path.read_bytes(), path), path)


def parse_manifest(raw: Any, source: object) -> Manifest:
    """The same from a JSON document's value; `source` opens the message of what is refused."""
    try:
        check_value(isinstance(raw, Mapping), "it", raw, "a mapping of names to values")
        schema = whole(1)(raw.get("schema"), "schema")
        if schema > SCHEMA:
            raise InputError(
                f"{source}: schema {schema}; this version reads 1 to {SCHEMA}, use "
                "the one that made it"
            )
        values = {"members": [WEIGHTS], "task": TASK_NAMES[0], **raw}
        if schema == 1:
            if "threshold" not in values:
                raise ValueError("threshold is missing")
            threshold = ThresholdEntry.parse(values["threshold"], "threshold")
            values |= uncalibrated(threshold).to_json()
            values.pop("metrics", None)  # of another form, and shown by nothing
        if schema < 3:  # no version wrote these keys then, so they are none that it knows
            values |= {
                part: {key: item for key, item in values[part].items() if key != later}
                for part, later in (("calibration", "aggregation"), ("abstain", "bound"))
                if isinstance(values.get(part), Mapping)
            }
        task = values["task"]
        check_value(task in TASK_NAMES, "task", task, f"one of {', '.join(TASK_NAMES)}")
        return MANIFESTS[task].parse(values)
    except ValueError as error:
        raise InputError(f"{source}: {error}; fetch the release again") from None


def uncalibrated(threshold: ThresholdEntry) -> AbnormalityManifest:
    """What schema 2 adds, such that a release with this threshold alone answers as it did."""
    value = threshold.value
    return AbnormalityManifest.partial(
        threshold=threshold,
        calibration=CalibrationEntry.partial(temperature=1.0, offset=0.0, fitted_on="nothing"),
        operating_points={"max_youden": OperatingPointEntry(threshold=value, rule=threshold.rule)},
        recommended="max_youden",
        abstain=BandEntry(low=value, high=value, share=0.0, error=0.0, error_without=0.0),
    )


def _within(path: str, top: str) -> bool:
    """Whether a dotted path is another one, or lies below or above it."""
    return f"{path}.".startswith(f"{top}.") or f"{top}.".startswith(f"{path}.")
