"""Several seeds: one is released by dev, or all as their mean; how far they lie apart is told."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from click.testing import CliRunner
from conftest import TINY, Ran
from untrained import CPU

from mura_tune.cli import mura
from mura_tune.database.urls import url_of
from mura_tune.errors import InputError
from mura_tune.imaging.images import read_image, resize_to_square
from mura_tune.networks.gradcam import compute_gradcam
from mura_tune.networks.network import Ensemble
from mura_tune.release.release import add_files, load_release, verify_release
from mura_tune.release_format.manifest import CARD, REPORT
from mura_tune.training.batches import to_input
from mura_tune.training.steps import SteppedPhase

Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def searched(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs of a search with one trial. Tests only copy it."""
    runs = tmp_path_factory.mktemp("searched") / "runs"
    words = ["tune", "XR_WRIST", f"--data={phantoms}", f"--runs={runs}", "--trials=1", *TINY]
    words += ["--no-artifacts", "--set=head_init=random"]
    assert CliRunner().invoke(mura, words).exit_code == 0
    return runs


@pytest.fixture
def tuned(searched: Path, phantoms: Path, tmp_path: Path) -> str:
    """A search with one trial; gives the option that names its data."""
    shutil.copytree(searched, tmp_path / "runs")
    return f"--data={phantoms}"


def test_the_best_on_dev_is_released_and_all_are_told(run: Run, tuned: str, tmp_path: Path) -> None:
    made = run("finalize", "XR_WRIST", tuned, "--seeds=3")
    assert made.code == 0, made.err
    release = tmp_path / "releases" / "XR_WRIST"
    manifest = verify_release(release).to_json()
    found = manifest["seeds"]
    first = manifest["study"]["config"]["recipe"]["seed"]
    assert [one["seed"] for one in found["runs"]] == [first, first + 1, first + 2]
    on_dev = [one["dev_score"]["value"] for one in found["runs"]]
    assert len(set(on_dev)) > 1
    (chosen,) = (one for one in found["runs"] if one["released"])
    assert chosen["dev_score"]["value"] == max(on_dev)
    assert chosen["seed"] == manifest["recipe"]["seed"]
    for part in ("dev", "test"):
        assert chosen[f"{part}_score"] == manifest["metrics"][part]["auc"]
        values = [one[f"{part}_score"]["value"] for one in found["runs"]]
        assert found[f"{part}_score"]["sd"] == pytest.approx(np.std(values, ddof=1))
    sentence = f"Trained with 3 seeds: dev AUC {min(on_dev):.3f} to {max(on_dev):.3f}"
    for text in (
        made.out,
        *((release / n).read_text() for n in (CARD, REPORT)),
    ):
        assert sentence in text
    assert not (tmp_path / "runs" / "finals" / "XR_WRIST").exists()


def test_an_ensemble_answers_with_the_mean_of_its_members_logits(
    run: Run, tuned: str, phantoms: Path, tmp_path: Path
) -> None:
    refused = run("finalize", "XR_WRIST", tuned, "--ensemble")
    assert (refused.code, refused.out) == (2, "")
    made = run("finalize", "XR_WRIST", tuned, "--seeds=2", "--ensemble", "--json")
    assert made.code == 0, made.err
    release = tmp_path / "releases" / "XR_WRIST"
    loaded = load_release(release, CPU)
    assert loaded.manifest.members == ("model-0.safetensors", "model-1.safetensors")
    assert all(one.released for one in loaded.manifest.runs.runs)
    assert "The mean of the logits of 2 `cnn` networks" in (release / CARD).read_text()

    image = next(phantoms.glob("valid/XR_WRIST/*/*/image1.png"))
    x_1chw = to_input(torch.from_numpy(resize_to_square(read_image(image), 32))[None], CPU)
    assert isinstance(loaded.net, Ensemble)
    with torch.inference_mode():
        logits = [float(member(x_1chw)) for member in loaded.net.members]
    assert logits[0] != logits[1]
    fitted = loaded.manifest.to_json()["calibration"]
    z = (sum(logits) / 2 + fitted["offset"]) / fitted["temperature"]
    answer = run("infer", "--area=XR_WRIST", f"--image={image}", "--json")
    assert json.loads(answer.out)["probability"] == pytest.approx(1 / (1 + np.exp(-z)), abs=1e-5)

    again = run("evaluate", f"--release={release}", tuned, "--json")
    stored = json.loads(made.out)[0]
    for key in ("auc", "unfamiliar"):
        assert json.loads(again.out)[key] == stored["metrics"]["test"][key]
    assert stored["familiarity"]["studies"] == stored["metrics"]["dev"]["studies"]
    assert loaded.familiarity is not None
    assert len(loaded.familiarity.depths) == 2 * 5  # of each member
    assert compute_gradcam(loaded.net, x_1chw).shape == (1, 32, 32)
    add_files(release, {REPORT: "<p></p>"})
    (release / "model-1.safetensors").write_bytes(b"")
    refused = run("verify", release)
    assert refused.code == 2
    assert "model-1.safetensors: not as released" in refused.err


def test_a_stopped_finalize_goes_on_to_the_same_release(
    run: Run, tuned: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = ("finalize", "XR_WRIST", tuned, "--ensemble", "--seeds=2")
    release, finals = (tmp_path / name / "XR_WRIST" for name in ("releases", "runs/finals"))
    trained: list[int] = []
    meanwhile: list[BaseException | None] = []
    real = SteppedPhase.train

    def counted(*args: Any) -> float:
        if len(trained) == 4:  # a second one, while this one trains: it touches nothing
            meanwhile.append(CliRunner().invoke(mura, call[:3]).exception)
        if len(trained) == 5:  # of two runs with three epochs each: in the middle of the second
            trained.append(0)
            raise KeyboardInterrupt
        trained.append(1)
        return real(*args)

    monkeypatch.setattr(SteppedPhase, "train", counted)
    release.mkdir(parents=True)
    (release / "notes.txt").write_text("years of work")
    refused = run(*call)
    assert (refused.code, refused.out, trained) == (2, "", [])
    assert "XR_WRIST: holds notes.txt and is no release" in refused.err
    assert (release / "notes.txt").read_text() == "years of work"
    (release / "notes.txt").unlink()
    release.rmdir()
    url = url_of(str(tmp_path / "runs" / "studies.db"))
    optuna.copy_study(
        from_study_name="XR_WRIST", from_storage=url, to_storage=url, to_study_name="../up"
    )
    outside = sorted(path.name for path in tmp_path.iterdir())
    assert run("finalize", "../up", f"--data={tmp_path / 'nowhere'}").code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == outside
    assert run("finalize", "", tuned).code == 2
    stopped = run(*call)
    assert stopped.code == 130
    assert isinstance(meanwhile[0], InputError)
    assert "XR_WRIST: another 'mura finalize' is making it" in str(meanwhile[0])
    assert len(trained) == 6
    assert not release.exists()
    assert len(list(finals.glob("seed-*.pt"))) == 2
    went = run(*call)
    assert went.code == 0
    assert "checkpoint" not in went.err
    assert sum(trained) == 6
    assert not finals.exists()
    went_on = [(release / f"model-{i}.safetensors").read_bytes() for i in (0, 1)]
    assert run(*call).code == 0
    assert sum(trained) == 12
    assert [(release / f"model-{i}.safetensors").read_bytes() for i in (0, 1)] == went_on
