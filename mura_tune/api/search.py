"""A search from its config to its result: what `mura tune`, `mura best` and `mura ablate` call."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mura_tune.api import DATA, RUNS
from mura_tune.api.data import Workspace, list_areas, make_workspace
from mura_tune.cluster.ray_pool import RayPool
from mura_tune.config import Overrides, SearchConfig, load_config, replace_trials
from mura_tune.dashboard.artifacts import TrialArtifacts
from mura_tune.dashboard.progress import Epochs, SearchProgress, notify_all
from mura_tune.dashboard.status import read_status
from mura_tune.dashboard.updates import DashboardUpdates
from mura_tune.database.connections import check_connections
from mura_tune.database.outages import PATIENCE
from mura_tune.database.pictures import PictureStore
from mura_tune.database.storage import GRACE, admit, load_study, using
from mura_tune.errors import InputError
from mura_tune.evaluation.ablation import Ablation, ablate
from mura_tune.networks.device import choose_device, choose_devices
from mura_tune.search import results
from mura_tune.search.comparable import clean_or_refuse
from mura_tune.search.pool import LocalPool, Pool
from mura_tune.search.results import SearchResult
from mura_tune.search.search import (
    COMPILE_RULES,
    SearchJob,
    WorkerSettings,
    save_nothing,
    start_search,
)
from mura_tune.search.search_record import SearchRecord
from mura_tune.search.verdict import describe_result
from mura_tune.search.warm_start import AUTO
from mura_tune.text import shell_command
from mura_tune.training.preflight import check_networks
from mura_tune.training.tasks import task_of

FEATURE_GB = 20.0


@dataclass(frozen=True)
class SearchOutcome(SearchResult):
    """What a search came to, and where: `finalize` reads its radiographs from the same place.

    `print(outcome)` says which trial won, what it had to beat and whether it did.
    """

    workspace: Workspace = dataclasses.field(kw_only=True)

    def __str__(self) -> str:
        return describe_result(self)

    def to_json(self) -> dict[str, Any]:
        """The fields by name, as `mura best --json` prints them: the result without its place."""
        return {key: value for key, value in super().to_json().items() if key != "workspace"}


@dataclass(frozen=True)
class RunSettings:
    """How a search is run; none of it changes what a trial computes, but for rounding.

    Attributes:
        workers: processes that search at once; they share the CPU cores. None is one for each of
            the devices, and one on Ray.
        devices: where workers train, in turn: auto, cpu, cuda, `cuda:0,cuda:1`, or `all` GPUs.
        warm_start: try the confirmed winners of other searches early: `auto`, `none`, or names
            with commas between them.
        allow_space_change: go on with other ranges than the search was started with.
        artifacts: keep pictures of trials for the dashboard.
        feature_gb: GB of disk for what frozen stages compute, shared by trials; 0 keeps nothing.
        grace: seconds that a worker may be silent before its trial is run again.
        compile: the passes of training by torch.compile: `auto` where a GPU's search is long enough
            to pay for it, `on` or `off`. Compiled scores differ from others by rounding.
        on: where workers run: None is this machine, `ray` a cluster of Ray, `ray://HOST:PORT` the
            one at this address. Ray then chooses the GPU of each, and not `devices`.
        worker_cpus, worker_gpus: what Ray gives each worker; see `RayPool`.
        hours: after so many, counted from the start of the call, no trial starts; those that run
            finish. None sets no end.
    """

    workers: int | None = None
    devices: str = "auto"
    warm_start: str = AUTO
    allow_space_change: bool = False
    artifacts: bool = True
    feature_gb: float = FEATURE_GB
    grace: int = GRACE
    compile: str = "auto"
    on: str | None = None
    worker_cpus: float = 1.0
    worker_gpus: float | None = None
    hours: float | None = None

    def pool(self) -> Pool:
        """The workers. Raises InputError for a device or a place that cannot be used."""
        if self.on is None:
            devices = choose_devices(self.devices)
            return LocalPool(self.workers or len(devices), devices)
        if self.on != "ray" and not self.on.startswith("ray://"):
            raise InputError(f"--on {self.on}: write ray, or ray://HOST:PORT")
        if self.devices != "auto":
            raise InputError(
                f"--devices {self.devices}: Ray chooses the GPU of each worker; --worker-gpus says "
                "how many it gets"
            )
        address = None if self.on == "ray" else self.on
        return RayPool(self.workers or 1, address, self.worker_cpus, self.worker_gpus)


class Search:
    """A search over the recipes of an area. Nothing is read or written before `run`.

    Args:
        config: from `load_config`; it names the area.
        data: the dataset, a folder in MURA's layout or a table .csv.
        storage: the database, a file or a PostgreSQL URL; None stands for RUNS/studies.db.
        runs: the folder of the cache and of the pictures of trials.
        name: of the search in the database; None stands for the area.
        strict: refuse the first unreadable image instead of leaving it out by name.
        cache: the URL or folder that `cache_area` pushed to, in place of `data`.

    Raises:
        InputError: a config that names no area.

    Example:
        `Search(load_config("XR_WRIST"), data="data/MURA-v1.1").run(trials=24)`
    """

    def __init__(
        self,
        config: SearchConfig,
        *,
        data: str | Path = DATA,
        storage: str | Path | None = None,
        runs: str | Path = RUNS,
        name: str | None = None,
        strict: bool = False,
        cache: str | Path | None = None,
    ) -> None:
        if not config.area:
            raise InputError("the config names no area: load it by load_config(AREA)")
        self.config = config
        self.name = config.area if name is None else name
        self._name_option = "AREA" if name is None else "--search"
        self.workspace = make_workspace(data, storage, runs, strict, cache)

    def __repr__(self) -> str:
        return f"Search({self.name!r}, {self.config.budget.trials} trials)"

    def run(
        self,
        trials: int | None = None,
        *,
        workers: int | None = None,
        devices: str = "auto",
        warm_start: str = AUTO,
        allow_space_change: bool = False,
        artifacts: bool = True,
        feature_gb: float = FEATURE_GB,
        grace: int = GRACE,
        compile: str = "auto",
        on: str | None = None,
        worker_cpus: float = 1.0,
        worker_gpus: float | None = None,
        hours: float | None = None,
    ) -> SearchOutcome:
        """Search until there are `trials` in total, however often this is called.

        The best trials then run again with new seeds, and the best of them by mean wins. A call
        that is interrupted or killed loses nothing: the same call goes on. Progress is printed
        on stderr.

        Args:
            trials: finished or pruned ones in total; None takes the number of the config.
            workers, devices, warm_start, allow_space_change, artifacts, feature_gb, grace: see
                `RunSettings`.
            compile, on, worker_cpus, worker_gpus, hours: see `RunSettings`.

        Returns:
            What the search came to, which `finalize` takes.

        Raises:
            InputError: data, a device, a database or a network that cannot be used, or a search
                of this name that was started with other settings.
            MuraError: trials that fail for one reason, or workers that die.
            KeyboardInterrupt: after the running trial has ended.

        Example:
            `print(search.run(trials=24, workers=4, devices="cuda:0,cuda:1"))`
        """
        settings = RunSettings(
            *(workers, devices, warm_start, allow_space_change, artifacts, feature_gb, grace),
            *(compile, on, worker_cpus, worker_gpus, hours),
        )
        return run_searches([self], trials, settings)[0]

    def result(self) -> SearchOutcome:
        """What the search has come to by now. Raises InputError where no trial has finished."""
        return _outcome(self.name, self.workspace)

    @property
    def tune_command(self) -> str:
        """The command line that goes on with this search."""
        named = [one for one in self.config.overrides if not one.startswith("budget.trials=")]
        overrides = (word for override in named for word in ("--set", override))
        trials = self.config.budget.trials
        return shell_command(
            *("mura", "tune", self.config.area, "--search", self.name, "--trials", trials),
            *(*self.workspace.options, *overrides),
        )

    @property
    def finalize_command(self) -> str:
        """The command line that makes the release of this search."""
        return shell_command("mura", "finalize", self.name, *self.workspace.options)

    def next_command(self, outcome: SearchOutcome) -> str:
        """The command line of what comes next: the search again while slots are open, else its
        release."""
        budget, counts = self.config.budget, outcome.counts
        unconfirmed = budget.confirm.top and not (outcome.confirmed or outcome.unconfirmed)
        is_open = sum(counts.get(state, 0) for state in ("finished", "pruned")) < budget.trials
        return (
            self.tune_command
            if is_open or outcome.pending or unconfirmed
            else self.finalize_command
        )

    def with_trials(self, trials: int | None) -> Search:
        """The same search to another number of trials in total; None leaves it as it is."""
        if trials is None:
            return self
        search = copy.copy(self)
        search.config = replace_trials(self.config, trials)
        return search


def make_searches(
    area: str | None,
    overrides: Overrides = (),
    *,
    data: str | Path = DATA,
    storage: str | Path | None = None,
    runs: str | Path = RUNS,
    name: str | None = None,
    strict: bool = False,
    cache: str | Path | None = None,
) -> list[Search]:
    """The search of an area; for None a search for every area of the dataset, the smallest first.

    Raises:
        InputError: `name` or `cache` for every area, or as `load_config` raises it.
    """
    if area is None and cache is not None:
        raise InputError(
            "--cache: a store has no list of its areas; name one AREA, or give --data and "
            "--every-area"
        )
    if area is None and name is not None:
        raise InputError(
            "--search: names one search, and --every-area means several; leave one out"
        )
    areas = list_areas(data) if area is None else [area]
    return [
        Search(
            load_config(one, overrides),
            data=data,
            storage=storage,
            runs=runs,
            name=name,
            strict=strict,
            cache=cache,
        )
        for one in areas
    ]


def run_searches(
    searches: Sequence[Search], trials: int | None = None, settings: RunSettings | None = None
) -> list[SearchOutcome]:
    """Bring several searches of one database to their numbers of trials, by one pool of workers.

    Args:
        trials: of each search in total; None takes the number of its config.

    Raises:
        As `Search.run`.
    """
    settings = settings or RunSettings()
    if settings.compile not in COMPILE_RULES:
        raise InputError(f"--compile {settings.compile}: write {', '.join(COMPILE_RULES)}")
    searches = [search.with_trials(trials) for search in searches]
    workspace = searches[0].workspace
    url = workspace.url
    pool = settings.pool()
    worker_settings = _worker_settings(settings, workspace)
    for search in searches:  # what is cheap to check, before anything is decoded
        admit(url, search.name, search._name_option)
        search.workspace.check_area(search.config.area)
    check_connections(url, pool.workers)
    for search in searches:
        check_networks(search.config)
    jobs: list[SearchJob] = []
    since: dict[str, int] = {}
    for search in searches:
        prepared = search.workspace.prepare(search.config.area, search.config)
        job = SearchJob(search.name, search.config, prepared)
        since |= start_search(job, worker_settings, allow_space_change=settings.allow_space_change)
        jobs.append(job)
    updates = DashboardUpdates(
        url,
        jobs,
        {search.name: search.tune_command for search in searches},
        {search.name: search.finalize_command for search in searches},
    )
    with _progress(searches, url) as progress, updates.around():
        pool.run(jobs, since, worker_settings, notify_all(progress, updates), progress.say)
        if worker_settings.is_over():
            for status in read_status(url, [search.name for search in searches]):
                if not status.is_done:
                    progress.say(f"--hours {settings.hours:g} are over: {status.line}")
    return [search.result() for search in searches]


def _worker_settings(settings: RunSettings, workspace: Workspace) -> WorkerSettings:
    runs = workspace.runs.absolute()  # a worker may have another working folder
    return WorkerSettings(
        workspace.url,
        settings.grace,
        settings.warm_start,
        artifacts=TrialArtifacts(PictureStore(runs / "artifacts", workspace.url, PATIENCE))
        if settings.artifacts
        else save_nothing,
        features=runs / "features" if settings.feature_gb else None,
        feature_bytes=int(settings.feature_gb * 10**9),
        compiled=None if settings.compile == "off" else runs / "compiled",
        compile=settings.compile,
        until=None if settings.hours is None else time.time() + 3600 * settings.hours,
    )


def _progress(searches: Sequence[Search], url: str) -> SearchProgress:
    """The bar of several searches; their trials are read from the database."""
    configs = {search.name: search.config for search in searches}
    with using(url) as storage:
        return SearchProgress(
            {name: config.budget.trials for name, config in configs.items()},
            lambda name: SearchRecord(load_study(storage, name, url)).trials(),
            {
                name: task_of(config.task, config.recipe).measure.name
                for name, config in configs.items()
            },
        )


def load_result(
    name: str,
    *,
    data: str | Path = DATA,
    storage: str | Path | None = None,
    runs: str | Path = RUNS,
    strict: bool = False,
    cache: str | Path | None = None,
) -> SearchOutcome:
    """What a search of a database has come to.

    Args:
        name: of the search: its area, or the name that it was given.
        cache: the URL or folder that `cache_area` pushed to, in place of `data`.

    Returns:
        What `Search.run` returned, read from the database again.

    Raises:
        InputError: no such search, or no trial of it has finished.

    Example:
        `print(load_result("XR_WRIST", storage="runs/studies.db"))`
    """
    workspace = make_workspace(data, storage, runs, strict, cache)
    return _outcome(name, workspace)


def ablate_second_task(
    config: SearchConfig,
    *,
    data: str | Path = DATA,
    runs: str | Path = RUNS,
    seeds: int = 3,
    device: str = "auto",
    strict: bool = False,
) -> Ablation:
    """Train a multi-task config with and without its second task's loss, on the same seeds.

    Args:
        seeds: runs on either side.

    Returns:
        The difference in dev AUC that the second loss makes, over the seeds.

    Raises:
        InputError: a config without `aux_weight`, or data, a device or a network that cannot be
            used.
    """
    if not config.recipe.aux_weight:
        raise InputError(
            f"{config.area}: no aux_weight to leave out; ablate the search of multitask"
        )
    check_networks(config)
    workspace = Workspace(Path(data), Path(runs), strict=strict)
    prepared = workspace.prepare(config.area, config)
    clean_or_refuse(
        [config.recipe.pretrained], prepared, dataclasses.replace(config.split, folds=0)
    )
    with Epochs(f"ablate {config.area}", 2 * seeds * config.recipe.epochs, "AUC") as epochs:
        return ablate(prepared, config.recipe, seeds, choose_device(device), epochs.epoch)


def _outcome(name: str, workspace: Workspace) -> SearchOutcome:
    result = results.load_result(workspace.url, name)
    values = {one.name: getattr(result, one.name) for one in dataclasses.fields(result)}
    return SearchOutcome(**values, workspace=workspace)
