"""Each verb where something may not be read or written, is full or is missing: one line, exit 2."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import TINY, Ran
from surroundings import closed, full, missing, read_only

from mura_tune.cli import mura
from mura_tune.phantoms.dataset import write_phantoms

Fault = Callable[[Path], AbstractContextManager[None]]
DATA, RUNS, RELEASES, OUT = "DATA", "RUNS", "RELEASES", "OUT"
DB, RELEASE = "RUNS/studies.db", "RELEASES/XR_WRIST"
WEIGHTS, IMAGE = f"{RELEASE}/model.safetensors", "DATA/valid/XR_WRIST/IMAGE"
SEARCH = ("XR_WRIST", "--data=DATA", "--runs=RUNS", *TINY)
FINALIZE = ("finalize", "XR_WRIST", "--data=DATA", "--runs=RUNS", "--releases=RELEASES")
MEASURE = ("--data=DATA", "--runs=RUNS")
ONE = ("--release=RELEASES/XR_WRIST", f"--image={IMAGE}")
MULTI = ("ablate", "multitask", "--data=DATA", "--runs=OUT/runs", "--seeds=2", *TINY)

RECALIBRATE = ("recalibrate", RELEASE, "--data=LOCAL", "--runs=RUNS", "--out=OUT/local")
# verb, then where the fault lies
BEGINS_ANEW = (("tune", *SEARCH, "--trials=2"), DB)  # where there is no database yet
READS = [
    (("check", "--data=DATA"), DATA),
    (("check", "--data=DATA"), "DATA/train_image_paths.csv"),
    (("cache", *SEARCH), DATA),
    (("tune", *SEARCH, "--trials=2"), "DATA/valid_labeled_studies.csv"),
    BEGINS_ANEW,
    (MULTI, DATA),
    (FINALIZE, DATA),
    (FINALIZE, DB),
    (("best", "XR_WRIST", "--runs=RUNS"), DB),
    (("status", "XR_WRIST", "--runs=RUNS"), DB),
    (("study", "export", "XR_WRIST", "--runs=RUNS"), DB),
    (("study", "copy", "XR_WRIST", "new", "--runs=RUNS"), DB),
    (("study", "delete", "XR_WRIST", "--yes", "--runs=RUNS"), DB),
    (("dashboard", "--runs=RUNS", "--port=0"), DB),
    (("evaluate", f"--release={RELEASE}", *MEASURE), RELEASE),
    (("evaluate", f"--release={RELEASE}", *MEASURE), DATA),
    (("compare", RELEASE, RELEASE, *MEASURE), WEIGHTS),
    (("report", f"--release={RELEASE}", *MEASURE), WEIGHTS),
    (("report", f"--release={RELEASE}", *MEASURE), DATA),
    (RECALIBRATE, RELEASE),
    (RECALIBRATE, "LOCAL"),
    (("verify", RELEASE), RELEASE),
    (("verify", RELEASE), WEIGHTS),
    (("export", f"--release={RELEASE}", "--to=pt", "--out=OUT/a.pt"), WEIGHTS),
    (("infer", *ONE), WEIGHTS),
    (("infer", *ONE), IMAGE),
    (("infer", "DATA/valid", f"--release={RELEASE}", "--out=OUT/a.csv"), "DATA/valid"),
    (("explain", *ONE, "--out=OUT/a.png"), WEIGHTS),
    (("explain", *ONE, "--out=OUT/a.png"), IMAGE),
    (("read", f"--release={RELEASE}", "--port=0"), WEIGHTS),
    (("listen", *ONE[:1], "--from=PACS", "--send-to=PACS@localhost:104", "--queue=OUT/q"), WEIGHTS),
]
WRITES = [
    (("phantom", "OUT/new", "--area=XR_HAND", "--patients=8", "--size=64"), OUT),
    (("phantom", "DATA2", "--area=XR_HAND", "--patients=8", "--size=64", "--sheet=OUT/s.png"), OUT),
    (("cache", "XR_WRIST", "--data=DATA", "--runs=OUT/runs", *TINY), OUT),
    (("tune", "XR_WRIST", "--data=DATA", "--runs=OUT/runs", "--trials=1", *TINY), OUT),
    (("tune", *SEARCH, "--trials=2"), RUNS),
    (MULTI, OUT),
    (FINALIZE, RELEASES),
    (("finalize", "XR_WRIST", "--data=DATA", "--runs=RUNS", "--releases=OUT/new"), OUT),
    (("study", "export", "XR_WRIST", "--runs=RUNS", "--out=OUT/a.csv"), OUT),
    (("study", "copy", "XR_WRIST", "new", "--runs=RUNS"), RUNS),
    (("study", "copy", "XR_WRIST", "new", "--runs=RUNS", "--to=OUT/a.db"), OUT),
    (("study", "delete", "XR_WRIST", "--yes", "--runs=RUNS"), RUNS),
    (("evaluate", f"--release={RELEASE}", "--data=DATA", "--runs=OUT/runs"), OUT),
    (("report", f"--release={RELEASE}", *MEASURE), RELEASES),
    (("report", f"--release={RELEASE}", *MEASURE, "--out=OUT/a.html"), OUT),
    (RECALIBRATE, OUT),
    (("export", f"--release={RELEASE}", "--to=pt", "--out=OUT/a.pt"), OUT),
    (("export", f"--release={RELEASE}", "--to=safetensors", "--out=OUT/a.safetensors"), OUT),
    (("infer", "DATA/valid", f"--release={RELEASE}", "--out=OUT/a.csv"), OUT),
    (("explain", *ONE, "--out=OUT/a.png"), OUT),
]
SINGLE = "--set=budget.confirm.top=0"  # no confirmation
# `show` prints what it resolves, and writes nothing: it reads the search files of the installation,
# and of a dataset that is there only whether it has the area. `launch` prints what it was told.
NEITHER = {"show", "launch"}


@dataclass(frozen=True)
class World:
    """Where data, a search, a release and outputs lie."""

    root: Path

    def __call__(self, text: str) -> str:
        """Text with the names of places in the place of their words."""
        valid = sorted((self.root / "DATA" / "valid" / "XR_WRIST").rglob("*.png"))[0]
        text = text.replace("valid/XR_WRIST/IMAGE", str(valid.relative_to(self.root / "DATA")))
        for word in ("DATA2", "LOCAL", DATA, RUNS, RELEASES, OUT):
            text = text.replace(f"{word}", f"{self.root}/\0{word}")
        return text.replace("\0", "")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms, a search of one trial, and its release. Tests only copy them.

    The trial has no pictures: those that `delete` removes first would give a full disk room.
    """
    root = tmp_path_factory.mktemp("world")
    write_phantoms(root / DATA, areas=("XR_HAND", "XR_WRIST"), patients=16, size=64)
    write_phantoms(root / "LOCAL", areas=("XR_WRIST",), patients=16, size=64, seed=9)
    data, runs = f"--data={root / DATA}", f"--runs={root / RUNS}"
    for args in (
        ["tune", "XR_WRIST", data, runs, "--trials=1", "--no-artifacts", *TINY, SINGLE],
        ["finalize", "XR_WRIST", data, runs, f"--releases={root / RELEASES}"],
    ):
        mura.main(args, standalone_mode=False)
    return root


@pytest.fixture
def world(built: Path, tmp_path: Path) -> World:
    shutil.copytree(built, tmp_path / "world")
    (tmp_path / "world" / OUT).mkdir()
    return World(tmp_path / "world")


def refused(ran: Ran, place: str) -> None:
    """One line that names the place, exit code 2; what was found before may have its line."""
    lines = [line for line in ran.err.splitlines() if not line.startswith(("left out", "trial"))]
    assert ran.code == 2, (ran.code, ran.out, ran.err)
    assert ran.out == ""
    assert len(lines) == 1, lines
    assert lines[0].startswith("mura")
    assert "Error" not in lines[0]
    assert "MURA_DEBUG" not in lines[0]
    assert place in lines[0]


def name(case: tuple[tuple[str, ...], str]) -> str:
    return f"{case[0][0]} {case[0][1] if case[0][0] == 'study' else ''} {case[1]}"


@pytest.mark.parametrize("case", READS, ids=name)
@pytest.mark.parametrize("fault", [closed, missing])
def test_what_cannot_be_read(
    fault: Fault, case: tuple[tuple[str, ...], str], world: World, run: Callable[..., Ran]
) -> None:
    if fault is missing and case == BEGINS_ANEW:
        return
    place, args = Path(world(case[1])), [world(arg) for arg in case[0]]
    with fault(place):
        ran = run(*args)
    refused(ran, place.name.removesuffix("-aside"))


@pytest.mark.parametrize("case", WRITES, ids=name)
@pytest.mark.parametrize("fault", [read_only, full])
def test_what_cannot_be_written(
    fault: Fault, case: tuple[tuple[str, ...], str], world: World, run: Callable[..., Ran]
) -> None:
    place, args = Path(world(case[1])), [world(arg) for arg in case[0]]
    with fault(place):
        ran = run(*args)
        whole = {path.name for path in place.rglob("*")} if fault is full else set()
    refused(ran, place.name)
    parts = {one for one in whole if one.startswith(".") and one != ".filler"}
    assert not {one for one in parts if not one.endswith(".lock")}, "no part of a file is left"


def test_every_verb_is_in_a_table() -> None:
    verbs = {case[0][0] for case in (*READS, *WRITES)}
    # `mura study` is the older name of `mura search`: the same verbs.
    assert verbs | NEITHER == set(mura.commands) - {"search"}
