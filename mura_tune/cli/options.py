"""Options that several verbs share, and what they stand for: a search, its data, its storage."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from mura_tune import console

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
cache_option = click.option(
    "--cache",
    envvar="MURA_CACHE",
    show_envvar=True,
    metavar="URL",
    help="In place of DATA: what `mura cache AREA --push URL` wrote. A folder, or a URL of file, "
    "http, https, s3 or gs; URL#sha256=DIGEST takes no other cache.",
)
runs_option = _path("--runs", "MURA_RUNS", "runs", "Where searches and the cache are written.")
releases_option = _path("--releases", "MURA_RELEASES", "releases", "Where releases lie.")
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
by_option = click.option(
    "--by",
    multiple=True,
    metavar="COLUMN",
    help="Also measure each group of test's studies by a column, against the rest: of --groups, of "
    "the dataset's own table or labels.csv, area, or of DICOM headers sex, age, view, "
    "manufacturer. Repeat for more.",
)
groups_option = click.option(
    "--groups",
    type=click.Path(path_type=Path),
    help="A CSV with a column path or study, and the columns of --by.",
)
corrections_option = click.option(
    "--corrections",
    type=click.Path(path_type=Path),
    help="A CSV (study,label) of corrected labels: all scores by these labels too.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


def _storage_in_file() -> str | None:
    """What stands in for `--storage` where only MURA_STORAGE_FILE is set."""
    file = os.environ.get("MURA_STORAGE_FILE")
    return f"@{file}" if file else None


def _note_password(
    context: click.Context, option: click.Parameter, storage: str | None
) -> str | None:
    """Say that others see a password on a command line."""
    typed = context.get_parameter_source(str(option.name)) == ParameterSource.COMMANDLINE
    if not storage or not typed:
        return storage
    from mura_tune.database.urls import has_password

    if has_password(storage):
        console.print_note(
            "warning: everybody on this machine sees a password on a command line; write the URL "
            "in a file that only you can read, and name that: --storage @FILE"
        )
    return storage


storage_option = click.option(
    "--storage",
    envvar="MURA_STORAGE",
    show_envvar=True,
    default=_storage_in_file,
    show_default="RUNS/studies.db",
    callback=_note_password,
    help="Search database: a file on a local disk, or postgresql+psycopg://USER@HOST/DB; or @FILE "
    "(also MURA_STORAGE_FILE), a file with one of them in it. Disks that are not local are "
    "refused unless MURA_LOCAL_DISKS names their kind, such as 9p.",
)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="PATH=VALUE",
    help="Change one value of the search, such as finetune.lr=3.0e-4 or budget.pruner.name=none; "
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


def url_of(storage: str | None, runs: Path) -> str:
    """The URL of the database that `--storage` names, or of the one in RUNS."""
    from mura_tune.database.urls import url_of, url_of_file

    return url_of(storage) if storage else url_of_file(runs / "studies.db")
