"""Verbs about radiographs: draw, check, decode them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mura_tune import console
from mura_tune.cli.options import (
    data_option,
    json_option,
    prepared_of,
    runs_option,
    set_option,
    strict_option,
    study_of,
)
from mura_tune.text import shell_command


@click.command(short_help="Draw synthetic radiographs in MURA's layout.")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--area", "areas", multiple=True, help="Only this area; repeat for more.")
@click.option("--patients", default=60, show_default=True, help="Training patients an area.")
@click.option("--seed", default=0, show_default=True, help="Another seed, other radiographs.")
@click.option("--size", default=512, show_default=True, help="Longer side in pixels.")
@click.option("--sheet", type=click.Path(path_type=Path), help="Also draw a contact sheet here.")
def phantom(
    out: Path, areas: tuple[str, ...], patients: int, seed: int, size: int, sheet: Path | None
) -> None:
    """Draw synthetic radiographs in MURA's layout into the folder OUT."""
    from tqdm import tqdm

    from mura_tune import files
    from mura_tune.areas import AREAS
    from mura_tune.errors import InputError
    from mura_tune.phantoms.dataset import (
        ARGUMENTS_FILE,
        SHEET_FORMATS,
        draw_contact_sheet,
        write_phantoms,
    )

    if sheet:  # before anything is drawn
        if sheet.suffix.lower() not in SHEET_FORMATS:
            raise InputError(f"{sheet}: a contact sheet ends in {', '.join(SHEET_FORMATS)}")
        files.check_writable(sheet)
    files.check_writable(out / ARGUMENTS_FILE)

    def bar(items: Any) -> Any:
        return tqdm(items, desc="phantoms", unit="study", disable=None)

    chosen = areas or AREAS
    write_phantoms(out, areas=chosen, patients=patients, seed=seed, size=size, progress=bar)
    if sheet:
        draw_contact_sheet(out, sheet)
    areas_drawn = "1 area" if len(chosen) == 1 else f"{len(chosen)} areas"
    click.echo(f"{out}: radiographs of {areas_drawn} in MURA's layout")
    if sheet:
        click.echo(f"{sheet}: a contact sheet of them")
    click.echo(f"next: {shell_command('mura', 'tune', chosen[0], '--data', out)}")


@click.command(short_help="Count what a dataset holds, and name what is wrong with it.")
@data_option
@click.option("--index-only", is_flag=True, help="Read the CSVs alone, no image.")
@strict_option
@json_option
def check(data: Path, index_only: bool, strict: bool, as_json: bool) -> None:
    """Count what a dataset holds and name what is wrong with it."""
    from mura_tune.data.audit import audit_dataset
    from mura_tune.data.index import open_dataset
    from mura_tune.data.scan import scan_dataset
    from mura_tune.errors import InputError

    dataset = open_dataset(data, index_only=index_only)
    if index_only:
        found = audit_dataset(dataset)
    else:
        read = scan_dataset(dataset)
        found = audit_dataset(dataset, pixels=read.records, near=read.near)
    console.print_report(as_json, found.to_json, found.summary)
    useless = [f for f in found.findings if f.kind in ("unreadable", "blank")]
    if strict and useless:
        raise InputError(
            f"{data}: {len(useless)} unreadable or blank image(s), {useless[0].path} "
            "first; replace them, or leave --strict out"
        )


@click.command(short_help="Decode an area's images once (tune does it by itself).")
@click.argument("area")
@data_option
@runs_option
@set_option
@strict_option
@json_option
def cache(
    area: str, data: Path, runs: Path, overrides: tuple[str, ...], strict: bool, as_json: bool
) -> None:
    """Decode an area's images once, at the size its study trains on. `tune` does it by itself."""
    prepared = prepared_of(area, study_of(area, overrides), data, runs, strict)
    n, side = len(prepared.frame), prepared.pixels.shape[1]
    plain = {"area": area, "images": n, "size": side, "left_out": len(prepared.left_out)}
    console.print_report(
        as_json, lambda: plain, lambda: f"{area}: {n} images at {side} px are cached"
    )
