"""Verbs that print what places workers on other machines: a Slurm script, a Kubernetes manifest."""

from __future__ import annotations

from pathlib import Path

import click

from mura_tune.cli.options import set_option

workers_option = click.option(
    "--workers",
    type=click.IntRange(1, 1000),
    default=4,
    show_default=True,
    help="Workers for each area, each in a job of its own.",
)
cpus_option = click.option(
    "--cpus", type=click.IntRange(1), default=4, show_default=True, help="CPU cores of a worker."
)
cache_option = click.option(
    "--cache", metavar="URL", help="Pixels as --cache of tune, where jobs see no dataset."
)
trials_option = click.option(
    "--trials", type=click.IntRange(1), help="How many in total, whoever runs them."
)
every_area_option = click.option(
    "--every-area", is_flag=True, help="Each worker serves the searches of all areas."
)


@click.group()
def launch() -> None:
    """Print a Slurm script or a Kubernetes manifest whose jobs are the workers of a search.

    The jobs only place workers and start them again: the database, which must be PostgreSQL, counts
    the trials. Its URL is in no script.
    """


@launch.command(short_help="Print an array job for sbatch.")
@click.argument("areas", metavar="AREA…", nargs=-1)
@every_area_option
@workers_option
@cpus_option
@click.option(
    "--gres",
    default="gpu:1",
    show_default=True,
    help="What a worker gets beside CPUs, such as gpu:a100:1; '' for nothing.",
)
@click.option("--memory", default="", help="Memory of a worker, such as 16G.")
@click.option("--time", default="", help="Limit of a task, such as 12:00:00; it is then requeued.")
@click.option("--partition", default="", help="The partition.")
@click.option(
    "--setup",
    default="",
    metavar="BASH",
    help="A line that makes mura a command of the job, such as 'source .venv/bin/activate'.",
)
@click.option("--data", type=click.Path(path_type=Path), help="Dataset, as --data of tune.")
@click.option("--runs", type=click.Path(path_type=Path), help="As --runs of tune.")
@cache_option
@trials_option
@set_option
def slurm(
    areas: tuple[str, ...],
    every_area: bool,
    workers: int,
    cpus: int,
    gres: str,
    memory: str,
    time: str,
    partition: str,
    setup: str,
    data: Path | None,
    runs: Path | None,
    cache: str | None,
    trials: int | None,
    overrides: tuple[str, ...],
) -> None:
    """Print an array job: pipe it into sbatch, or keep it in a file.

    Each task is a worker. It reads the database's URL from MURA_STORAGE, or else from the file
    MURA_STORAGE_FILE (~/.mura-storage). A task that is preempted or meets its time
    limit gives its trial back and is queued again.

    \b
      mura launch slurm XR_WRIST XR_ELBOW --workers 8 --time 12:00:00 | sbatch
    """
    from mura_tune.cluster.job_scripts import SlurmJob, WorkerCommand

    command = WorkerCommand(areas, every_area, trials, overrides, data, runs, cache)
    job = SlurmJob(command, workers, cpus, gres, memory, time, partition, setup)
    click.echo(job.script(), nl=False)


@launch.command(short_help="Print an Indexed Job for kubectl.")
@click.argument("areas", metavar="AREA…", nargs=-1)
@every_area_option
@click.option("--image", required=True, help="Container image with mura-tune[postgres] in it.")
@click.option("--namespace", default="", help="The namespace.")
@workers_option
@cpus_option
@click.option(
    "--gpus", type=click.IntRange(0), default=1, show_default=True, help="GPUs of a worker."
)
@click.option("--memory", default="", help="Memory of a worker, such as 16Gi.")
@click.option(
    "--secret",
    default="mura-storage",
    show_default=True,
    help="The Secret whose key 'url' is the database's URL.",
)
@click.option(
    "--data-claim",
    default="",
    help="The PersistentVolumeClaim whose top folder is the dataset.",
)
@cache_option
@trials_option
@set_option
def kubernetes(
    areas: tuple[str, ...],
    every_area: bool,
    image: str,
    namespace: str,
    workers: int,
    cpus: int,
    gpus: int,
    memory: str,
    secret: str,
    data_claim: str,
    cache: str | None,
    trials: int | None,
    overrides: tuple[str, ...],
) -> None:
    """Print an Indexed Job for each AREA: pipe it into kubectl, or keep it in a file.

    Each pod is a worker. A pod that dies is made again, 20 times at most; an eviction does not
    count, and bad input is not tried again.

    \b
      mura launch kubernetes XR_WRIST --image lab/mura --data-claim mura | kubectl apply -f -
    """
    from mura_tune.cluster.job_scripts import KubernetesJob, WorkerCommand

    command = WorkerCommand(areas, every_area, trials, overrides, cache=cache)
    job = KubernetesJob(command, image, namespace, workers, cpus, gpus, memory, secret, data_claim)
    click.echo(job.manifest(), nl=False)
