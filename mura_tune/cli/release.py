"""Verbs that write a release: for reading, and as one file for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from mura_tune import console
from mura_tune.cli.options import (
    base_url_option,
    cache_option,
    data_option,
    device_option,
    json_option,
    release_option,
    releases_option,
    runs_option,
    storage_option,
    strict_option,
)
from mura_tune.files import EXPORTS


@click.command()
@click.argument("area", required=False)
@data_option
@cache_option
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
    cache: str | None,
    runs: Path,
    releases: Path,
    storage: str | None,
    device: str,
    seeds: int,
    ensemble: bool,
    strict: bool,
    as_json: bool,
) -> None:
    """Train the best recipe of a search at length and write its release.

    Killed, the same line goes on from the last whole epoch (RUNS/finals holds it until then).
    Another finalize of the same release is refused meanwhile. AREA is a search's name; left out,
    every search with a finished trial gets its release, and one that cannot does not keep the
    others from theirs.
    """
    from mura_tune.api.release import FinalRuns, finalize_searches

    if ensemble and seeds == 1:
        raise click.UsageError("--ensemble averages several networks: add --seeds 3")
    finalized = finalize_searches(
        area,
        releases,
        FinalRuns(device, seeds, ensemble),
        data=data,
        storage=storage,
        runs=runs,
        strict=strict,
        cache=cache,
    )
    console.print_report(as_json, finalized.to_json, lambda: str(finalized))
    finalized.refuse_failures()


@click.command()
@click.argument("release")
@base_url_option
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="Local studies with labels: a table .csv, or a folder.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="The folder of the new release."
)
@runs_option
@device_option
@strict_option
@json_option
def recalibrate(
    release: str,
    base_url: str | None,
    data: Path,
    out: Path,
    runs: Path,
    device: str,
    strict: bool,
    as_json: bool,
) -> None:
    """Choose calibration, operating points and band of doubt of RELEASE again on local studies.

    The new release has the same weights and names RELEASE, which is a folder, a URL, or a name
    under BASE_URL. Figures before and after have intervals; those after are cross-fitted over
    patients. Every study of DATA is used, so take them as they came, and none that the network was
    trained on. A router is refused.
    """
    from mura_tune.api.release import recalibrate as recalibrate_release

    made = recalibrate_release(
        release, out, data=data, runs=runs, base_url=base_url, device=device, strict=strict
    )
    console.print_report(as_json, made.to_json, lambda: str(made))


@click.command()
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
    probability itself. A study's is the sigmoid of the mean over its views; of a release whose
    bundle.json has no calibration.aggregation it is the mean of the sigmoids. A router's and a
    multi-task release's areas are logits: a study's probabilities are the softmax of their mean
    over its views.
    """
    from mura_tune.api.release import export as export_release

    exported = export_release(release, kind, out, base_url=base_url)
    console.print_report(as_json, exported.to_json, lambda: str(exported))
