"""The tasks over every area at once, each from its study file to an answer, and both in a chain."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from conftest import TINY, Ran

from mura_tune.reading import route
from mura_tune.release.bundle import CARD, verify
from mura_tune.release.routing import Routing

Run = Callable[..., Ran]
QUICK = [*TINY, "--set=budget.confirm.top=0", "--no-artifacts", "--trials=1", "--feature-gb=0"]
AREAS = ["XR_HAND", "XR_WRIST"]


def test_every_task_goes_from_its_study_to_an_answer(
    run: Run, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, releases = f"--data={phantoms}", tmp_path / "releases"
    listed = pd.read_csv(phantoms / "valid_labeled_studies.csv", header=None)
    image = next(phantoms.glob("valid/XR_WRIST/*/*/*.png"))
    for area, word in (("ALL", "AUC"), ("router", "accuracy"), ("multitask", "AUC")):
        tuned = run("tune", area, data, *QUICK)
        assert tuned.code == 0, tuned.err
        assert f"dev study {word}" in tuned.out
        assert f"dev {word}" in tuned.err
        made = run("finalize", area, data)
        assert made.code == 0, made.err
        manifest = verify(releases / area)
        assert manifest["areas"] == AREAS
        assert manifest["metrics"]["test"]["studies"] == len(listed)
        if word == "AUC":
            assert list(manifest["metrics"]["test"]["auc_by_area"]) == AREAS
            assert f"a study of any of {', '.join(AREAS)}" in (releases / area / CARD).read_text()
        again = run("evaluate", f"--release={releases / area}", data, "--json")
        assert json.loads(again.out).pop("area") == area, again.err
        told = json.loads(again.out)
        assert told["studies"] == len(listed)
        answer = run("infer", f"--area={area}", f"--image={image}", "--json")
        assert json.loads(answer.out)["area"] in ([area] if area != "router" else AREAS)
        assert run("verify", releases / area).code == 0
    assert verify(releases / "multitask")["outputs"] == 3
    assert json.loads((releases / "router" / "bundle.json").read_text())["outputs"] == 2
    for name in ("MODEL_CARD.md", "report.html"):
        assert "abnormal" not in _told((releases / "router" / name).read_text())
    assert "Macro-F1" in (releases / "RESULTS.md").read_text()

    start = f"--set=pretrained={releases / 'ALL'}"
    refused = run("tune", "XR_WRIST", data, *QUICK, start, "--set=split.seed=2")
    assert (refused.code, "patients that would judge it" in refused.err) == (2, True)
    assert run("tune", "XR_WRIST", data, *QUICK, start).code == 0

    shown = run("infer", "--area=auto", f"--image={image}")
    assert (shown.code, "no release for XR_" in shown.out) == (0, True) or "abstain" in shown.out
    cost = run("evaluate", "--routed", data, "--json")
    assert cost.code == 0, cost.err
    told = json.loads(cost.out)
    # One release answers for both areas, so the router cannot cost anything.
    assert told["known"] == told["routed"]
    assert (told["cost"]["value"], len(told["fallbacks"])) == (0, 2)
    assert told["known"]["value"] == verify(releases / "ALL")["metrics"]["test"]["auc"]["value"]

    stored = Routing.from_json
    for least, word in ((0.0, "P(abnormal)"), (1.0, "abstain")):
        monkeypatch.setattr(route, "Routing", _Stored(stored, least))
        assert word in run("infer", "--area=auto", f"--image={image}").out
    monkeypatch.setattr(route, "Routing", _Stored(stored, 0.0))
    for name in ("ALL", "multitask"):
        shutil.rmtree(releases / name)
    refused = run("infer", "--area=auto", f"--image={image}")
    assert (refused.code, refused.out) == (2, "")
    assert "and none for ALL or multitask" in refused.err
    refused = run("explain", "--area=router", f"--image={image}")
    assert (refused.code, "a router" in refused.err) == (2, True)


class _Stored:
    """`Routing` whose stored confidence is another."""

    def __init__(self, stored: Callable[..., Routing], least: float) -> None:
        self.from_json = lambda manifest: replace(stored(manifest), confidence=least)


def _told(text: str) -> str:
    """What a router's page says, without the counts of studies that are abnormal by label."""
    return text.replace("abnormal studies", "")


def test_the_second_task_is_left_out_for_a_comparison(run: Run, phantoms: Path) -> None:
    data = f"--data={phantoms}"
    sets = ("--set=aux_weight=5.0", "--set=finetune.lr=3.0e-3")  # a difference in two epochs
    ran = run("ablate", "multitask", data, "--seeds=2", *TINY, *sets, "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert [len(found[side]) for side in ("with", "without", "seeds")] == [2, 2, 2]
    assert found["with"] != found["without"]
    mean = sum(found["with"]) / 2 - sum(found["without"]) / 2
    assert found["difference"]["value"] == pytest.approx(mean)
    assert found["difference"]["low"] <= mean <= found["difference"]["high"]
    assert run("ablate", "ALL", data, *TINY).code == 2
