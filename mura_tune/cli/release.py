"""The verb that makes a release.

The verb that writes a release for other programs.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from mura_tune import console
from mura_tune.cli.options import (
    base_url_option,
    best_of,
    data_option,
    device_of,
    device_option,
    json_option,
    prepared_of,
    release_at,
    release_option,
    releases_option,
    runs_option,
    storage_option,
    strict_option,
    url_of,
)
from mura_tune.files import EXPORTS


@click.command(short_help="Train the best recipe at length and write its release.")
@click.argument("area", required=False)
@data_option
@runs_option
@releases_option
@storage_option
@device_option
@click.option(
    "--seeds",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    help="Train so many; release the best on dev, and tell their spread.",
)
@click.option("--ensemble", is_flag=True, help="Release the mean of all seeds instead.")
@strict_option
@json_option
def finalize(
    area: str | None,
    data: Path,
    runs: Path,
    releases: Path,
    storage: str | None,
    device: str,
    seeds: int,
    ensemble: bool,
    strict: bool,
    as_json: bool,
) -> None:
    """Train the best recipe of a study at length and write its release.

    Killed, the same line goes on from the last whole epoch (RUNS/finals holds it until then).
    Another finalize of the same release is refused meanwhile. AREA is a study's name; left out,
    every study with a finished trial gets its release, and one that cannot does not keep the others
    from theirs.
    """
    from mura_tune import files, text
    from mura_tune.dashboard.progress import Epochs
    from mura_tune.data.index import dataset_name
    from mura_tune.errors import InputError, MuraError
    from mura_tune.evaluation.runs import pick_all, pick_strongest
    from mura_tune.release.checkpoint import Checkpoints, hold_places
    from mura_tune.release.finalize import final_recipe, summarise_releases
    from mura_tune.release.finalize import finalize as release
    from mura_tune.report import index
    from mura_tune.search.results import finished_searches

    if ensemble and seeds == 1:
        raise click.UsageError("--ensemble averages several networks: add --seeds 3")
    if area is not None and not area.strip():
        raise InputError("the study's name is empty; leave it out to release every study")
    url, made, held, failed = url_of(storage, runs), [], [], []
    with contextlib.ExitStack() as locks:
        for name in finished_searches(url) if area is None else [area]:
            try:
                found = best_of(name, url).decided()
                own = text.file_name_of(name)  # a search may be older than the rule for names
                folder = files.path_within(releases, own)
                finals = files.path_within(runs / "finals", own)
                locks.enter_context(hold_places(folder, finals))
                prepared = prepared_of(found.area, found.config, data, runs, strict)
                kept = Checkpoints(finals, prepared, console.print_note)
                total = final_recipe(found).epochs * seeds
                with Epochs(f"finalize {name}", total, found.monitor) as epochs:
                    made.append(
                        release(
                            found,
                            prepared,
                            folder,
                            device_of(device),
                            seeds=seeds,
                            released=pick_all if ensemble else pick_strongest,
                            on_epoch=epochs.epoch,
                            memory=kept.of,
                            dataset=dataset_name(data),
                        )
                    )
                held.append(kept)
            except MuraError as error:
                if area:
                    raise
                console.print_note(f"{name}: {error}")
                failed.append(name)
        for kept in held:  # not before: after a kill, what is done needs no training again
            kept.clear()
    console.print_report(
        as_json,
        lambda: [one.manifest.to_json() | {"folder": str(one.folder)} for one in made],
        lambda: "\n\n".join(one.describe() for one in made) + summarise_releases(made),
    )
    index.write_index(releases, console.print_note)
    if failed:
        raise InputError(f"no release for {', '.join(failed)}; the reasons stand above")


@click.command(short_help="Write a release as one file for other programs.")
@release_option
@base_url_option
@click.option(
    "--to",
    "kind",
    required=True,
    type=click.Choice(list(EXPORTS)),
    help="pt: model_state for three ImageNet-normalised channels.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The file to write.  [default: AREA_FINAL_best.pt, AREA.onnx, …]",
)
@json_option
def export(release: str, base_url: str | None, kind: str, out: Path | None, as_json: bool) -> None:
    """Write a release as one file for other programs, its calibration folded in.

    The sigmoid of what it gives is the calibrated probability of one view; onnx gives the
    probability itself. A study's is the mean over its views. A router's and a multi-task release's
    areas are logits: a study's probabilities are the softmax of their mean over its views.
    """
    import torch

    from mura_tune.release import exports
    from mura_tune.release.release import load_release

    path, told = exports.export_release(
        load_release(release_at(release, base_url), torch.device("cpu")), kind, out
    )
    plain = {"file": str(path), "kind": kind, "use": told}
    console.print_report(as_json, lambda: plain, lambda: f"{path}\n  {told}")
