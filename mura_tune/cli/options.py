"""Options that several verbs share, and what they stand for: a study, its data, its storage."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mura_tune import console

if TYPE_CHECKING:
    import torch

    from mura_tune.config import SearchConfig
    from mura_tune.data.prepare import Prepared
    from mura_tune.release.release import Release
    from mura_tune.search.results import SearchResult

F = TypeVar("F", bound=Callable[..., Any])


class Number(click.FloatRange):
    """A finite number within bounds; click's own range lets NaN through."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return float(number)


def _path(flag: str, env: str, default: str, what: str) -> Callable[[F], F]:
    return click.option(
        flag,
        envvar=env,
        default=default,
        show_default=True,
        show_envvar=True,
        type=click.Path(path_type=Path),
        help=what,
    )


data_option = _path("--data", "MURA_DATA", "data/MURA-v1.1", "Dataset: a folder, or a table .csv.")
runs_option = _path("--runs", "MURA_RUNS", "runs", "Where studies and the cache are written.")
releases_option = _path("--releases", "MURA_RELEASES", "releases", "Where releases are written.")
base_url_option = click.option(
    "--base-url",
    envvar="MURA_BASE_URL",
    show_envvar=True,
    help="Where releases that are not here are fetched from, by name, into the user's cache.  "
    "[default: base_url in ~/.config/mura-tune/config.yaml]",
)
release_option = click.option(
    "--release", required=True, help="Its folder, its URL, or its name under BASE_URL."
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
storage_option = click.option(
    "--storage",
    envvar="MURA_STORAGE",
    show_envvar=True,
    default=None,
    help="Study database: a file on a local disk, or postgresql+psycopg://USER@HOST/DB. Other "
    "disks are refused unless MURA_LOCAL_DISKS names their kind, such as 9p.  "
    "[default: RUNS/studies.db]",
)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="PATH=VALUE",
    help="Change one value of the study, such as finetune.lr=3.0e-4 or budget.pruner.name=none; "
    "stored with it. Repeat for more.",
)
device_option = click.option(
    "--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, … or auto."
)
strict_option = click.option(
    "--strict", is_flag=True, help="Stop at the first unreadable image instead of leaving it out."
)
search_option = click.option(
    "--search",
    "--study",
    "name",
    default=None,
    help="Name of the search; --study is an older word.  [default: AREA]",
)


def study_of(area: str, overrides: tuple[str, ...]) -> SearchConfig:
    from mura_tune import config

    return config.load_config(area, overrides)


def trainable_of(area: str, overrides: tuple[str, ...]) -> SearchConfig:
    """The study of an area, refused before anything is decoded if a network of it cannot be."""
    from mura_tune.search.preflight import check_networks

    study = study_of(area, overrides)
    check_networks(study)
    return study


def areas_of(data: Path) -> list[str]:
    """Every area of a dataset, those with the fewest images first."""
    from mura_tune.data.index import open_dataset

    images = open_dataset(data).frame.groupby("area").size()
    return [str(area) for area in images.sort_values(kind="stable").index]


def prepared_of(area: str, study: SearchConfig, data: Path, runs: Path, strict: bool) -> Prepared:
    from mura_tune.data.index import open_dataset
    from mura_tune.data.prepare import prepare

    prepared = prepare(
        open_dataset(data), area, study.recipe.size, study.split, runs / "cache", strict=strict
    )
    for finding in prepared.left_out:
        console.print_note(f"left out {finding.path}: {finding.detail}")
    return prepared


def release_at(name: str, base_url: str | None) -> Path:
    """The folder of a release by its folder, URL or name, fetched into the cache if need be."""
    from mura_tune.reading.locate import locate_release

    return locate_release(name, None, Path(), base_url, console.print_note)


def tell_changes(release: Release) -> None:
    """Say which pictures are read otherwise since a release was made; nothing for a new one."""
    from mura_tune.release.release import describe_decoding_changes

    if told := describe_decoding_changes(release.manifest):
        console.print_note(f"{release.folder}: {told}")


def url_of(storage: str | None, runs: Path) -> str:
    """The URL of the database that `--storage` names, or of the one in RUNS."""
    from mura_tune.database.urls import url_of, url_of_file

    return url_of(storage) if storage else url_of_file(runs / "studies.db")


def best_of(name: str, url: str) -> SearchResult:
    from mura_tune.search.results import load_result

    return load_result(url, name)


def device_of(name: str) -> torch.device:
    from mura_tune.networks.device import choose_device

    return choose_device(name)
