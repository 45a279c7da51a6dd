"""The main job on real radiographs: exact totals, a stop half way, damaged files named."""

import json
import re
import shutil
import signal
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import Ran

from mura_tune.cli import mura
from mura_tune.search import trial
from mura_tune.training.fit import fit

# A network and sizes that a CPU can afford; the split seed gives dev 37 studies.
CALL = [
    f"--set={s}"
    for s in (
        "arch=cnn",
        "size=64",
        "pretrained=none",
        "split.seed=2",
        "split.folds=0",
        "head.epochs=0",
        "finetune.epochs=2",
    )
]


@pytest.fixture(scope="module")
def searched(real: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The runs of a search of two trials with its confirmation, and what `tune` said on stderr.

    Tests only copy them.
    """
    runs = tmp_path_factory.mktemp("searched") / "runs"
    confirm = ["--set=budget.confirm.top=1", "--set=budget.confirm.seeds=2"]
    words = ["tune", "XR_MIXED", f"--data={real}", f"--runs={runs}", "--trials=2", *CALL, *confirm]
    ran = CliRunner().invoke(mura, words)
    assert ran.exit_code == 0, ran.output
    return runs, ran.stderr


def states(tmp_path: Path) -> list[str]:
    import optuna

    from mura_tune.database.storage import open_storage
    from mura_tune.database.urls import url_of

    storage = open_storage(url_of(str(tmp_path / "runs" / "studies.db")))
    trials = optuna.load_study(study_name="XR_MIXED", storage=storage).get_trials()
    return [t.state.name for t in trials]


def test_a_search_stopped_half_way_ends_at_the_exact_total(
    run: Callable[..., Ran],
    real: Path,
    searched: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(searched[0], tmp_path / "runs")
    once = ["--set=budget.confirm.top=0", "--no-artifacts"]
    args = ["tune", "XR_MIXED", f"--data={real}", *CALL, *once]
    number = count()

    def interrupted(*given: Any, **options: Any) -> Any:
        if next(number) == 0:  # in the third trial
            signal.raise_signal(signal.SIGINT)
        return fit(*given, **options)

    with monkeypatch.context() as patched:
        patched.setattr(trial, "fit", interrupted)
        stopped = run(*args, "--trials=4")
    assert stopped.code == 130
    said = [line for line in stopped.err.splitlines() if line]
    finishing, third, end = [line for line in said if not line.startswith("left out ")]
    assert finishing.startswith("finishing what runs")
    assert third.startswith("trial   2  dev")
    assert end == "mura: interrupted; the same command goes on from here"

    assert run(*args, "--trials=4").code == 0
    assert sum(s in ("COMPLETE", "PRUNED") for s in states(tmp_path)) == 4
    assert "RUNNING" not in states(tmp_path)
    again = run(*args, "--trials=4")
    assert (again.code, "trial   " in again.err) == (0, False)
    assert run(*args, "--trials=5").code == 0
    assert sum(s in ("COMPLETE", "PRUNED") for s in states(tmp_path)) == 5


def test_real_radiographs_become_a_release(
    run: Callable[..., Ran], real: Path, searched: tuple[Path, str], tmp_path: Path
) -> None:
    runs, said = searched
    shutil.copytree(runs, tmp_path / "runs")
    assert len(re.findall(r"left out .*image99\.png: truncated", said)) == 2
    assert run("finalize", "XR_MIXED", f"--data={real}").code == 0
    release = tmp_path / "releases" / "XR_MIXED"
    evaluated = run("evaluate", f"--release={release}", f"--data={real}", "--json")
    figures = json.loads(evaluated.out)
    assert figures["studies"] == 47
    assert figures["auc"]["low"] < figures["auc"]["value"] < figures["auc"]["high"]
    left_out = json.loads((release / "bundle.json").read_text())["data"]["left_out"]
    assert len([f for f in left_out if f["kind"] == "unreadable"]) == 2
    # One picture under two patients' names, cut differently, on both sides of a split. Nothing else
    # is taken for a copy: these are, to the eye.
    near = {
        tuple(re.findall(r"patient\d+", f["path"] + f["detail"]))
        for f in left_out
        if f["kind"] == "near-copy"
    }
    assert near == {
        ("patient00107", "patient00287"),
        ("patient00219", "patient00214"),
        ("patient00297", "patient00274"),
    }
    assert "near-copy: left out of train" in (release / "report.html").read_text()

    truncated = real / "train/XR_MIXED/patient00314/study1_negative/image99.png"
    asked = run("infer", f"--release={release}", f"--image={truncated}")
    assert (asked.code, asked.out) == (2, "")
    assert "image99.png: truncated" in asked.err
