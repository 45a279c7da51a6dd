"""Job scripts for Slurm and manifests for Kubernetes, made by the templates beside this module.

Slurm and Kubernetes place workers and start them again; the database counts the trials. Each worker
is a `mura tune` of its own. No script has the database's URL, which may hold a password.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mura_tune.errors import InputError
from mura_tune.text import check_name, printable, shell_command

EVERY_AREA = "every-area"  # in names of jobs, where no area is named
LONGEST_LABEL = 63  # characters of a name in Kubernetes (RFC 1123)
INDEX_ROOM = 8  # characters that a pod's index may add to its job's name
_SBATCH = re.compile(r"[\w.:,=@/+-]+")  # what an #SBATCH line takes as one word
_TIME = re.compile(r"\d+(:\d\d){0,2}|\d+-\d{1,2}(:\d\d){0,2}")  # sbatch(1), --time
_SLURM_MEMORY = re.compile(r"\d+[KMGT]?")
_QUANTITY = re.compile(r"\d+(\.\d+)?(Ki|Mi|Gi|Ti|[kMGT])?")  # as Kubernetes writes bytes
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


@dataclass(frozen=True)
class WorkerCommand:
    """The `mura tune` of one worker.

    Attributes:
        areas: an area each job; none with `every_area`, where every job serves all of them.
        trials: of a search in total; None leaves it to the search file.
        overrides: as `--set` takes them.
        data, runs: the folders; None leaves them to the job's environment.
        cache: the URL that `mura cache --push` wrote to, in place of `data`.

    Raises:
        InputError: no area, an area beside `every_area`, or one that names no search.
    """

    areas: tuple[str, ...]
    every_area: bool = False
    trials: int | None = None
    overrides: tuple[str, ...] = ()
    data: Path | None = None
    runs: Path | None = None
    cache: str | None = None

    def __post_init__(self) -> None:
        if bool(self.areas) == self.every_area:
            raise InputError("name each AREA, or write --every-area")
        if self.cache and (self.data or self.every_area):
            raise InputError("--cache: names each AREA, and stands in place of --data")
        for area in self.areas:
            check_name(area, "AREA")

    @property
    def jobs(self) -> tuple[str, ...]:
        """What there is a job for: each area, or `EVERY_AREA`."""
        return self.areas or (EVERY_AREA,)

    @property
    def options(self) -> tuple[str, ...]:
        """The words of the command line that are the same for all areas."""
        folders = {"data": self.data, "runs": self.runs}
        return (
            *(f"--{name}={path.absolute()}" for name, path in folders.items() if path),
            *((f"--cache={self.cache}",) if self.cache else ()),
            *(() if self.trials is None else (f"--trials={self.trials}",)),
            *(f"--set={override}" for override in self.overrides),
        )

    def words(self, job: str) -> tuple[str, ...]:
        """The command line of one of `jobs`."""
        return ("mura", "tune", "--every-area" if self.every_area else job, *self.options)


@dataclass(frozen=True)
class SlurmJob:
    """An array job: `workers` tasks for each area.

    Attributes:
        gres: of each worker, such as `gpu:1`; empty asks for none.
        memory: of each worker, such as `16G`; empty leaves it to the cluster, as do the next two.
        time: limit of a task, such as `12:00:00`. A task that meets it is queued again.
        setup: a line of bash that makes `mura` a command, such as `source .venv/bin/activate`.

    Raises:
        InputError: a value that Slurm could not read.
    """

    command: WorkerCommand
    workers: int = 4
    cpus: int = 4
    gres: str = "gpu:1"
    memory: str = ""
    time: str = ""
    partition: str = ""
    setup: str = ""

    def __post_init__(self) -> None:
        _check("--gres", self.gres, _SBATCH, "one word, such as gpu:1")
        _check("--partition", self.partition, _SBATCH, "the name of a partition")
        _check("--time", self.time, _TIME, "a time such as 12:00:00 or 2-00:00:00")
        _check("--memory", self.memory, _SLURM_MEMORY, "an amount such as 16G")
        if "\n" in self.setup:
            raise InputError(f"--setup {printable(self.setup)}: one line, such as '. env.sh'")

    def script(self) -> str:
        """The script that `sbatch` takes."""
        names = self.command.jobs
        return (
            _environment()
            .get_template("slurm.sh.j2")
            .render(
                job=self,
                name=f"mura-{names[0].replace(' ', '_')}" if len(names) == 1 else "mura",
                last=self.workers * len(names) - 1,
            )
        )


@dataclass(frozen=True)
class KubernetesJob:
    """An Indexed Job for each area, with `workers` pods.

    Attributes:
        image: a container image with mura-tune in it.
        namespace: empty leaves it to kubectl, as does `memory` to the cluster.
        gpus: of each pod.
        secret: the Secret whose key `url` is the database's URL.
        data_claim: the PersistentVolumeClaim with the dataset, which pods see at /data; empty where
            the command names a cache.

    Raises:
        InputError: a value that Kubernetes would refuse.
    """

    command: WorkerCommand
    image: str
    namespace: str = ""
    workers: int = 4
    cpus: int = 4
    gpus: int = 1
    memory: str = ""
    secret: str = "mura-storage"
    data_claim: str = ""

    def __post_init__(self) -> None:
        if not self.image or not self.image.isprintable() or " " in self.image:
            raise InputError(f"--image {printable(repr(self.image))}: name a container image")
        name = "small letters, digits and - (RFC 1123)"
        for option, value in (("--namespace", self.namespace), ("--secret", self.secret)):
            _check(option, value, _LABEL, name)
        _check("--data-claim", self.data_claim, _LABEL, name)
        _check("--memory", self.memory, _QUANTITY, "an amount such as 16Gi")
        if bool(self.data_claim) == bool(self.command.cache):
            raise InputError("pods read pixels from one place: name either --data-claim or --cache")
        for area in self.command.jobs:
            self.name(area)

    def name(self, area: str) -> str:
        """The name of an area's Job. Raises InputError for an area that makes none."""
        name = "mura-" + re.sub(r"[_ .]+", "-", area.lower())
        if not _LABEL.fullmatch(name) or len(name) > LONGEST_LABEL - INDEX_ROOM:
            raise InputError(
                f"AREA {area!r}: Kubernetes allows no job of this name; it takes at most "
                f"{LONGEST_LABEL - INDEX_ROOM - len('mura-')} of a-z, 0-9, - and _"
            )
        return name

    def manifest(self) -> str:
        """The YAML that `kubectl apply` takes: a document for each area."""
        return _environment().get_template("kubernetes.yaml.j2").render(job=self)


def _check(option: str, value: str, form: re.Pattern[str], advice: str) -> None:
    """Raise InputError for a value of another form; an empty one is left out."""
    if value and not form.fullmatch(value):
        raise InputError(f"{option} {printable(value)}: write {advice}")


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["shell"] = lambda words: shell_command(*words)
    environment.filters["yaml"] = lambda value: json.dumps(value, ensure_ascii=False)  # is YAML too
    return environment
