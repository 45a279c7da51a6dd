"""Verbs about a search: run it, look at it, read what it found."""

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
    runs_option,
    set_option,
    storage_option,
    strict_option,
    study_of,
    study_option,
    url_of,
)


@click.command()
@click.argument("area")
@data_option
@runs_option
@storage_option
@study_option
@click.option("--trials", type=click.IntRange(1), help="How many in total, finished or pruned.")
@set_option
@device_option
@strict_option
@json_option
def tune(
    area: str, data: Path, runs: Path, storage: str | None, name: str | None, trials: int | None,
    overrides: tuple[str, ...], device: str, strict: bool, as_json: bool,
) -> None:  # fmt: skip
    """Search the recipe of AREA: until there are N trials, however often this is called.

    Stopping it (Ctrl-C) loses nothing: the same call goes on. Trial 0 is the default recipe.
    """
    from mura_tune.tuning import results
    from mura_tune.tuning.search import tune as search
    from mura_tune.tuning.watch import Watch

    budget = (f"budget.trials={trials}",) if trials else ()
    study = study_of(area, (*overrides, *budget))
    prepared = prepared_of(area, study, data, runs, strict)
    with Watch(study) as watch:
        opened = search(
            study, prepared, name=name or area, url=url_of(storage, runs), device=device_of(device),
            on_epoch=watch.epoch, on_trial=watch.trial,
        )  # fmt: skip
    best_one = results.best(opened)
    console.report(as_json, best_one.to_json, lambda: results.describe(best_one))


@click.command()
@click.argument("area")
@runs_option
@storage_option
@json_option
def best(area: str, runs: Path, storage: str | None, as_json: bool) -> None:
    """Show the best trial of a study (AREA, or the name given to `tune --study`)."""
    from mura_tune.tuning import results

    found = best_of(area, url_of(storage, runs))
    console.report(as_json, found.to_json, lambda: results.describe(found))


@click.command()
@click.argument("area")
@set_option
@json_option
def show(area: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print the study of AREA as its files and every --set resolve it."""
    import yaml

    from mura_tune import config

    plain = config.to_dict(study_of(area, overrides))
    console.report(as_json, lambda: plain, lambda: yaml.safe_dump(plain, sort_keys=False).rstrip())


@click.command()
@runs_option
@storage_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, help="0 picks a free one.")
def dashboard(runs: Path, storage: str | None, host: str, port: int) -> None:
    """Serve optuna-dashboard for the studies, to look at and not to change."""
    from mura_tune.tuning import board

    board.serve(url_of(storage, runs), host, port, lambda url: click.echo(f"studies at {url}"))
