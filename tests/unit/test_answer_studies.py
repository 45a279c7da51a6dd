"""Many studies at once: the answers of one at a time, a row each, resumed, nothing dropped."""

import csv
import importlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Ran
from numpy.typing import NDArray
from PIL import Image
from untrained import CPU

from mura_tune.errors import InputError
from mura_tune.networks.factory import build_network
from mura_tune.reading.answer_studies import BatchSummary, answer_all
from mura_tune.reading.readers import Predictor
from mura_tune.reading.studies import find_studies
from mura_tune.release.release import save_release


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
    studies = find_studies(folder)
    assert [one.name for one in studies][:2] == ["patient00/study1", "patient01/study1"]
    done = answer_all(predictor, studies, folder, tmp_path / "out.csv", said.append)
    rows = rows_of(tmp_path / "out.csv")
    assert [row["study"] for row in rows] == [one.name for one in studies]
    for row, one in zip(rows, studies, strict=True):
        assert int(row["views"]) == len(one.images)
        if row["error"]:
            assert row["probability"] == row["abnormal"] == row["abstain"] == ""
            continue
        alone = predictor.predict(one.images)
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
    out, studies = tmp_path / name, find_studies(folder)
    answer_all(predictor, studies, folder, tmp_path / f"whole-{name}", print)
    real, seen = predictor.read, []

    def stopping(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        if len(seen) == 1:
            raise KeyboardInterrupt
        seen.append(len(pixels))
        return real(pixels)

    monkeypatch.setattr(predictor, "read", stopping)
    with pytest.raises(KeyboardInterrupt):
        answer_all(predictor, studies, folder, out, print)
    counted: list[int] = []
    monkeypatch.setattr(predictor, "read", lambda p: (counted.append(len(p)), real(p))[1])
    done = answer_all(predictor, studies, folder, out, print)
    assert done.before > 5
    images = sum(len(one.images) for one in studies)
    assert sum(counted) + seen[0] == images - 2  # the marked study's two are never seen
    assert out.read_text() == (tmp_path / f"whole-{name}").read_text()
    counted.clear()
    Image.linear_gradient("L").save(folder / "patient05/study1/image1.png")
    done = answer_all(predictor, studies, folder, out, print)
    assert (counted, done.answered, done.unreadable) == ([2], 1, ())


def test_rows_of_another_release_or_threshold_are_left_alone(
    folder: Path, release: Path, predictor: Predictor, tmp_path: Path
) -> None:
    out, studies = tmp_path / "out.csv", find_studies(folder)[:3]
    answer_all(predictor, studies, folder, out, print)
    before = out.read_bytes()
    with pytest.raises(InputError, match="choose another --out"):
        answer_all(Predictor(release, CPU, threshold=0.25), studies, folder, out, print)
    other = tmp_path / "other"
    manifest = predictor.release.manifest
    save_release(
        other, build_network("cnn", size=32, seed=4), manifest, {}
    )  # the same recipe's second seed
    with pytest.raises(InputError, match="choose another --out"):
        answer_all(Predictor(other, CPU), studies, folder, out, print)
    assert out.read_bytes() == before
    for text in ("a,b\n1,2\n", "study,views\nx,y\n"):
        out.write_text(text)
        with pytest.raises(InputError, match="not written by this command"):
            answer_all(predictor, studies, folder, out, print)
        assert out.read_text() == text
    with pytest.raises(InputError, match=r"a .csv or a .json"):
        answer_all(predictor, studies, folder, tmp_path / "out.xlsx", print)


def test_a_table_names_studies_or_leaves_it_to_the_folders(folder: Path, tmp_path: Path) -> None:
    table = folder / "some.csv"
    table.write_text("study,path\nb,patient01/study1/image0.png\na,x.png\nb,y.png\n")
    (b, a) = find_studies(table)
    assert (b.name, b.images) == ("b", (folder / "patient01/study1/image0.png", folder / "y.png"))
    assert (a.name, a.images) == ("a", (folder / "x.png",))
    table.write_text("path\npatient01/study1/image0.png\n")
    assert [one.name for one in find_studies(table)] == ["patient01/study1"]
    for text, said in (
        ("image\nx\n", "no column path"),
        ("path,study\nx\n", "some.csv:2: 1 cells"),
        ("path\n", "no image there"),
        ("study,path\na,\n", "the path is empty"),
    ):
        table.write_text(text)
        with pytest.raises(InputError, match=said):
            find_studies(table)
    with pytest.raises(InputError, match="no such folder"):
        find_studies(tmp_path / "nowhere")


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


def at(root: Path, *names: str) -> Path:
    """A folder with a picture of its own at each of the paths below it."""
    rng = np.random.default_rng(len(names))
    for name in names:
        path = Path(os.fsdecode(os.fsencode(root / name)))
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (40, 40), dtype=np.uint8)
        with path.open("wb") as file:
            Image.fromarray(pixels).save(file, "png")
    return root


def answers(predictor: Predictor, source: Path, out: Path) -> BatchSummary:
    return answer_all(predictor, find_studies(source), source, out, lambda line: None)


def test_a_second_call_on_one_table_is_refused_while_the_first_writes(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = at(tmp_path / "h0", "a/1.png"), at(tmp_path / "h1", "b/1.png")
    out, real = tmp_path / "out.csv", predictor.read
    refusals: list[str] = []

    def meanwhile(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        if not refusals:
            with pytest.raises(InputError, match="another call is writing it") as refusal:
                answers(predictor, second, out)
            refusals.append(str(refusal.value))
        return real(pixels)

    monkeypatch.setattr(predictor, "read", meanwhile)
    answers(predictor, first, out)
    assert refusals
    answers(predictor, second, out)
    assert [row["study"] for row in rows_of(out)] == ["a", "b"]  # nobody's answers are lost
    assert {path.name for path in tmp_path.iterdir()} == {"h0", "h1", "out.csv", "releases"}


def test_answers_are_of_files_and_not_of_names(predictor: Predictor, tmp_path: Path) -> None:
    ours, theirs = at(tmp_path / "A", "p1/1.png", "p2/1.png"), at(tmp_path / "B", "p1/1.png")
    out = tmp_path / "out.csv"
    answers(predictor, ours, out)
    before = out.read_bytes()
    with pytest.raises(InputError, match=r"its row p1 is of other files, in .*A; choose another"):
        answers(predictor, theirs, out)
    assert out.read_bytes() == before
    shutil.move(ours, tmp_path / "moved")
    assert answers(predictor, tmp_path / "moved", out).before == 2  # the same files elsewhere


def test_a_study_whose_views_changed_is_answered_again(
    predictor: Predictor, tmp_path: Path
) -> None:
    root, out = at(tmp_path / "s", "a/1.png", "b/1.png", "c/1.png", "d/1.png"), tmp_path / "o.csv"
    answers(predictor, root, out)
    old = {row["study"]: row for row in rows_of(out)}
    at(root, "a/2.png")  # a view more
    shutil.copyfile(root / "c" / "1.png", root / "b" / "1.png")  # another in its place
    shutil.rmtree(root / "d")
    done = answers(predictor, root, out)
    assert (done.before, done.answered, done.gone) == (1, 2, ("d",))
    new = {row["study"]: row for row in rows_of(out)}
    assert new["a"]["views"] == "2"
    assert new["b"]["probability"] == new["c"]["probability"] != old["b"]["probability"]
    assert new["c"] == old["c"]
    assert sorted(new) == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["out.csv", "out.json"])
@pytest.mark.parametrize("value", ["nan", "999", "-0.1", "inf", "x", "true"])
def test_a_value_that_no_answer_has_is_refused_by_its_row(
    predictor: Predictor, tmp_path: Path, name: str, value: str
) -> None:
    root, out = at(tmp_path / "s", "a/1.png"), tmp_path / name
    answers(predictor, root, out)
    probability = re.search(r"0\.\d+", out.read_text())
    assert probability
    text = out.read_text().replace(probability[0], value, 1)
    out.write_text(text)
    with pytest.raises(InputError, match=r"out\.(csv:2: prob|json: (row 1: prob|not valid JSON))"):
        answers(predictor, root, out)
    assert out.read_text() == text


@pytest.mark.parametrize("edit", [{"abnormal": None}, {"abstain": True}, {"views": 7}])
def test_a_row_that_does_not_follow_from_its_study_is_drawn_again(
    predictor: Predictor, tmp_path: Path, edit: dict[str, object]
) -> None:
    root, out = at(tmp_path / "s", "a/1.png", "b/1.png"), tmp_path / "out.json"
    answers(predictor, root, out)
    whole = json.loads(out.read_text())
    out.write_text(json.dumps([{**whole[0], **edit}, whole[1]]))
    assert answers(predictor, root, out).answered == 1
    assert json.loads(out.read_text()) == whole


def test_a_table_of_an_earlier_version_is_gone_on_with(
    predictor: Predictor, tmp_path: Path
) -> None:
    root, out = at(tmp_path / "s", "a/1.png"), tmp_path / "out.csv"
    answers(predictor, root, out)
    now = rows_of(out)
    older = [{k: v for k, v in row.items() if k not in ("files", "source")} for row in now]
    elsewhere = {**older[0], "study": "elsewhere"}
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(older[0]))
        writer.writeheader()
        writer.writerows([*older, elsewhere])
    assert answers(predictor, root, out).answered == 1
    assert rows_of(out) == [*now, {**elsewhere, "files": "", "source": ""}]


@pytest.mark.parametrize("name", ["out.csv", "out.json"])
def test_any_name_of_a_folder_has_its_row(predictor: Predictor, tmp_path: Path, name: str) -> None:
    names = ["=1+cmd()", "+1", "-1", "@x", "'q", "a\rb", "R\udcf6ntgen", "a,b", 'a"b', "é手", " x "]
    root, out = at(tmp_path / "s", *(f"{one}/1.png" for one in names)), tmp_path / name
    assert answers(predictor, root, out).answered == len(names)
    assert answers(predictor, root, out).before == len(names)
    if name == "out.csv":
        cells = [row["study"] for row in rows_of(out)]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
        assert {"a\\rb", "R\\xf6ntgen", "a,b", "é手"} < set(cells)


def test_every_file_is_a_view_or_named(tmp_path: Path) -> None:
    root = at(tmp_path / "s", "a/1.png", "a/2.gif", "a/3.jfif", "a/4", "b/1.dcm", "c/x.heic")
    (root / "a" / "README").write_text("notes\n")
    (root / "a" / "table.csv").write_text("a,b\n")
    (root / "a" / "Thumbs.db").write_bytes(b"\xd0\xcf")
    (root / "a" / ".DS_Store").write_bytes(b"\0")
    said: list[str] = []
    studies = {
        one.name: [path.name for path in one.images] for one in find_studies(root, said.append)
    }
    assert studies == {"a": ["1.png", "2.gif", "3.jfif", "4"], "b": ["1.dcm"], "c": ["x.heic"]}
    (line,) = said
    assert "README and 1 more" in line


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    root, outside = at(tmp_path / "s", "a/1.png"), at(tmp_path / "far", "p/1.png")
    (root / "b").symlink_to(outside)
    (root / "b2").symlink_to(outside)
    (root / "a" / "up").symlink_to(root)
    said: list[str] = []
    assert [one.name for one in find_studies(root, said.append)] == ["a", "b/p"]
    assert len(said) == 2
    assert all("read already" in line for line in said)


def test_two_studies_of_one_name_are_refused_before_anything_is_read(
    release: Path, run: Callable[..., Ran], tmp_path: Path
) -> None:
    root = at(tmp_path / "same", "a.png", "same/b.png")
    ran = run("infer", root, f"--release={release}", f"--out={tmp_path / 'o.csv'}")
    assert (ran.code, ran.out) == (2, "")
    assert "two studies would be named same" in ran.err
    assert not (tmp_path / "o.csv").exists()


def test_the_folder_one_stands_in_has_a_name(
    release: Path, run: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(at(tmp_path / "here", "a.png"))
    assert run("infer", ".", f"--release={release}", f"--out={tmp_path / 'o.csv'}").code == 0
    assert [row["study"] for row in rows_of(tmp_path / "o.csv")] == ["here"]


def test_a_network_that_answers_nan_answers_nothing(predictor: Predictor, tmp_path: Path) -> None:
    root = at(tmp_path / "s", "a/1.png")
    with torch.no_grad():
        next(predictor.release.net.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match="answers nan to a picture; its weights are damaged"):
        predictor.predict([root / "a" / "1.png"])
    with pytest.raises(InputError, match="its weights are damaged"):
        answers(predictor, root, tmp_path / "out.csv")
    assert rows_of(tmp_path / "out.csv") == []


@pytest.mark.parametrize("verb", [["infer", "STUDIES"], ["explain", "--image=STUDIES/a/1.png"]])
@pytest.mark.parametrize("place", ["file/out", "folder", "pipe", "a" * 300])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    verb: list[str], place: str, run: Callable[..., Ran], tmp_path: Path
) -> None:
    suffix = ".csv" if verb[0] == "infer" else ".png"
    root = at(tmp_path / "s", "a/1.png")
    (tmp_path / "file").touch()
    (tmp_path / f"folder{suffix}").mkdir()
    os.mkfifo(tmp_path / f"pipe{suffix}")
    args = [arg.replace("STUDIES", str(root)) for arg in verb]
    ran = run(*args, "--release=not-looked-at", f"--out={tmp_path / place}{suffix}")
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1)
    assert "not-looked-at" not in ran.err


def test_it_loads_neither_the_search_nor_tables_of_studies() -> None:
    """Our modules are imported anew where those of the search cannot be; torch stays loaded."""
    heavy = {"optuna", "pandas", "sklearn", "matplotlib"}
    before = dict(sys.modules)
    try:
        for name in before:
            if name.split(".")[0] in heavy | {"mura_tune"}:
                del sys.modules[name]
        sys.modules.update(dict.fromkeys(heavy))  # an import of None fails
        for name in ("api.reading", "reading.answer_studies", "reading.fetch", "cli.mura_infer"):
            importlib.import_module(f"mura_tune.{name}")
        with pytest.raises(ImportError):
            importlib.import_module("mura_tune.search.search")
    finally:
        sys.modules.clear()
        sys.modules.update(before)
