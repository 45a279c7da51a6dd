"""README's example in Python: as it stands, as a script, and in a notebook from the wheel."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import mura_tune as mt

ROOT = Path(__file__).parents[2]
# In the place of what takes hours, or begins with weights that are downloaded.
QUICK = {
    "arch": "cnn",
    "size": 32,
    "pretrained": "none",
    "head.epochs": 0,
    "finetune.epochs": 1,
    "final.head.epochs": 0,
    "final.finetune.epochs": 1,
    "budget.confirm.top": 0,
    "split.dev": 0.3,
    "split.seed": 1,
    "split.folds": 0,
}


def example() -> str:
    """README's lines, quick enough for a test."""
    readme = (ROOT / "README.md").read_text("utf-8")
    section = readme.partition("## From Python")[2].partition("\n## ")[0]
    (code,) = re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    for old, new in ((r'\{"arch": "resnet18"\}', repr(QUICK)), (r"trials=\d+", "trials=2")):
        code, count = re.subn(old, new, code)
        assert count == 1, old
    return code


@pytest.fixture
def folder(tmp_path: Path, phantoms: Path) -> Path:
    """A working folder with radiographs where README's example expects them."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "MURA-v1.1").symlink_to(phantoms)
    views = sorted((phantoms / "valid" / "XR_WRIST").rglob("*positive/*.png"))[:2]
    for number, view in enumerate(views, 1):
        shutil.copy(view, tmp_path / f"view{number}.png")
    return tmp_path


def with_workers() -> str:
    """The same lines, with two workers."""
    return example().replace("trials=2", "trials=3, workers=2")


ANSWER = re.compile(r"XR_WRIST: P\(abnormal\) = 0\.\d{3}, .*\n  0\.\d{3}  view1\.png\n")


def test_readmes_example(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    exec(example(), names)
    assert ANSWER.match(capfd.readouterr().out)
    best, release = names["best"], names["release"]
    assert str(best).startswith("search XR_WRIST: 2 finished")
    assert str(best) == str(mt.load_result("XR_WRIST", storage="runs/studies.db"))
    assert best.to_json()["best"]["number"] == best.best.number
    assert release.folder == Path("releases/XR_WRIST")
    assert "AUC" in str(mt.evaluate("releases/XR_WRIST"))
    assert mt.verify("releases/XR_WRIST", data="data/MURA-v1.1").data
    again = names["search"].run(trials=2)
    assert again == best, "the count was full: nothing ran"


def test_an_error_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(mt.InputError, match=r"unknown key recipe\.archh; did you mean .*arch"):
        mt.load_config("XR_WRIST", {"archh": "resnet18"})
    with pytest.raises(mt.InputError, match="no searches yet"):
        mt.load_result("XR_WRIST", storage="runs/studies.db")
    with pytest.raises(mt.InputError, match="names no area"):
        mt.Search(mt.load_config("XR_WRIST").__class__(**_settings()))


def _settings() -> dict[str, object]:
    config = mt.load_config("XR_WRIST")
    return {name: getattr(config, name) for name in ("recipe", "search", "budget", "split")}


def test_a_mapping_and_texts_make_the_same_config() -> None:
    texts = ["arch=resnet18", "finetune.lr=1.0e-05", "search.augment=null"]
    values = {"arch": "resnet18", "finetune.lr": 1e-5, "search.augment": None}
    config = mt.load_config("XR_WRIST", values)
    assert config == mt.load_config("XR_WRIST", texts)
    assert config.overrides == tuple(texts)
    assert config.area == "XR_WRIST"


def test_a_script_without_a_main_guard_has_workers(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A worker that imported the script again, as processes do, would search in its turn."""
    script = folder / "example.py"
    script.write_text(with_workers() + "print(best)\n")
    monkeypatch.chdir(folder)
    runpy.run_path(str(script), run_name="__main__")
    said, errors = capfd.readouterr()
    assert ANSWER.match(said)
    assert said.count("P(abnormal)") == 1
    assert "search XR_WRIST: 3 finished" in said
    assert "takes its place" not in errors


def test_a_notebook_runs_the_example_from_the_wheel_with_workers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbclient
    import nbformat
    from hatchling.build import build_wheel

    wheels, installed = tmp_path / "wheels", tmp_path / "installed"
    with monkeypatch.context() as patched:
        patched.chdir(ROOT)  # what `pip wheel` does with a project
        wheel = wheels / build_wheel(str(wheels))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    install = [*pip, "install", "--no-deps", "--no-index", "--target", installed, wheel]
    subprocess.run(install, check=True)
    for name in [name for name in os.environ if name.startswith("MURA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(installed))
    version = [installed / "bin" / "mura", "--version"]
    said = subprocess.check_output(version, cwd=folder, text=True)
    assert said == f"mura, version {mt.__version__}\n"
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    code = (with_workers(), "print(best)", "print(mt.__file__)")
    cells = [nbformat.v4.new_code_cell(cell) for cell in code]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    said, result, place = (stream(cell, "stdout") for cell in cells)
    assert ANSWER.match(said)
    assert said.count("P(abnormal)") == 1
    assert result.startswith("search XR_WRIST: 3 finished")
    assert "takes its place" not in stream(cells[0], "stderr")
    assert Path(place.strip()).is_relative_to(installed)


def stream(cell: Any, name: str) -> str:
    """What a notebook's cell wrote to stdout or stderr."""
    return "".join(output.text for output in cell.outputs if output.get("name") == name)


def test_a_search_may_run_in_any_thread(folder: Path) -> None:
    config = mt.load_config("XR_WRIST", QUICK)
    search = mt.Search(config, data=folder / "data" / "MURA-v1.1", runs=folder / "runs")
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(search.run, 1).result(timeout=300)
    assert outcome.best.number == 0
