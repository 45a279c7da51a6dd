"""The verb that makes a release."""

from __future__ import annotations

import contextlib
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
    from mura_tune import files, names
    from mura_tune.data.dataset import name_of
    from mura_tune.errors import InputError, MuraError
    from mura_tune.release import index
    from mura_tune.release.checkpoint import Checkpoints, alone
    from mura_tune.release.finalize import final_recipe, summary
    from mura_tune.release.finalize import finalize as release
    from mura_tune.release.seeds import everyone, strongest
    from mura_tune.tuning.results import finished_studies
    from mura_tune.tuning.watch import Epochs

    if ensemble and seeds == 1:
        raise click.UsageError("--ensemble averages several networks: add --seeds 3")
    if area is not None and not area.strip():
        raise InputError("the study's name is empty; leave it out to release every study")
    url, made, held, failed = url_of(storage, runs), [], [], []
    with contextlib.ExitStack() as locks:
        for name in finished_studies(url) if area is None else [area]:
            try:
                found = best_of(name, url).decided()
                own = names.as_file(name)  # a search may be older than the rule for names
                folder = files.within(releases, own)
                finals = files.within(runs / "finals", own)
                locks.enter_context(alone(folder, finals))
                prepared = prepared_of(found.area, found.config, data, runs, strict)
                kept = Checkpoints(finals, prepared, console.note)
                total = final_recipe(found).epochs * seeds
                with Epochs(f"finalize {name}", total, found.monitor) as epochs:
                    made.append(
                        release(
                            found,
                            prepared,
                            folder,
                            device_of(device),
                            seeds=seeds,
                            released=everyone if ensemble else strongest,
                            on_epoch=epochs.epoch,
                            memory=kept.of,
                            dataset=name_of(data),
                        )
                    )
                held.append(kept)
            except MuraError as error:
                if area:
                    raise
                console.note(f"{name}: {error}")
                failed.append(name)
        for kept in held:  # not before: after a kill, what is done needs no training again
            kept.clear()
    console.report(
        as_json,
        lambda: [one.manifest | {"folder": str(one.folder)} for one in made],
        lambda: "\n\n".join(one.describe() for one in made) + summary(made),
    )
    index.write(releases, console.note)
    if failed:
        raise InputError(f"no release for {', '.join(failed)}; the reasons stand above")
