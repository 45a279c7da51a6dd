"""README's example in Python: as a script, from the wheel in another folder, and in a notebook."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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


def environment(*paths: Path | str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MURA_")}
    return kept | {"PYTHONPATH": os.pathsep.join(map(str, paths))}


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


def test_the_wheel_runs_the_example_with_workers_in_another_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script has no main guard, which processes that import it again would need."""
    from hatchling.build import build_wheel

    wheels, installed = tmp_path / "wheels", tmp_path / "installed"
    with monkeypatch.context() as patched:
        patched.chdir(ROOT)  # what pip does with a project, and with the wheel that comes of it
        wheel = wheels / build_wheel(str(wheels))
    with zipfile.ZipFile(wheel) as file:
        file.extractall(installed)
    script = folder / "example.py"
    code = example().replace("trials=2", "trials=3, workers=2")
    script.write_text(code + "print(best, mt.__file__, sep='\\n')\n")
    done = subprocess.run(
        [sys.executable, script],
        cwd=folder,
        env=environment(installed),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert ANSWER.match(done.stdout)
    assert done.stdout.count("P(abnormal)") == 1
    assert "search XR_WRIST: 3 finished" in done.stdout
    assert "takes its place" not in done.stderr
    assert Path(done.stdout.splitlines()[-1]).is_relative_to(installed)


def test_a_notebook_runs_the_example_with_workers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbclient
    import nbformat

    for name, value in environment(ROOT).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    code = example().replace("trials=2", "trials=3, workers=2")
    cells = [nbformat.v4.new_code_cell(cell) for cell in (code, "print(best)")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    said = ["".join(o.text for o in cell.outputs if o.get("name") == "stdout") for cell in cells]
    assert ANSWER.match(said[0])
    assert said[1].startswith("search XR_WRIST: 3 finished")


def test_a_search_may_run_in_any_thread(folder: Path) -> None:
    config = mt.load_config("XR_WRIST", QUICK)
    search = mt.Search(config, data=folder / "data" / "MURA-v1.1", runs=folder / "runs")
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(search.run, 1).result(timeout=300)
    assert outcome.best.number == 0
