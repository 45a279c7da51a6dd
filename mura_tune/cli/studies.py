"""Verbs about whole studies: copy, export, delete."""

from __future__ import annotations

from pathlib import Path

import click

from mura_tune import files
from mura_tune.cli.options import runs_option, storage_option, url_of


@click.group()
def study() -> None:
    """Copy, export or delete a study."""


@study.command()
@click.argument("name")
@click.argument("new")
@click.option("--to", default=None, help="Another database, as --storage.  [default: the same]")
@runs_option
@storage_option
def copy(name: str, new: str, to: str | None, runs: Path, storage: str | None) -> None:
    """Copy study NAME as NEW, with its confirmation; its pictures stay with NAME."""
    from mura_tune.tuning import manage

    url = url_of(storage, runs)
    count = manage.copy(url, name, new, url_of(to, runs) if to else url)
    click.echo(f"{new}: {count} trials")


@study.command()
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), help="Write here instead of on stdout.")
@runs_option
@storage_option
def export(name: str, out: Path | None, runs: Path, storage: str | None) -> None:
    """Print every trial of NAME, and of its confirmation, as CSV."""
    from mura_tune.tuning import manage

    text = manage.table(url_of(storage, runs), name)
    if out:
        files.replace(out, text.encode())
        click.echo(f"{out}: {len(text.splitlines()) - 1} trials")
    else:
        click.echo(text, nl=False)


@study.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@runs_option
@storage_option
def delete(name: str, yes: bool, runs: Path, storage: str | None) -> None:
    """Delete study NAME, its confirmation and its pictures, for good."""
    from mura_tune.tuning import manage
    from mura_tune.tuning.storage import database, load_study, open_storage

    url = url_of(storage, runs)
    opened = load_study(open_storage(url), name, url)
    n = len(opened.get_trials(deepcopy=False))
    if not yes and not _sure(f"{database(url)}: delete study {name} and its {n} trials?"):
        click.echo("nothing deleted")
        return
    click.echo(f"{name}: {manage.delete(url, name, runs / 'artifacts')} trials deleted")


def _sure(question: str) -> bool:
    try:
        return click.confirm(question)
    except click.Abort:  # nobody there to answer
        return False
