"""A release held against data: evaluate, compare, report, verify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mura_tune import console, files
from mura_tune.api import DATA, RELEASES, RUNS
from mura_tune.api.data import Workspace
from mura_tune.api.reading import find_release, note_decoding_changes
from mura_tune.areas import ROUTER
from mura_tune.data.index import dataset_name
from mura_tune.data.prepare import Prepared
from mura_tune.errors import InputError
from mura_tune.evaluation.columns import StudyColumn, read_columns
from mura_tune.evaluation.compare import AnyEvaluation, Comparison
from mura_tune.evaluation.corrections import correct_scores, read_corrections
from mura_tune.evaluation.evaluate import Evaluation, check_same_data, load_test
from mura_tune.evaluation.split_uses import SplitUse, describe_uses, log_use, uses_to_json
from mura_tune.evaluation.subgroups import measure_subgroups
from mura_tune.networks.device import choose_device
from mura_tune.reading.fetch import is_fetched
from mura_tune.reading.locate import release_finder, release_for
from mura_tune.release import external, two_stage
from mura_tune.release import release as releases_on_disk
from mura_tune.release.release import Release
from mura_tune.release.release_tasks import release_task
from mura_tune.release.verify import Inspection, inspect_release
from mura_tune.release_format.folder import check_place
from mura_tune.release_format.manifest import (
    MANIFEST,
    REPORT,
    AbnormalityManifest,
    RouterManifest,
)
from mura_tune.report import index
from mura_tune.training.batches import Split


@dataclass(frozen=True, eq=False)
class ReleaseEvaluation:
    """What a release scores on the test split of its area."""

    area: str
    scores: AnyEvaluation

    def __str__(self) -> str:
        return self.scores.describe()

    def to_json(self) -> dict[str, Any]:
        return {"area": self.area, **self.scores.to_json()}


def evaluate(
    release: str | Path,
    *,
    data: str | Path = DATA,
    runs: str | Path = RUNS,
    base_url: str | None = None,
    device: str = "auto",
    strict: bool = False,
    by: Sequence[str] = (),
    groups: str | Path | None = None,
    corrections: str | Path | None = None,
) -> ReleaseEvaluation:
    """Evaluate a release on the test studies of its dataset, which no search has read.

    They are the published `valid` studies, or, where a dataset publishes none, those of a fifth of
    its patients.

    Args:
        release: its folder, its URL, or its name under `base_url`.
        by: columns whose groups of studies are measured too, each against the rest. A column stands
            in `groups`, in the dataset's own table (of images, or labels.csv), or is `area`; sex,
            age, view and manufacturer may stand in the headers of DICOM files.
        groups: a CSV with a column path or study, and columns to group by.
        corrections: a CSV of studies and their right labels (study,label): all scores by these
            labels too, and the differences.

    Returns:
        The scores on test, each with its interval.

    Raises:
        InputError: other data than it was made with, a release that is not whole, a column that is
            nowhere, or a correction of a study that is not in test.

    Example:
        `print(evaluate("releases/XR_WRIST", data="data/MURA-v1.1"))`
    """
    workspace = Workspace(Path(data), Path(runs), strict=strict)
    opened, prepared = _load_with_data(find_release(release, base_url), workspace, device)
    further = _read_further(opened, prepared, workspace.data, by, groups, corrections)
    test = _read_test(workspace, opened, prepared, "evaluate")
    return ReleaseEvaluation(opened.manifest.area, further.measure(test))


def evaluate_folders(
    release: str | Path,
    *,
    data: str | Path,
    runs: str | Path = RUNS,
    base_url: str | None = None,
    device: str = "auto",
    strict: bool = False,
) -> external.ExternalEvaluation:
    """Evaluate a release on the whole of an external set, `{train,val,test}/{label}` folders.

    Returns:
        The scores on the external set, each with its interval.

    Raises:
        InputError: no such folders, or a release that is not whole.
    """
    opened = releases_on_disk.load_release(find_release(release, base_url), choose_device(device))
    return external.evaluate_external(opened, Path(data), Path(runs) / "cache", strict=strict)


def evaluate_routed(
    *,
    releases: str | Path = RELEASES,
    data: str | Path = DATA,
    runs: str | Path = RUNS,
    base_url: str | None = None,
    device: str = "auto",
    strict: bool = False,
) -> two_stage.TwoStageEvaluation:
    """Evaluate the router and every area's release as one, on the test studies of all areas.

    Returns:
        The scores with the router's area and with the true one, and their difference.

    Raises:
        InputError: no router, no release for an area nor one for all areas, or other data than
            they were made with.
    """
    workspace = Workspace(Path(data), Path(runs), strict=strict)
    find = release_finder(Path(releases), base_url, console.print_note)
    folder = find(ROUTER)
    router, _ = _load_with_data(folder, workspace, device)
    _require_router(router)
    config = router.manifest.search.read_config(folder / MANIFEST)
    places = {area: release_for(find, area) for area in router.manifest.areas}
    by_folder: dict[Path, Release] = {}
    for own_folder, _ in places.values():
        if own_folder not in by_folder:
            by_folder[own_folder], _ = _load_with_data(own_folder, workspace, device)
    for opened in by_folder.values():
        _refuse_router(opened)
    splits: dict[int, Split] = {}

    def split_at(size: int) -> Split:
        if size not in splits:
            at_size = replace(config, recipe=replace(config.recipe, size=size))
            prepared = workspace.prepare(ROUTER, at_size)
            splits[size] = load_test(prepared, choose_device(device))
        return splits[size]

    uses = _log_use(workspace, router, router.manifest.areas, "evaluate")
    for opened in by_folder.values():
        _log_use(workspace, opened, router.manifest.areas, "evaluate")
    fallbacks = tuple(line for _, line in places.values() if line)
    by_area = {area: by_folder[own_folder] for area, (own_folder, _) in places.items()}
    both = two_stage.evaluate_two_stages(router, by_area, fallbacks, split_at)
    return replace(both, uses_before=uses)


def compare(
    first: str | Path,
    second: str | Path,
    *,
    data: str | Path = DATA,
    runs: str | Path = RUNS,
    base_url: str | None = None,
    device: str = "auto",
    strict: bool = False,
) -> Comparison:
    """By how much the release `first` beats `second` on the same test studies, and how surely.

    Args:
        first: a release: its folder, its URL, or its name under `base_url`.
        second: another release of the same task.

    Returns:
        The difference of each score, paired by patient, with its interval.

    Raises:
        InputError: releases of different tasks, or other data than they were made with.
    """
    workspace = Workspace(Path(data), Path(runs), strict=strict)
    tasks, areas, evaluations = [], [], []
    for name in (first, second):
        opened, prepared = _load_with_data(find_release(name, base_url), workspace, device)
        own_task = release_task(opened.manifest.task)
        tasks.append(own_task)
        areas.append(opened.manifest.area)
        if not own_task.is_comparable(tasks[0]):
            raise InputError(
                f"{first} is for {areas[0]} and {second} for {areas[1]}: one tells "
                "areas apart and one what is abnormal; name two of one kind"
            )
        evaluations.append(_read_test(workspace, opened, prepared, "compare"))
    area = " and ".join(dict.fromkeys(areas))
    return tasks[0].compare(area, (str(first), str(second)), *evaluations)


@dataclass(frozen=True)
class WrittenReport:
    """A page that was written, its size, and how often its test split was measured before."""

    path: Path
    size: int
    uses_before: int | None = None

    def __str__(self) -> str:
        return str(self.path)

    def to_json(self) -> dict[str, Any]:
        page = {"report": str(self.path), "bytes": self.size}
        return page | uses_to_json(self.uses_before)


def write_report(
    release: str | Path,
    out: str | Path | None = None,
    *,
    cases: int = 6,
    data: str | Path = DATA,
    runs: str | Path = RUNS,
    base_url: str | None = None,
    device: str = "auto",
    strict: bool = False,
    by: Sequence[str] = (),
    groups: str | Path | None = None,
    corrections: str | Path | None = None,
) -> WrittenReport:
    """Write a release's report.html again, and index.html and RESULTS.md beside the releases.

    Args:
        out: write the page there, and leave the release as it is.
        cases: studies shown of each kind of error; 0 shows no radiographs.
        by, groups, corrections: as `evaluate` takes them; the page then shows these too.

    Returns:
        Where the page was written.

    Raises:
        InputError: a fetched release without `out`, a place that cannot be written, or other data
            than the release was made with.
    """
    folder = find_release(release, base_url)
    if not out and is_fetched(folder):
        raise InputError(
            f"{release}: fetched, and stays as it was fetched; name a file for the "
            "page by --out report.html"
        )
    if not out and folder.is_dir():
        check_place(folder)
    files.check_writable(Path(out) if out else folder.parent / f".{folder.name}.new")
    workspace = Workspace(Path(data), Path(runs), strict=strict)
    opened, prepared = _load_with_data(folder, workspace, device)
    _refuse_recalibrated(opened)
    own_task = release_task(opened.manifest.task)
    further = _read_further(opened, prepared, workspace.data, by, groups, corrections)
    test = further.measure(_read_test(workspace, opened, prepared, "report"))
    html = own_task.render_report(opened.net, opened.manifest, prepared, test=test, cases=cases)
    content = html.encode("utf-8", "backslashreplace")
    if out:
        files.replace_file(Path(out), content)
    else:
        releases_on_disk.add_files(folder, {REPORT: html})
        index.write_index(folder.parent, console.print_note)
    if line := describe_uses(test.uses_before):
        console.print_note(line)
    return WrittenReport(Path(out) if out else folder / REPORT, len(content), test.uses_before)


def verify(
    release: str | Path,
    *,
    data: str | Path | None = None,
    runs: str | Path = RUNS,
    base_url: str | None = None,
) -> Inspection:
    """Check a release: every byte, its schema, its weights, its answer to a stored question.

    Args:
        data: also check that the release was made with this dataset and its split.

    Returns:
        What was checked, and the digest that names the release.

    Raises:
        InputError: what does not agree.
    """
    folder = find_release(release, base_url)
    inspection = inspect_release(folder)
    if data is None:
        return inspection
    _load_with_data(folder, Workspace(Path(data), Path(runs)), "cpu")
    return replace(inspection, data=True)


def _load_with_data(folder: Path, workspace: Workspace, device: str) -> tuple[Release, Prepared]:
    """A release and the data it was made with, prepared at its size and divided its way."""
    opened = releases_on_disk.load_release(folder, choose_device(device))
    manifest = opened.manifest
    manifest.require(folder / MANIFEST, "study.config", "data.fingerprint")
    note_decoding_changes(opened)
    config = manifest.search.read_config(folder / MANIFEST)
    prepared = workspace.prepare(manifest.area, config)
    check_same_data(folder, manifest.data, prepared)
    return opened, prepared


@dataclass(frozen=True)
class _Further:
    """What is measured beside the scores: groups of studies, and corrected labels."""

    columns: tuple[StudyColumn, ...] = ()
    corrections: Mapping[str, int] | None = None
    source: Path = Path()

    def measure(self, test: AnyEvaluation) -> AnyEvaluation:
        """The evaluation with it."""
        if not isinstance(test, Evaluation):
            return test
        studies, threshold = test.studies, test.decision.threshold
        corrected = None
        if self.corrections is not None:
            corrected = correct_scores(studies, self.corrections, threshold, self.source)
        subgroups = (measure_subgroups(studies, column, threshold) for column in self.columns)
        return replace(test, subgroups=tuple(subgroups), corrected=corrected)


def _read_further(
    opened: Release,
    prepared: Prepared,
    data: Path,
    by: Sequence[str],
    groups: str | Path | None,
    corrections: str | Path | None,
) -> _Further:
    """Read the tables before test is read, so that a fault in one is no use of test."""
    if groups and not by:
        raise InputError(f"{groups}: no column to group by; name one by --by")
    if not by and not corrections:
        return _Further()
    _refuse_router(opened)
    views = prepared.frame.iloc[prepared.rows("test")]
    columns = read_columns(by, views, data, Path(groups) if groups else None)
    if not corrections:
        return _Further(columns)
    source = Path(corrections)
    labels = read_corrections(source, views["study"].unique(), prepared.area)
    return _Further(columns, labels, source)


def _read_test(
    workspace: Workspace, opened: Release, prepared: Prepared, verb: str
) -> AnyEvaluation:
    """Evaluate a release on test, and log that first; see `split_uses`."""
    uses = _log_use(workspace, opened, prepared.areas, verb)
    task = release_task(opened.manifest.task)
    test: AnyEvaluation = task.evaluate_release(opened, prepared)
    return replace(test, uses_before=uses)


def _log_use(workspace: Workspace, opened: Release, areas: Sequence[str], verb: str) -> int | None:
    digest = releases_on_disk.release_digest(opened.folder, opened.manifest)
    use = SplitUse(verb, digest, opened.manifest.area, tuple(areas), dataset_name(workspace.data))
    return log_use(workspace.runs, use)


def _require_router(release: Release) -> None:
    if not isinstance(release.manifest, RouterManifest):
        raise _wrong_task(release, "a router")


def _refuse_router(release: Release) -> None:
    if isinstance(release.manifest, RouterManifest):
        raise _wrong_task(release, "a release that tells what is abnormal")


def _refuse_recalibrated(release: Release) -> None:
    """Refuse a report on dev and test of a release whose decision was chosen on other studies."""
    manifest = release.manifest
    if isinstance(manifest, AbnormalityManifest) and manifest.recalibration is not None:
        raise InputError(
            f"{release.folder}: recalibrated, so its report is that of its local studies and stays "
            "as it is; 'mura evaluate' measures it on test"
        )


def _wrong_task(release: Release, wanted: str) -> InputError:
    return InputError(
        f"{release.folder}: of task {release.manifest.task}, where {wanted} "
        "is needed; put the right release there"
    )
