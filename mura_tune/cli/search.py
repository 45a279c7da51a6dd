"""Verbs about a search: run it, look at it, read its result; copy, export or delete it whole."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from copy import copy as copy_command
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mura_tune import console
from mura_tune.cli.options import (
    Number,
    cache_option,
    data_option,
    device_option,
    json_option,
    runs_option,
    search_option,
    set_option,
    storage_option,
    strict_option,
    url_of,
)
from mura_tune.errors import InputError

if TYPE_CHECKING:
    from mura_tune.api.search import Search, SearchOutcome


@click.command()
@click.argument("area", required=False)
@click.option("--every-area", is_flag=True, help="A search for every area, side by side.")
@data_option
@cache_option
@runs_option
@storage_option
@search_option
@click.option("--trials", type=click.IntRange(1), help="How many in total, finished or pruned.")
@click.option(
    "--hours",
    type=Number(0, min_open=True),
    help="Start no trial so long after this command's start; those that run finish. The same "
    "command goes on, for as long again.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 1000),
    help="Processes that search at once; they share the CPU cores. One a device if not given.",
)
@click.option(
    "--devices",
    "--device",
    default="auto",
    show_default=True,
    help="Where workers train, in turn: cpu, cuda, cuda:0,cuda:1, or all (every GPU).",
)
@click.option(
    "--warm-start",
    default="auto",
    show_default=True,
    metavar="auto|none|NAME,NAME",
    help="Try the confirmed winners of these searches early.",
)
@click.option(
    "--allow-space-change",
    is_flag=True,
    help="Go on with other ranges than the search was started with.",
)
@click.option("--no-artifacts", is_flag=True, help="No pictures of trials for the dashboard.")
@click.option(
    "--feature-gb",
    type=Number(0),
    default=20.0,
    show_default=True,
    help="Disk for what frozen stages compute, shared by trials; 0 = none.",
)
@click.option(
    "--grace",
    type=click.IntRange(2, 10**6),
    default=300,
    show_default=True,
    help="Seconds a worker may be silent before its trial is run again.",
)
@click.option(
    "--compile",
    default="auto",
    show_default=True,
    metavar="auto|on|off",
    help="torch.compile: minutes once, then faster trials; auto if a GPU wins them back.",
)
@click.option(
    "--on",
    metavar="ray[://HOST:PORT]",
    help="Run the workers on a Ray cluster: that of this machine, or the one at this address.",
)
@click.option(
    "--worker-cpus",
    type=Number(0, min_open=True),
    default=1.0,
    show_default=True,
    help="With --on: CPU cores of a worker.",
)
@click.option(
    "--worker-gpus",
    type=Number(0),
    help="With --on: GPUs of a worker; 0.5 shares one.  [default: 1 if the cluster has any]",
)
@set_option
@strict_option
@json_option
def tune(
    area: str | None,
    every_area: bool,
    data: Path,
    cache: str | None,
    runs: Path,
    storage: str | None,
    name: str | None,
    trials: int | None,
    hours: float | None,
    workers: int | None,
    devices: str,
    warm_start: str,
    allow_space_change: bool,
    no_artifacts: bool,
    feature_gb: float,
    grace: int,
    compile: str,
    on: str | None,
    worker_cpus: float,
    worker_gpus: float | None,
    overrides: tuple[str, ...],
    strict: bool,
    as_json: bool,
) -> None:
    """Search the recipe of AREA: until there are N trials, however often this is called.

    AREA is an area of the dataset; or `pooled`, one model for all areas together; or `router`,
    which area a study shows; or `multitask`, both at once. With --every-area each area has a
    search of its own, the one with the fewest images first.

    After the search the best trials run again with new seeds, and the best by their mean wins.

    Ctrl-C finishes the trial that runs and stops; twice stops now. Neither loses anything: the
    same call goes on. Trial 0 is the default recipe.

    Old words: `ALL` (capitals) is pooled, with a search and a release named ALL; `all` (small
    letters) is --every-area.
    """
    from mura_tune.api.search import RunSettings, make_searches, run_searches

    every_area = every_area or area == "all"
    if bool(area and area != "all") == every_area:
        raise click.UsageError("name one AREA, or write --every-area")
    searches = make_searches(
        None if every_area else area,
        overrides,
        data=data,
        storage=storage,
        runs=runs,
        name=name,
        strict=strict,
        cache=cache,
    )
    settings = RunSettings(
        *(workers, devices, warm_start, allow_space_change, not no_artifacts, feature_gb, grace),
        *(compile, on, worker_cpus, worker_gpus, hours),
    )
    searches = [search.with_trials(trials) for search in searches]
    _print_outcomes(as_json, every_area, searches, run_searches(searches, None, settings))


def _print_outcomes(
    as_json: bool, several: bool, searches: Sequence[Search], outcomes: Sequence[SearchOutcome]
) -> None:
    """What each search came to, and the command that goes on from there; as JSON a list of them
    where the command may have several."""
    pairs = zip(outcomes, searches, strict=True)
    console.print_report(
        as_json,
        lambda: [one.to_json() for one in outcomes] if several else outcomes[0].to_json(),
        lambda: "\n\n".join(f"{one}\nnext: {search.next_command(one)}" for one, search in pairs),
    )


@click.command()
@click.argument("area")
@runs_option
@storage_option
@json_option
def best(area: str, runs: Path, storage: str | None, as_json: bool) -> None:
    """Show the winner of a search (AREA, or the name given to `tune --search`) and what it beat."""
    from mura_tune.api.search import load_result

    outcome = load_result(area, storage=storage, runs=runs)
    console.print_report(as_json, outcome.to_json, lambda: str(outcome))


@click.command()
@click.argument("areas", nargs=-1, metavar="[AREA]...")
@runs_option
@storage_option
@json_option
def status(areas: tuple[str, ...], runs: Path, storage: str | None, as_json: bool) -> None:
    """Say where the searches AREA stand, or all searches of the database.

    A line a search: trials done of how many, confirming runs, and the time that the rest takes the
    workers that live now, by the mean of the last 20 trials. Below it a line for each running
    trial: machine, worker, trial, slot, epochs trained, since when, last sign of life. It reads the
    database and nothing else, so with --storage any machine can say it. A worker sends a sign of
    life five times in --grace seconds. To look again and again: watch -n 10 mura status
    """
    from mura_tune.dashboard.status import read_status

    statuses = read_status(url_of(storage, runs), areas)
    console.print_report(
        as_json,
        lambda: [one.to_json() for one in statuses],
        lambda: "\n\n".join(map(str, statuses)) or "no searches",
    )


@click.command()
@click.argument("area")
@data_option
@runs_option
@click.option(
    "--seeds",
    type=click.IntRange(2, 100),
    default=3,
    show_default=True,
    help="Runs on either side.",
)
@device_option
@set_option
@strict_option
@json_option
def ablate(
    area: str,
    data: Path,
    runs: Path,
    seeds: int,
    device: str,
    overrides: tuple[str, ...],
    strict: bool,
    as_json: bool,
) -> None:
    """Train AREA (multitask) with and without its second task's loss: is it worth it?

    The search file's recipe runs as it is and with aux_weight 0, on the same seeds and epochs; the
    difference of dev AUC comes with its interval.
    """
    from mura_tune.api.search import ablate_second_task
    from mura_tune.config import load_config

    ablation = ablate_second_task(
        load_config(area, overrides),
        data=data,
        runs=runs,
        seeds=seeds,
        device=device,
        strict=strict,
    )
    console.print_report(as_json, ablation.to_json, ablation.describe)


@click.command()
@click.argument("area")
@data_option
@set_option
@json_option
def show(area: str, data: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print the search of AREA as its files and every --set resolve it.

    An area without a search file has that of studies/default.yaml; the dataset, where it is there,
    must have such an area. The last line counts what the search takes at most.
    """
    import yaml

    from mura_tune.api.data import describe_budget, resolve_config
    from mura_tune.config import config_to_dict

    config = resolve_config(area, overrides, data=data)
    plain = config_to_dict(config)
    console.print_report(
        as_json,
        lambda: plain,
        lambda: f"{yaml.safe_dump(plain, sort_keys=False)}# {describe_budget(config, data=data)}",
    )


@click.command()
@runs_option
@storage_option
@click.option(
    "--host",
    "hosts",
    multiple=True,
    default=("127.0.0.1",),
    show_default=True,
    metavar="HOST",
    help="Name or address of this machine to listen on; 0.0.0.0 listens "
    "on every network. Only requests that name it are answered: with 127.0.0.1 also "
    "localhost; with 0.0.0.0 any IP address, localhost and this machine's name. Repeat "
    "it with each other NAME or NAME:PORT that browsers use, as behind a tunnel or a "
    "proxy.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="0 picks a free one.",
)
@click.option("--writable", is_flag=True, help="Let the browser rename and delete searches.")
def dashboard(
    runs: Path, storage: str | None, hosts: tuple[str, ...], port: int, writable: bool
) -> None:
    """Serve optuna-dashboard for the searches: to look at, and not to change."""
    from mura_tune.dashboard import app

    host, *names = hosts
    if writable:
        console.print_note(f"warning: {app.writable_warning(host)}")
    app.serve(
        url_of(storage, runs),
        host,
        port,
        lambda url: click.echo(f"searches at {url}"),
        names=names,
        artifacts=runs / "artifacts",
        writable=writable,
        report=console.print_note,
    )


@click.group("search")
def searches() -> None:
    """Copy, export or delete a search."""


@searches.command()
@click.argument("name")
@click.argument("new")
@click.option("--to", default=None, help="Another database, as --storage.  [default: the same]")
@runs_option
@storage_option
def copy(name: str, new: str, to: str | None, runs: Path, storage: str | None) -> None:
    """Copy search NAME as NEW, with its confirmation, whole or not at all.

    Its pictures stay with NAME; a copy in the same database shows them too.
    """
    from mura_tune.search import manage

    url = url_of(storage, runs)
    count = manage.copy(url, name, new, url_of(to, runs) if to else url)
    click.echo(f"{new}: {count} trials")


@searches.command()
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), help="Write here instead of on stdout.")
@runs_option
@storage_option
def export(name: str, out: Path | None, runs: Path, storage: str | None) -> None:
    """Print every trial of NAME, and of its confirmation, as CSV."""
    from mura_tune import files
    from mura_tune.search import manage

    if out:
        files.check_writable(out)
    text = manage.table(url_of(storage, runs), name)
    if out:
        files.replace_file(out, text.encode())
        click.echo(f"{out}: {len(text.splitlines()) - 1} trials")
    else:
        click.echo(text, nl=False)


@searches.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@runs_option
@storage_option
def delete(name: str, yes: bool, runs: Path, storage: str | None) -> None:
    """Delete search NAME, its confirmation and its pictures, for good."""
    from mura_tune.database.urls import database
    from mura_tune.search import manage

    url = url_of(storage, runs)
    n = manage.count(url, name)
    if not yes and not _sure(f"{database(url)}: delete search {name} and its {n} trials?"):
        click.echo("nothing deleted")
        return
    click.echo(f"{name}: {manage.delete(url, name, runs / 'artifacts')} trials deleted")


def _sure(question: str) -> bool:
    """What a person answers. Raises InputError where nobody is there to answer."""
    try:
        return click.confirm(question)
    except (click.Abort, RuntimeError):  # RuntimeError: there is no stdin at all
        if sys.stdin is not None and sys.stdin.isatty():
            raise  # Ctrl-C
    raise InputError("search delete: nobody answers, nothing deleted; --yes deletes without asking")


study = copy_command(searches)  # the older name
study.name, study.hidden = "study", True
