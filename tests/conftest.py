"""Small radiographs, a way to run a command, and the real ones where they are at hand."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import postgres as postgresql
import pytest
from click.testing import CliRunner

from mura_tune import config, console
from mura_tune.cli import mura
from mura_tune.database.urls import url_of

if TYPE_CHECKING:
    from mura_tune.data.prepare import Prepared
    from mura_tune.evaluation.picture_rule import PictureRule
    from mura_tune.training.batches import Split

# Before torch is loaded, here and in processes that tests start: networks this small gain nothing
# from a second thread, and on a machine with other work its waits make them crawl. Nothing here
# imports torch before a test needs it: pytest-xdist's own process and the design rules never do.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# All that is imported while tests are collected stays: to look through it for garbage, again and
# again, takes a tenth of the time.
gc.disable()

REAL = Path(__file__).parent.parent.parent / "shared" / "real-xrays"
# A search that trains in seconds: the small network, tiny images, two epochs, no confirmation.
TINY = [
    f"--set={item}"
    for item in (
        "arch=cnn",
        "size=32",
        "pretrained=none",
        "finetune.epochs=2",
        "final.finetune.epochs=2",
        "final.head.epochs=1",
        "batch=16",
        "split.dev=0.3",
        "split.seed=1",
        "split.folds=0",
        "budget.confirm.top=0",
    )
]
CONFIRMED = ["--set=budget.confirm.top=2", "--set=budget.confirm.seeds=2"]  # after TINY


def pytest_collection_finish() -> None:
    """Collect garbage again, but for what is there by now."""
    gc.freeze()
    gc.enable()


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic wrists and hands, small: 40 training patients an area. Tests only read them."""
    from mura_tune.phantoms.dataset import write_phantoms

    return made_once(
        tmp_path_factory,
        "phantoms",
        lambda root: write_phantoms(root, areas=("XR_HAND", "XR_WRIST"), patients=40, size=96),
    )


def part_of(data: Path, root: Path, keeps: Callable[[str], bool]) -> Path:
    """A part of a dataset, as a dataset: the views and studies whose paths it keeps."""
    root.mkdir(parents=True)
    for name in ("train", "valid"):
        (root / name).symlink_to(data / name)
        for kind in ("image_paths", "labeled_studies"):
            lines = (data / f"{name}_{kind}.csv").read_text().splitlines(keepends=True)
            (root / f"{name}_{kind}.csv").write_text("".join(filter(keeps, lines)))
    return root


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that all processes of pytest-xdist share: the first that needs it makes it."""
    base = factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    whole = root.with_suffix(".whole")
    with root.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            shutil.rmtree(root, ignore_errors=True)  # of a process that was killed
            make(root)
            whole.touch()
    return root


@pytest.fixture(scope="session")
def prepared(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The wrists of them at 32 px, divided as every study divides them. Tests only read them."""
    from mura_tune.data.prepare import open_dataset, prepare

    split = config.load_config("XR_WRIST").split
    return prepare(open_dataset(phantoms), "XR_WRIST", 32, split, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def everyone(prepared: Prepared) -> Split:
    """Their views of train and dev together. Tests only read them."""
    import torch

    from mura_tune.release.refit import load_all_patients

    return load_all_patients(prepared, torch.device("cpu"))


@pytest.fixture(scope="session")
def pictures_rule(everyone: Split) -> PictureRule:
    """What a release of these views would refuse by its pictures alone."""
    from mura_tune.evaluation.familiarity import SHARE
    from mura_tune.evaluation.picture_rule import choose_picture_rule

    chosen = choose_picture_rule(everyone, SHARE)
    assert chosen is not None
    return chosen


@pytest.fixture
def url(tmp_path: Path) -> str:
    """URL of a SQLite database with nothing in it."""
    return url_of(str(tmp_path / "studies.db"))


@pytest.fixture
def run(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Ran]:
    """Run `mura` in this process, writing under tmp_path, up to its exit code."""
    monkeypatch.setenv("MURA_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MURA_RELEASES", str(tmp_path / "releases"))

    def call(*args: object) -> Ran:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            console.run_command(mura, "mura", [str(arg) for arg in args])
        captured = capfd.readouterr()
        assert isinstance(end.value.code, int)
        return Ran(end.value.code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def finished(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of two trials, confirmed, and its release, in `runs` and `releases`.

    Beside them lies what the commands said: `tune.json` and `finalize.json`, and `.err` of each.
    Tests only copy all that.
    """

    def make(root: Path) -> None:
        places = {"MURA_RUNS": str(root / "runs"), "MURA_RELEASES": str(root / "releases")}
        for verb, options in (("tune", ["--trials=2", *TINY, *CONFIRMED]), ("finalize", [])):
            words = [verb, "XR_WRIST", f"--data={phantoms}", "--json", *options]
            ran = CliRunner(env=places).invoke(mura, words)
            assert ran.exit_code == 0, ran.output
            (root / f"{verb}.json").write_text(ran.stdout)
            (root / f"{verb}.err").write_text(ran.stderr)

    return made_once(tmp_path_factory, "finished", make)


@pytest.fixture
def trained_release(finished: Path, tmp_path: Path) -> Path:
    """A copy of that release, beside its search, where `run` looks for them: a test's own."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path / "releases" / "XR_WRIST"


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgresql.Server]:
    """A PostgreSQL server that goes with the tests; its `url()` is a new database each time."""
    programs = postgresql.binaries()
    if programs is None:  # pip brings no server; `.ci/run` installs one and takes no such skip
        pytest.skip("no PostgreSQL on this machine (Debian: apt-get install postgresql)")
    with postgresql.server(programs) as server:
        yield server


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def new_storage(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Gives the URL of a database with nothing in it, of each kind: another with every call."""
    if request.param == "SQLite":
        numbers = count()
        return lambda: url_of(str(tmp_path / f"studies-{next(numbers)}.db"))
    server: postgresql.Server = request.getfixturevalue("postgres")
    return server.url


@pytest.fixture
def storage(new_storage: Callable[[], str]) -> str:
    """URL of a database with nothing in it, of each kind."""
    return new_storage()


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release that nobody trained: releases/XR_TEST, the small network at 32 px."""
    from untrained import save_untrained

    return save_untrained(tmp_path / "releases" / "XR_TEST")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser that a file's tests share; `browser.browser_page` opens a page in it."""
    from browser import start_browser

    with start_browser() as browser:
        yield browser


@pytest.fixture(scope="session")
def real() -> Path:
    """Real radiographs in MURA's layout, two of them truncated."""
    if not REAL.is_dir():
        pytest.skip(f"no real radiographs at {REAL.parent.name}/{REAL.name} beside the checkout")
    return REAL
