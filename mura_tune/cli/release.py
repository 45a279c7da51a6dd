"""Verbs about a release: make it, measure it, verify it."""

from __future__ import annotations

from pathlib import Path

import click

from mura_tune import console
from mura_tune.cli.options import (
    best_of,
    data_option,
    device_of,
    device_option,
    json_option,
    prepared_of,
    releases_option,
    runs_option,
    storage_option,
    strict_option,
    url_of,
)


@click.command()
@click.argument("area", required=False)
@data_option
@runs_option
@releases_option
@storage_option
@device_option
@strict_option
@json_option
def finalize(
    area: str | None, data: Path, runs: Path, releases: Path, storage: str | None, device: str,
    strict: bool, as_json: bool,
) -> None:  # fmt: skip
    """Train the best recipe of a study at length and write its release.

    AREA is a study's name; left out, every study with a finished trial gets its release.
    """
    from mura_tune.release.finalize import final_recipe
    from mura_tune.release.finalize import finalize as release
    from mura_tune.tuning.results import finished_studies
    from mura_tune.tuning.watch import Epochs

    url, made = url_of(storage, runs), []
    for name in [area] if area else finished_studies(url):
        found = best_of(name, url)
        prepared = prepared_of(found.area, found.config, data, runs, strict)
        with Epochs(f"finalize {name}", final_recipe(found)) as epochs:
            made.append(release(found, prepared, releases / name, device_of(device),
                                on_epoch=epochs.epoch))  # fmt: skip
    console.report(
        as_json,
        lambda: [one.manifest | {"folder": str(one.folder)} for one in made],
        lambda: "\n\n".join(
            f"{one.folder}\n{one.dev.describe()}\n{one.test.describe()}" for one in made
        ),
    )


@click.command()
@click.option("--release", required=True, type=click.Path(path_type=Path), help="Its folder.")
@data_option
@runs_option
@device_option
@strict_option
@json_option
def evaluate(
    release: Path, data: Path, runs: Path, device: str, strict: bool, as_json: bool
) -> None:
    """Measure a release on the published `valid` studies, which no search has read."""
    from mura_tune import config
    from mura_tune.release import bundle
    from mura_tune.release.calibrate import Chosen
    from mura_tune.release.evaluate import measure, same_data

    loaded = bundle.load(release, device_of(device))
    manifest = loaded.manifest
    study = config.from_dict(manifest["study"]["config"], str(release / bundle.MANIFEST))
    prepared = prepared_of(manifest["area"], study, data, runs, strict)
    same_data(manifest, prepared)
    measured = measure(loaded.net, prepared, "test", Chosen.from_json(manifest))
    console.report(
        as_json, lambda: {"area": manifest["area"], **measured.to_json()}, measured.describe
    )


@click.command()
@click.argument("release", type=click.Path(path_type=Path))
@json_option
def verify(release: Path, as_json: bool) -> None:
    """Check every byte of a release against its sums, and its weights against its network."""
    import torch

    from mura_tune.release import bundle

    manifest = bundle.load(release, torch.device("cpu")).manifest
    plain = {"release": str(release), "area": manifest["area"], "whole": True}
    console.report(as_json, lambda: plain, lambda: f"{release}: {manifest['area']}, whole")
