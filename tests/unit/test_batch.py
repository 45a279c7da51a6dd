"""Many studies at once: the answers of one at a time, a row each, resumed, nothing dropped."""

import csv
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import CPU, Ran
from numpy.typing import NDArray
from PIL import Image

from mura_tune.errors import InputError
from mura_tune.learning.models import build
from mura_tune.reading.batch import answer_all
from mura_tune.reading.predict import Predictor
from mura_tune.reading.readers import Single
from mura_tune.reading.studies import studies_in
from mura_tune.release import bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty studies of one to four views; an image of patient05 is cut off."""
    rng = np.random.default_rng(0)
    root = tmp_path / "studies"
    for number in range(40):
        study = root / f"patient{number:02d}" / "study1"
        study.mkdir(parents=True)
        for view in range(1 + number % 4):
            pixels = rng.integers(0, 255, (60 + number, 70), dtype=np.uint8)
            Image.fromarray(pixels).save(study / f"image{view}.png")
        (study / "._image0.png").write_bytes(b"no image")
    cut = root / "patient05" / "study1" / "image1.png"
    cut.write_bytes(cut.read_bytes()[:100])
    return root


@pytest.fixture
def predictor(release: Path) -> Predictor:
    return Predictor(release, CPU)


def rows_of(out: Path) -> list[dict[str, str]]:
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_a_study_with_the_answer_it_gets_alone(
    folder: Path, predictor: Predictor, tmp_path: Path
) -> None:
    said: list[str] = []
    asked = studies_in(folder)
    assert [one.name for one in asked][:2] == ["patient00/study1", "patient01/study1"]
    done = answer_all(Single(predictor), asked, tmp_path / "out.csv", said.append)
    rows = rows_of(tmp_path / "out.csv")
    assert [row["study"] for row in rows] == [one.name for one in asked]
    for row, one in zip(rows, asked, strict=True):
        assert int(row["views"]) == len(one.images)
        if row["error"]:
            assert row["probability"] == row["abnormal"] == row["abstain"] == ""
            continue
        alone = predictor.study(one.images)
        assert float(row["probability"]) == pytest.approx(alone.probability, abs=1e-6)
        assert row["abnormal"] == str(alone.abnormal).lower()
    (bad,) = (row for row in rows if row["error"])
    assert bad["study"] == "patient05/study1" == done.unreadable[0]
    assert "patient05/study1/image1.png" in bad["error"]
    assert len(said) == 1
    assert (done.before, done.answered) == (0, 39)


@pytest.mark.parametrize("name", ["out.csv", "out.json"])
def test_what_is_there_is_not_computed_again(
    folder: Path, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    out, asked = tmp_path / name, studies_in(folder)
    answer_all(Single(predictor), asked, tmp_path / f"whole-{name}", print)
    real, seen = predictor.logits, []

    def stopping(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        if len(seen) == 1:
            raise KeyboardInterrupt
        seen.append(len(pixels))
        return real(pixels)

    monkeypatch.setattr(predictor, "logits", stopping)
    with pytest.raises(KeyboardInterrupt):
        answer_all(Single(predictor), asked, out, print)
    counted: list[int] = []
    monkeypatch.setattr(predictor, "logits", lambda p: (counted.append(len(p)), real(p))[1])
    done = answer_all(Single(predictor), asked, out, print)
    assert done.before > 5
    images = sum(len(one.images) for one in asked)
    assert sum(counted) + seen[0] == images - 2  # the marked study's two are never seen
    assert out.read_text() == (tmp_path / f"whole-{name}").read_text()
    counted.clear()
    Image.fromarray(np.zeros((80, 80), np.uint8)).save(folder / "patient05/study1/image1.png")
    done = answer_all(Single(predictor), asked, out, print)
    assert (counted, done.answered, done.unreadable) == ([2], 1, ())


def test_rows_of_another_release_or_threshold_are_left_alone(
    folder: Path, predictor: Predictor, tmp_path: Path
) -> None:
    out, asked = tmp_path / "out.csv", studies_in(folder)[:3]
    answer_all(Single(predictor), asked, out, print)
    before = out.read_bytes()
    with pytest.raises(InputError, match="choose another --out"):
        answer_all(Single(predictor, 0.25), asked, out, print)
    other = tmp_path / "other"
    manifest = dict(predictor.bundle.manifest)
    bundle.save(other, build("cnn", size=32, seed=4), manifest, {})  # the same recipe's second seed
    with pytest.raises(InputError, match="choose another --out"):
        answer_all(Single(Predictor(other, CPU)), asked, out, print)
    assert out.read_bytes() == before
    for text in ("a,b\n1,2\n", "study,views\nx,y\n"):
        out.write_text(text)
        with pytest.raises(InputError, match="not written by this command"):
            answer_all(Single(predictor), asked, out, print)
        assert out.read_text() == text
    with pytest.raises(InputError, match=r"a .csv or a .json"):
        answer_all(Single(predictor), asked, tmp_path / "out.xlsx", print)


def test_a_table_names_studies_or_leaves_it_to_the_folders(folder: Path, tmp_path: Path) -> None:
    table = folder / "some.csv"
    table.write_text("study,path\nb,patient01/study1/image0.png\na,x.png\nb,y.png\n")
    (b, a) = studies_in(table)
    assert (b.name, b.images) == ("b", (folder / "patient01/study1/image0.png", folder / "y.png"))
    assert (a.name, a.images) == ("a", (folder / "x.png",))
    table.write_text("path\npatient01/study1/image0.png\n")
    assert [one.name for one in studies_in(table)] == ["patient01/study1"]
    for text, said in (
        ("image\nx\n", "no column path"), ("path,study\nx\n", "some.csv:2: 1 cells"),
        ("path\n", "no image there"), ("study,path\na,\n", "the path is empty"),
    ):  # fmt: skip
        table.write_text(text)
        with pytest.raises(InputError, match=said):
            studies_in(table)
    with pytest.raises(InputError, match="no such folder"):
        studies_in(tmp_path / "nowhere")


def test_the_command(folder: Path, release: Path, run: Callable[..., Ran], tmp_path: Path) -> None:
    out = tmp_path / "answers.json"
    call = ("infer", folder, "--area=XR_TEST", f"--out={out}")
    done = run(*call)
    assert done.code == 0, done.err
    assert "39 studies answered; 1 unreadable, marked" in done.out
    assert "patient05/study1: no answer:" in done.err
    assert len(json.loads(out.read_text())) == 40
    again = json.loads(run(*call, "--json").out)
    assert (again["before"], again["answered"]) == (39, 0)
    assert run("infer", "--area=XR_TEST").code == 2
    assert run("infer", folder, "--image=x.png", "--area=XR_TEST").code == 2


def test_it_loads_neither_the_search_nor_tables_of_studies() -> None:
    """Our modules are imported anew where those of the search cannot be; torch stays loaded."""
    heavy = {"optuna", "pandas", "sklearn", "matplotlib"}
    before = dict(sys.modules)
    try:
        for name in before:
            if name.split(".")[0] in heavy | {"mura_tune"}:
                del sys.modules[name]
        sys.modules.update(dict.fromkeys(heavy))  # an import of None fails
        for name in ("reading.batch", "reading.fetch", "cli_infer"):
            importlib.import_module(f"mura_tune.{name}")
        with pytest.raises(ImportError):
            importlib.import_module("mura_tune.tuning.search")
    finally:
        sys.modules.clear()
        sys.modules.update(before)
