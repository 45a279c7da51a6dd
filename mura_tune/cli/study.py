"""Verbs about whole searches: copy, export, delete. `mura study` is their older name."""

from __future__ import annotations

import sys
from copy import copy as copy_command
from pathlib import Path

import click

from mura_tune.cli.options import runs_option, storage_option, url_of
from mura_tune.errors import InputError


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


study = copy_command(searches)
study.name, study.hidden = "study", True
