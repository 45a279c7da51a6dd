"""Verbs about a search: run it, look at it, read what it found."""

from __future__ import annotations

from pathlib import Path

import click

from mura_tune import console
from mura_tune.cli.options import (
    Number,
    areas_of,
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
    trainable_of,
    url_of,
)
from mura_tune.lines import shell_command


@click.command(short_help="Search the recipe of an area, up to N trials in total.")
@click.argument("area")
@data_option
@runs_option
@storage_option
@study_option
@click.option("--trials", type=click.IntRange(1), help="How many in total, finished or pruned.")
@click.option(
    "--workers",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Processes that search at once; they share the CPU cores.",
)
@click.option(
    "--devices",
    "--device",
    default="auto",
    show_default=True,
    help="Where workers train, in turn: cpu, cuda, or cuda:0,cuda:1.",
)
@click.option(
    "--warm-start",
    default="auto",
    show_default=True,
    metavar="auto|none|STUDY,STUDY",
    help="Try the confirmed winners of these studies early.",
)
@click.option(
    "--allow-space-change",
    is_flag=True,
    help="Go on with other ranges than the study was started with.",
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
@set_option
@strict_option
@json_option
def tune(
    area: str,
    data: Path,
    runs: Path,
    storage: str | None,
    name: str | None,
    trials: int | None,
    workers: int,
    devices: str,
    warm_start: str,
    allow_space_change: bool,
    no_artifacts: bool,
    feature_gb: float,
    grace: int,
    overrides: tuple[str, ...],
    strict: bool,
    as_json: bool,
) -> None:
    """Search the recipe of AREA: until there are N trials, however often this is called.

    AREA is an area of the dataset, or `ALL` (capitals): one model for all areas together. `all`
    (small letters) is another thing: a study for every area, side by side, the smallest first.

    After the search the best trials run again with new seeds, and the best by their mean wins.

    Ctrl-C finishes the trial that runs and stops; twice stops now. Neither loses anything: the
    same call goes on. Trial 0 is the default recipe.
    """
    from mura_tune.dashboard.artifacts import TrialArtifacts
    from mura_tune.dashboard.progress import SearchProgress, both
    from mura_tune.dashboard.updates import DashboardUpdates
    from mura_tune.database.storage import admit, load_study, open_storage
    from mura_tune.database.urls import database
    from mura_tune.errors import InputError
    from mura_tune.search import pool as pools
    from mura_tune.search import results, verdict
    from mura_tune.search.records import SearchRecord
    from mura_tune.search.search import SearchJob, WorkerSettings, save_nothing, start_search
    from mura_tune.training.tasks import task_of

    if area == "all" and name is not None:
        raise InputError("--study: names one study, and AREA is all; leave one out")
    budget = (f"budget.trials={trials}",) if trials else ()
    pool = pools.WorkerPool(workers, tuple(device_of(d) for d in devices.split(",")))
    url = url_of(storage, runs)
    settings = WorkerSettings(
        url,
        grace,
        warm_start,
        artifacts=save_nothing if no_artifacts else TrialArtifacts(runs / "artifacts"),
        features=runs / "features" if feature_gb else None,
        feature_bytes=int(feature_gb * 10**9),
    )
    jobs: list[SearchJob] = []
    since: dict[str, int] = {}
    studies = {
        one: trainable_of(one, (*overrides, *budget))
        for one in (areas_of(data) if area == "all" else [area])
    }
    for one in studies:  # before anything is decoded
        admit(url, one if name is None else name, "AREA" if name is None else "--study")
    for one, study in studies.items():
        job = SearchJob(
            one if name is None else name, study, prepared_of(one, study, data, runs, strict)
        )
        since |= start_search(job, settings, allow_space_change=allow_space_change)
        jobs.append(job)
    opened = {job.name: SearchRecord(load_study(open_storage(url), job.name, url)) for job in jobs}
    wanted = {job.name: job.config.budget.trials for job in jobs}
    measures = {
        job.name: task_of(job.config.task, job.config.recipe.monitor).measure.name for job in jobs
    }
    places = ["--data", data, "--runs", runs, *(["--storage", database(url)] if storage else [])]
    sets = [word for override in overrides for word in ("--set", override)]
    finals = {job.name: shell_command("mura", "finalize", job.name, *places) for job in jobs}
    again = {
        job.name: shell_command(
            *("mura", "tune", job.prepared.area, "--study", job.name),
            *("--trials", wanted[job.name], *places, *sets),
        )
        for job in jobs
    }
    updates = DashboardUpdates(url, jobs, again, finals)

    with (
        SearchProgress(wanted, lambda one: opened[one].trials(), measures) as progress,
        updates.around(),
    ):
        pools.run_pool(jobs, since, settings, pool, both(progress, updates), progress.say)
    found = [results.load_result(url, job.name) for job in jobs]
    console.print_report(
        as_json,
        lambda: [one.to_json() for one in found] if area == "all" else found[0].to_json(),
        lambda: "\n\n".join(
            f"{verdict.describe_result(one)}\nnext: {finals[one.study]}" for one in found
        ),
    )


@click.command(short_help="Show the winner of a search and what it beat.")
@click.argument("area")
@runs_option
@storage_option
@json_option
def best(area: str, runs: Path, storage: str | None, as_json: bool) -> None:
    """Show the winner of a study (AREA, or the name given to `tune --study`) and what it beat."""
    from mura_tune.search import verdict

    found = best_of(area, url_of(storage, runs))
    console.print_report(as_json, found.to_json, lambda: verdict.describe_result(found))


@click.command(short_help="Say what the second task of multitask is worth.")
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

    The study file's recipe runs as it is and with aux_weight 0, on the same seeds and epochs; the
    difference of dev AUC comes with its interval.
    """
    from mura_tune.dashboard.progress import Epochs
    from mura_tune.errors import InputError
    from mura_tune.evaluation import ablation
    from mura_tune.search.comparable import clean_or_refuse

    if not study_of(area, overrides).recipe.aux_weight:
        raise InputError(f"{area}: no aux_weight to leave out; ablate the study of multitask")
    study = trainable_of(area, overrides)
    prepared = prepared_of(area, study, data, runs, strict)
    clean_or_refuse([study.recipe.pretrained], prepared, study.split)
    with Epochs(f"ablate {area}", 2 * seeds * study.recipe.epochs, "AUC") as epochs:
        found = ablation.ablate(prepared, study.recipe, seeds, device_of(device), epochs.epoch)
    console.print_report(as_json, found.to_json, found.describe)


@click.command(short_help="Print a study as its files and every --set resolve it.")
@click.argument("area")
@set_option
@json_option
def show(area: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print the study of AREA as its files and every --set resolve it."""
    import yaml

    from mura_tune import config

    plain = config.config_to_dict(study_of(area, overrides))
    console.print_report(
        as_json, lambda: plain, lambda: yaml.safe_dump(plain, sort_keys=False).rstrip()
    )


@click.command(short_help="Look at the searches in the browser.")
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
@click.option("--writable", is_flag=True, help="Let the browser rename and delete studies.")
def dashboard(
    runs: Path, storage: str | None, hosts: tuple[str, ...], port: int, writable: bool
) -> None:
    """Serve optuna-dashboard for the studies: to look at, and not to change."""
    from mura_tune.dashboard import app

    host, *names = hosts
    if writable:
        console.print_note(f"warning: {app.warning(host)}")
    app.serve(
        url_of(storage, runs),
        host,
        port,
        lambda url: click.echo(f"studies at {url}"),
        names=names,
        artifacts=runs / "artifacts",
        writable=writable,
        report=console.print_note,
    )
