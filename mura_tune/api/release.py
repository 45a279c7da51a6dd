"""From the result of a search to its release, to a recalibrated one, and to files of it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mura_tune import console, files, text
from mura_tune.api import DATA, RELEASES, RUNS
from mura_tune.api.data import make_workspace
from mura_tune.api.reading import find_release, note_decoding_changes
from mura_tune.api.search import SearchOutcome, load_result
from mura_tune.dashboard.progress import Epochs
from mura_tune.data.prepare import open_area, open_dataset
from mura_tune.errors import InputError, MuraError
from mura_tune.evaluation.split_uses import SplitUse, log_use
from mura_tune.networks.device import choose_device
from mura_tune.release import exports, release
from mura_tune.release import finalize as final
from mura_tune.release.checkpoint import Checkpoints, hold_places
from mura_tune.release.finalize import FinalRelease, count_epochs, summarise_releases
from mura_tune.release.recalibrate import RecalibratedRelease, recalibrate_release
from mura_tune.release.runs import pick_all, pick_strongest
from mura_tune.report import index
from mura_tune.search.results import finished_searches


@dataclass(frozen=True)
class FinalRuns:
    """How a release is trained.

    Attributes:
        device: cpu, cuda, cuda:1, … or auto.
        seeds: runs that differ in their seed alone; the best on dev is released.
        ensemble: release the mean of all runs instead.
    """

    device: str = "auto"
    seeds: int = 1
    ensemble: bool = False


@dataclass(frozen=True, eq=False)
class FinalizedSearches:
    """The releases of several searches, and the names of the searches that have none."""

    releases: tuple[FinalRelease, ...]
    failed: tuple[str, ...]

    def __str__(self) -> str:
        described = "\n\n".join(one.describe() for one in self.releases)
        return described + summarise_releases(self.releases)

    def to_json(self) -> list[dict[str, Any]]:
        """Each manifest with the folder of its release."""
        return [one.manifest.to_json() | {"folder": str(one.folder)} for one in self.releases]

    def refuse_failures(self) -> None:
        """Raise InputError where a search has no release."""
        if self.failed:
            raise InputError(f"no release for {', '.join(self.failed)}; the reasons stand above")


def finalize(
    outcome: SearchOutcome,
    out: str | Path = RELEASES,
    *,
    device: str = "auto",
    seeds: int = 1,
    ensemble: bool = False,
) -> FinalRelease:
    """Train the winning recipe of a search at length, and write its release.

    Train alone is trained on, dev alone chooses, test is read once, at the end. Where patient folds
    judged the search, and it says `final.refit: true`, a network a fold chooses in place of dev,
    and the release is trained on train and dev. A call that is killed goes on from the last whole
    epoch when it is repeated. Progress is printed on stderr.

    Args:
        outcome: from `Search.run`, or `load_result`.
        out: the folder of releases; this one is OUT/NAME.
        device: cpu, cuda, cuda:1, … or auto.
        seeds: runs that differ in their seed alone; the best on dev is released.
        ensemble: release the mean of all runs instead.

    Returns:
        The release: its folder, its manifest, its scores on dev and on test.

    Raises:
        InputError: no winner yet; or the data, its split or the weights to start from changed
            since the search.
        Diverged: the loss is no longer a finite number.

    Example:
        `print(finalize(search.run(trials=24), out="releases").describe())`
    """
    with contextlib.ExitStack() as locks:
        final_runs = FinalRuns(device, seeds, ensemble)
        made, checkpoints = _finalize_search(outcome, Path(out), final_runs, locks)
        checkpoints.clear()
    index.write_index(Path(out), console.print_note)
    return made


def finalize_searches(
    name: str | None = None,
    out: str | Path = RELEASES,
    final_runs: FinalRuns | None = None,
    *,
    data: str | Path = DATA,
    storage: str | Path | None = None,
    runs: str | Path = RUNS,
    strict: bool = False,
    cache: str | Path | None = None,
) -> FinalizedSearches:
    """Make the release of a search of a database by its name, or of every finished search.

    A search among many that cannot be released does not keep the others from their releases: the
    reason is printed on stderr.

    Args:
        cache: the URL or folder that `cache_area` pushed to, in place of `data`; the report then
            shows radiographs as the network sees them.

    Raises:
        InputError: the named search cannot be released, as `finalize` raises it; or no search has
            a finished trial.
    """
    if name is not None and not name.strip():
        raise InputError("the search's name is empty; leave it out to release every search")
    url = make_workspace(data, storage, runs, strict).url
    final_runs = final_runs or FinalRuns()
    made: list[FinalRelease] = []
    checkpoints: list[Checkpoints] = []
    failed: list[str] = []
    with contextlib.ExitStack() as locks:
        for one in finished_searches(url) if name is None else [name]:
            try:
                outcome = load_result(
                    one, data=data, storage=storage, runs=runs, strict=strict, cache=cache
                )
                done, own = _finalize_search(outcome, Path(out), final_runs, locks)
            except MuraError as error:
                if name is not None:
                    raise
                console.print_note(f"{one}: {error}")
                failed.append(one)
                continue
            made.append(done)
            checkpoints.append(own)
        for own in checkpoints:  # not before: after a kill, what is done needs no training again
            own.clear()
    index.write_index(Path(out), console.print_note)
    return FinalizedSearches(tuple(made), tuple(failed))


def _finalize_search(
    outcome: SearchOutcome, out: Path, final_runs: FinalRuns, locks: contextlib.ExitStack
) -> tuple[FinalRelease, Checkpoints]:
    """A release, and its checkpoints, which the caller clears; `locks` keeps its places."""
    outcome.decided()
    workspace = outcome.workspace
    own = text.file_name_of(outcome.search)  # a search may be older than the rule for names
    folder = files.path_within(out, own)
    finals = files.path_within(workspace.runs / "finals", own)
    locks.enter_context(hold_places(folder, finals))
    prepared = workspace.prepare(outcome.area, outcome.config)
    checkpoints = Checkpoints(finals, prepared, console.print_note)
    total = count_epochs(outcome) * final_runs.seeds
    with Epochs(f"finalize {outcome.search}", total, outcome.monitor) as epochs:
        made = final.finalize(
            outcome,
            prepared,
            folder,
            choose_device(final_runs.device),
            seeds=final_runs.seeds,
            released=pick_all if final_runs.ensemble else pick_strongest,
            on_epoch=epochs.epoch,
            memory=checkpoints.of,
            dataset=prepared.dataset,
            before_test=lambda digest: log_use(
                workspace.runs,
                SplitUse(
                    "finalize",
                    digest,
                    prepared.area,
                    tuple(prepared.areas),
                    prepared.dataset,
                ),
            ),
        )
    return made, checkpoints


def recalibrate(
    name: str | Path,
    out: str | Path,
    *,
    data: str | Path,
    runs: str | Path = RUNS,
    base_url: str | None = None,
    device: str = "auto",
    strict: bool = False,
) -> RecalibratedRelease:
    """Choose a release's calibration, operating points and band of doubt again on local studies.

    Args:
        name: of the release: its folder, its URL, or its name under `base_url`.
        out: the folder of the new release, which has the same weights and names the old one.
        data: the local set, as `check_data` takes it: a table .csv, a folder in MURA's layout, or a
            folder of DICOM files with labels. All of its studies are used, whatever their split.

    Returns:
        The new release. Its manifest has the figures before and after, with their intervals.

    Raises:
        InputError: a router, or a release that is recalibrated already; a picture that the network
            was trained on; too few patients of a label; or a place that cannot be written.

    Example:
        `print(recalibrate("releases/XR_WRIST", "local/XR_WRIST", data="local.csv"))`
    """
    folder = find_release(name, base_url)
    parent = release.load_release(folder, choose_device(device))
    release.as_abnormality(parent)  # before pictures are decoded
    note_decoding_changes(parent)
    area, size = parent.manifest.area, parent.manifest.preprocessing.size
    images = open_area(open_dataset(Path(data)), area, size, Path(runs) / "cache", strict=strict)
    for finding in images.left_out:
        console.print_note(f"left out {finding.path}: {finding.detail}")
    return recalibrate_release(parent, images, Path(out))


@dataclass(frozen=True)
class ExportedFile:
    """A file for other programs, and a line that says how to use it."""

    file: Path
    form: str
    usage: str

    def __str__(self) -> str:
        return f"{self.file}\n  {self.usage}"

    def to_json(self) -> dict[str, str]:
        return {"file": str(self.file), "kind": self.form, "use": self.usage}


def export(
    name: str | Path, form: str, out: str | Path | None = None, *, base_url: str | None = None
) -> ExportedFile:
    """Write a release as one file for other programs, its calibration folded in.

    Args:
        name: of the release: its folder, its URL, or its name under `base_url`.
        form: pt, joblib, onnx or safetensors.
        out: the file; None stands for AREA_FINAL_best.pt, AREA.onnx, … in the working folder.

    Returns:
        Where the file lies, and a line that says how to use it.

    Raises:
        InputError: a package that this form needs is not installed, or a place that cannot be
            written.
    """
    opened = release.load_release(find_release(name, base_url), torch.device("cpu"))
    file, usage = exports.export_release(opened, form, None if out is None else Path(out))
    return ExportedFile(file, form, usage)
