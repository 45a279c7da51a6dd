"""`mura VERB`: parse, call one function, print. Heavy imports wait inside the verbs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mura_tune import __version__, console

if TYPE_CHECKING:
    import torch

    from mura_tune.config import StudyConfig
    from mura_tune.data.prepare import Prepared
    from mura_tune.tuning.results import Best

F = TypeVar("F", bound=Callable[..., Any])


def _path(flag: str, env: str, default: str, what: str) -> Callable[[F], F]:
    return click.option(
        flag, envvar=env, default=default, show_default=True, show_envvar=True,
        type=click.Path(path_type=Path), help=what,
    )  # fmt: skip


data_option = _path("--data", "MURA_DATA", "data/MURA-v1.1", "Dataset: a folder, or a table .csv.")
runs_option = _path("--runs", "MURA_RUNS", "runs", "Where studies and the cache are written.")
releases_option = _path("--releases", "MURA_RELEASES", "releases", "Where releases are written.")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
storage_option = click.option(
    "--storage", envvar="MURA_STORAGE", show_envvar=True, default=None,
    help="Study database: a file or sqlite:///FILE.  [default: RUNS/studies.db]",
)  # fmt: skip
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="PATH=VALUE",
    help="Change one value of the study, such as finetune.lr=3.0e-4 or budget.pruner.name=none; "
    "stored with it. Repeat for more.",
)  # fmt: skip
device_option = click.option(
    "--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, … or auto."
)
strict_option = click.option(
    "--strict", is_flag=True, help="Stop at the first unreadable image instead of leaving it out."
)
study_option = click.option("--study", "name", default=None, help="Study name.  [default: AREA]")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="mura")
def mura() -> None:
    """Search, train, release and use abnormality classifiers for radiographs in MURA's layout.

    The usual way: check the data, tune an area, look at the search, finalize its release, use it.

    \b
      mura check
      mura tune XR_ELBOW --trials 40
      mura dashboard
      mura finalize XR_ELBOW
      mura infer --area XR_ELBOW --image view1.png --image view2.png

    No data at hand? `make demo` goes the whole way on synthetic radiographs.
    """


@mura.command()
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

    from mura_tune.data import phantom as phantoms

    def bar(items: Any) -> Any:
        return tqdm(items, desc="phantoms", unit="study", disable=None)

    chosen = areas or phantoms.AREAS
    phantoms.write(out, areas=chosen, patients=patients, seed=seed, size=size, progress=bar)
    if sheet:
        phantoms.contact_sheet(out, sheet)
    click.echo(f"{out}: radiographs of {len(chosen)} area(s) in MURA's layout")


@mura.command()
@data_option
@click.option("--index-only", is_flag=True, help="Read the CSVs alone, no image.")
@strict_option
@json_option
def check(data: Path, index_only: bool, strict: bool, as_json: bool) -> None:
    """Count what a dataset holds and name what is wrong with it."""
    from mura_tune.data.audit import audit
    from mura_tune.data.dataset import open_dataset
    from mura_tune.data.scan import scan
    from mura_tune.errors import InputError

    dataset = open_dataset(data, index_only=index_only)
    found = audit(dataset, pixels=None if index_only else scan(dataset))
    console.report(as_json, found.to_json, found.summary)
    unreadable = [f for f in found.findings if f.kind == "unreadable"]
    if strict and unreadable:
        raise InputError(f"{data}: {len(unreadable)} unreadable image(s), {unreadable[0].path} "
                         "first; replace them, or leave --strict out")  # fmt: skip


@mura.command()
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
    prepared = _prepare(area, _study(area, overrides), data, runs, strict)
    n, side = prepared.pixels.shape[:2]
    plain = {"area": area, "images": n, "size": side, "left_out": len(prepared.left_out)}
    console.report(as_json, lambda: plain, lambda: f"{area}: {n} images at {side} px are cached")


@mura.command()
@click.argument("area")
@data_option
@runs_option
@storage_option
@study_option
@click.option("--trials", type=click.IntRange(1), help="How many in total, finished or pruned.")
@set_option
@device_option
@strict_option
@json_option
def tune(
    area: str, data: Path, runs: Path, storage: str | None, name: str | None, trials: int | None,
    overrides: tuple[str, ...], device: str, strict: bool, as_json: bool,
) -> None:  # fmt: skip
    """Search the recipe of AREA: until there are N trials, however often this is called.

    Stopping it (Ctrl-C) loses nothing: the same call goes on. Trial 0 is the default recipe.
    """
    from mura_tune.tuning import results
    from mura_tune.tuning.search import tune as search
    from mura_tune.tuning.watch import Watch

    budget = (f"budget.trials={trials}",) if trials else ()
    study = _study(area, (*overrides, *budget))
    prepared = _prepare(area, study, data, runs, strict)
    with Watch(study) as watch:
        opened = search(
            study, prepared, name=name or area, url=_url(storage, runs), device=_device(device),
            on_epoch=watch.epoch, on_trial=watch.trial,
        )  # fmt: skip
    best_one = results.best(opened)
    console.report(as_json, best_one.to_json, lambda: results.describe(best_one))


@mura.command()
@click.argument("area")
@runs_option
@storage_option
@json_option
def best(area: str, runs: Path, storage: str | None, as_json: bool) -> None:
    """Show the best trial of a study (AREA, or the name given to `tune --study`)."""
    from mura_tune.tuning import results

    found = _best(area, _url(storage, runs))
    console.report(as_json, found.to_json, lambda: results.describe(found))


@mura.command()
@click.argument("area", required=False)
@data_option
@runs_option
@releases_option
@storage_option
@device_option
@strict_option
@json_option
def finalize(
    area: str | None, data: Path, runs: Path, releases: Path, storage: str | None, device: str,
    strict: bool, as_json: bool,
) -> None:  # fmt: skip
    """Train the best recipe of a study at length and write its release.

    AREA is a study's name; left out, every study with a finished trial gets its release.
    """
    from mura_tune.release.finalize import final_recipe
    from mura_tune.release.finalize import finalize as release
    from mura_tune.tuning.results import finished_studies
    from mura_tune.tuning.watch import Epochs

    url, made = _url(storage, runs), []
    for name in [area] if area else finished_studies(url):
        found = _best(name, url)
        prepared = _prepare(found.area, found.config, data, runs, strict)
        with Epochs(f"finalize {name}", final_recipe(found)) as epochs:
            made.append(release(found, prepared, releases / name, _device(device),
                                on_epoch=epochs.epoch))  # fmt: skip
    console.report(
        as_json,
        lambda: [one.manifest | {"folder": str(one.folder)} for one in made],
        lambda: "\n\n".join(
            f"{one.folder}\n{one.dev.describe()}\n{one.test.describe()}" for one in made
        ),
    )


@mura.command()
@click.option("--release", required=True, type=click.Path(path_type=Path), help="Its folder.")
@data_option
@runs_option
@device_option
@strict_option
@json_option
def evaluate(
    release: Path, data: Path, runs: Path, device: str, strict: bool, as_json: bool
) -> None:
    """Measure a release on the published `valid` studies, which no search has read."""
    from mura_tune import config
    from mura_tune.release import bundle
    from mura_tune.release.evaluate import measure, same_data

    loaded = bundle.load(release, _device(device))
    manifest = loaded.manifest
    study = config.from_dict(manifest["study"]["config"], str(release / bundle.MANIFEST))
    prepared = _prepare(manifest["area"], study, data, runs, strict)
    same_data(manifest, prepared)
    measured = measure(loaded.net, prepared, "test", manifest["threshold"]["value"])
    console.report(
        as_json, lambda: {"area": manifest["area"], **measured.to_json()}, measured.describe
    )


@mura.command()
@click.option("--image", "images", multiple=True, required=True, type=click.Path(path_type=Path),
              help="A view of the study; repeat for more.")  # fmt: skip
@click.option("--area", help="What the study shows, such as XR_WRIST.")
@click.option("--release", type=click.Path(path_type=Path),
              help="The release's folder.  [default: RELEASES/AREA]")  # fmt: skip
@releases_option
@click.option("--threshold", type=click.FloatRange(0, 1), help="In place of the release's own.")
@device_option
@json_option
def infer(
    images: tuple[Path, ...], area: str | None, release: Path | None, releases: Path,
    threshold: float | None, device: str, as_json: bool,
) -> None:  # fmt: skip
    """Give one study's probability of being abnormal, from all of its views."""
    from mura_tune.reading.predict import Predictor

    if not release and not area:
        raise click.UsageError("name the --area, or the --release")
    predictor = Predictor(release or releases / str(area), _device(device), area)
    answer = predictor.study(images, threshold)
    console.report(as_json, answer.to_json, answer.describe)


@mura.command()
@runs_option
@storage_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, help="0 picks a free one.")
def dashboard(runs: Path, storage: str | None, host: str, port: int) -> None:
    """Serve optuna-dashboard for the studies, to look at and not to change."""
    from mura_tune.tuning import board

    board.serve(_url(storage, runs), host, port, lambda url: click.echo(f"studies at {url}"))


@mura.command()
@click.argument("area")
@set_option
@json_option
def show(area: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print the study of AREA as its files and every --set resolve it."""
    import yaml

    from mura_tune import config

    plain = config.to_dict(_study(area, overrides))
    console.report(as_json, lambda: plain, lambda: yaml.safe_dump(plain, sort_keys=False).rstrip())


@mura.command()
@click.argument("release", type=click.Path(path_type=Path))
@json_option
def verify(release: Path, as_json: bool) -> None:
    """Check every byte of a release against its sums, and its weights against its network."""
    import torch

    from mura_tune.release import bundle

    manifest = bundle.load(release, torch.device("cpu")).manifest
    plain = {"release": str(release), "area": manifest["area"], "whole": True}
    console.report(as_json, lambda: plain, lambda: f"{release}: {manifest['area']}, whole")


def _study(area: str, overrides: tuple[str, ...]) -> StudyConfig:
    from mura_tune import config

    return config.load(area, overrides)


def _prepare(area: str, study: StudyConfig, data: Path, runs: Path, strict: bool) -> Prepared:
    from mura_tune.data.dataset import open_dataset
    from mura_tune.data.prepare import prepare

    prepared = prepare(
        open_dataset(data), area, study.recipe.size, study.split, runs / "cache", strict=strict
    )
    for finding in prepared.left_out:
        console.note(f"left out {finding.path}: {finding.detail}")
    return prepared


def _url(storage: str | None, runs: Path) -> str:
    from mura_tune.tuning.storage import url_of

    return url_of(storage or str(runs / "studies.db"))


def _best(name: str, url: str) -> Best:
    from mura_tune.tuning.results import best as best_of
    from mura_tune.tuning.storage import load_study, open_storage

    return best_of(load_study(open_storage(url), name, url))


def _device(name: str) -> torch.device:
    from mura_tune.learning.device import device_of

    return device_of(name)


def main() -> None:
    """The `mura` command."""
    console.run(mura, "mura")
