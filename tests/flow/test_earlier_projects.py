"""What the documentation says that earlier projects do, here: each line of it, at toy size, and
every verb on the releases that it makes."""

import csv
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import TINY, Ran, part_of

from mura_tune import console
from mura_tune.cli.mura_infer import infer
from mura_tune.evaluation.routing import RouterDecision
from mura_tune.reading import readers
from mura_tune.release.release import verify_release
from mura_tune.release_format.manifest import MANIFEST, RouterManifest, read_manifest
from mura_tune.report.router import render_router_card

Run = Callable[..., Ran]
PAGE = Path(__file__).parents[2] / "docs" / "guide" / "earlier-projects.md"
QUICK = [
    *TINY,
    "--set=head.epochs=0",
    "--set=finetune.epochs=1",
    "--set=final.head.epochs=0",
    "--set=final.finetune.epochs=1",
    "--set=budget.confirm.top=0",
    "--trials=1",
    "--no-artifacts",
    "--feature-gb=0",
]
ROWS = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if "--image A.png" in line]
LINES = [line for row in ROWS for line in re.findall(r"`(mura tune.*?)`", row) if row[0] == "|"]
AREAS = ["XR_HAND", "XR_WRIST"]


@pytest.fixture(scope="module")
def few(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The phantoms of every third training patient: what is tested here is not how well it learns.

    With those of valid, all are still judged.
    """
    return part_of(
        phantoms,
        tmp_path_factory.mktemp("few") / "phantoms",
        lambda path: "/valid/" in path or int(path.split("/patient")[1][:5]) % 3 == 0,
    )


def follow(run: Run, command: str, data: Path, capfd: pytest.CaptureFixture[str]) -> list[str]:
    """Run the parts of a line on this data; what each said."""
    image, said = next(data.glob("valid/XR_WRIST/*/*/image1.png")), []
    for part in command.split("&&"):
        program, *args = shlex.split(part.replace("A.png", str(image)))
        if program == "mura-infer":
            with pytest.raises(SystemExit) as end:
                console.run_command(infer, "mura-infer", args)
            assert end.value.code == 0
            said.append(capfd.readouterr().out)
            continue
        if args[0] == "tune":  # the toy's size first: what the line itself sets is what counts
            args = ["tune", *QUICK, *args[1:]]
        ran = run(*args, *([] if args[0] == "infer" else [f"--data={data}"]))
        assert ran.code == 0, ran.err
        said.append(ran.out)
    return said


def made(releases: Path, arch: str, **tasks: str) -> dict[str, dict[str, Any]]:
    """What the releases say, which are all of one network and of these tasks."""
    found = {
        path.parent.name: verify_release(path.parent).to_json()
        for path in releases.glob("*/bundle.json")
    }
    assert {name: manifest["task"] for name, manifest in found.items()} == tasks
    assert {manifest["arch"] for manifest in found.values()} == {arch}
    return found


def again(run: Run, release: Path, data: Path) -> dict[str, Any]:
    """What evaluate, report and verify make of a release: its figures as they were."""
    ran = run("evaluate", f"--release={release}", f"--data={data}", "--json")
    told: dict[str, Any] = json.loads(ran.out)
    assert told.pop("area") == release.name
    stored = verify_release(release).to_json()["metrics"]["test"]
    assert told.pop("uses_before") > stored.pop("uses_before")
    assert told == stored
    listed = pd.read_csv(data / "valid_labeled_studies.csv", header=None)
    assert told["studies"] == len(listed)
    assert run("report", f"--release={release}", f"--data={data}", "--cases=0").code == 0
    assert run("verify", release, f"--data={data}").code == 0
    return told


def refused(ran: Ran, *words: str) -> None:
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1), ran.err
    assert all(word in ran.err for word in words), ran.err


def test_there_is_a_line_for_each_project() -> None:
    assert len(LINES) == len(ROWS) == 4


def test_one_model_for_all_areas(
    run: Run, capfd: pytest.CaptureFixture[str], few: Path, tmp_path: Path
) -> None:
    data, releases = few, tmp_path / "releases"
    *_, answer = follow(run, LINES[0], data, capfd)
    assert answer.startswith("ALL: P(abnormal) = ")
    manifest = made(releases, "resnet18", ALL="abnormality")["ALL"]
    assert [manifest["recipe"][key] for key in ("monitor", "schedule")] == ["f1", "plateau"]
    told = again(run, releases / "ALL", data)
    assert list(told["auc_by_area"]) == AREAS
    card = " ".join((releases / "ALL" / "MODEL_CARD.md").read_text().split())
    assert f"of any of {', '.join(AREAS)} is *abnormal*" in card
    assert "AUC within an area" in (releases / "ALL" / "report.html").read_text()
    from_it = [
        "tune",
        "XR_WRIST",
        f"--data={data}",
        *QUICK,
        "--set=arch=resnet18",
        f"--set=pretrained={releases / 'ALL'}",
    ]
    refused(run(*from_it, "--set=split.seed=2"), "patients that would judge it")
    assert run(*from_it).code == 0


def test_a_model_for_every_area(
    run: Run, capfd: pytest.CaptureFixture[str], few: Path, tmp_path: Path
) -> None:
    data = part_of(few, tmp_path / "phantoms", lambda path: "/XR_WRIST/" in path)
    *_, answer = follow(run, LINES[1], data, capfd)
    assert answer.startswith("area=XR_WRIST\nprob_fracture=0.")
    made(tmp_path / "releases", "densenet121", XR_WRIST="abnormality")


def test_the_body_part_first_then_its_own_model(
    run: Run,
    capfd: pytest.CaptureFixture[str],
    few: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, releases = few, tmp_path / "releases"
    router = releases / "router"
    *_, answer = follow(run, LINES[2], data, capfd)
    assert re.search(r"^XR_\w+: P\(abnormal\)|^abstain", answer, re.MULTILINE)
    made(releases, "resnet18", XR_HAND="abnormality", XR_WRIST="abnormality", router="part")
    told = again(run, router, data)
    assert set(told["recall"]) == set(told["areas"]) == set(AREAS)
    for name in ("MODEL_CARD.md", "report.html"):  # beside the counts of the data
        assert "abnormal" not in (router / name).read_text().replace("abnormal studies", "")
    assert "Macro-F1" in (releases / "RESULTS.md").read_text()
    two = read_manifest(router / MANIFEST).changed(members=("a.safetensors", "b.safetensors"))
    assert isinstance(two, RouterManifest)
    assert "The mean of the logits of 2 `resnet18` networks" in render_router_card(two)

    cost = json.loads(run("evaluate", "--routed", f"--data={data}", "--json").out)
    assert (cost["studies"], cost["fallbacks"]) == (told["studies"], [])
    assert cost["cost"]["value"] == pytest.approx(cost["routed"]["value"] - cost["known"]["value"])
    out = tmp_path / "answers.csv"
    assert run("infer", data / "valid", "--area=auto", f"--out={out}").code == 0
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert (len(rows), {row["area"] for row in rows} <= set(AREAS)) == (told["studies"], True)
    unsure, refused_there = told["abstain"]["studies"], told["unfamiliar"]["studies"]
    assert unsure <= sum(row["probability"] == "" for row in rows) <= unsure + refused_there
    unfamiliar = sum(row["like_training"] == "false" for row in rows)
    assert cost["unfamiliar"]["studies"] == unfamiliar

    views = [f"--image={path}" for path in sorted(data.glob("valid/XR_HAND/*/*/*.png"))[:2]]
    for least, word in ((0.0, "P(abnormal)"), (1.0, "abstain")):
        with monkeypatch.context() as patched:
            patched.setattr(readers, "RouterDecision", _Stored(least))
            assert word in run("infer", "--area=auto", *views).out
    drawn = run(
        "explain", "--area=router", *views, f"--out={tmp_path / 'a.png'}", "--deletion", "--json"
    )
    seen = json.loads(drawn.out)
    assert (seen["area"] in AREAS, len(seen["views"])) == (True, 2)
    assert all(0 <= view["deletion"] <= 1 for view in seen["views"])
    alike = json.loads(run("compare", router, router, f"--data={data}", "--json").out)
    assert alike["differences"]["accuracy"]["value"] == 0
    refused(run("compare", router, releases / "XR_HAND", f"--data={data}"), "two of one kind")
    refused(run("evaluate", f"--release={router}", "--layout=folders"), "a router")
    nowhere = f"--releases={tmp_path / 'nowhere'}"
    refused(run("infer", "--area=auto", nowhere, *views), "no router to ask", "mura tune router")
    refused(run("infer", "--area=router", "--threshold=0.5", *views), "a router has none")
    refused(run("infer", f"--release={router}", *views), "a router", "--area auto")
    refused(run("ablate", "router", f"--data={data}"), "no aux_weight")


def test_the_body_part_as_a_second_task(
    run: Run, capfd: pytest.CaptureFixture[str], few: Path, tmp_path: Path
) -> None:
    data, releases = few, tmp_path / "releases"
    *_, answer = follow(run, LINES[3], data, capfd)
    assert re.match(r"multitask: P\(abnormal\) = .*\n  looks like XR_(HAND|WRIST)\n", answer)
    manifest = made(releases, "efficientnet_b0", multitask="multitask")["multitask"]
    assert (manifest["outputs"], manifest["recipe"]["loss"]) == (3, "focal")
    told = again(run, releases / "multitask", data)["body_part"]
    assert told["accuracy"]["studies"] == sum(map(sum, told["confusion"]))
    right = sum(row[i] for i, row in enumerate(told["confusion"]))
    assert told["accuracy"]["value"] == pytest.approx(right / told["accuracy"]["studies"])
    shown = f"{told['accuracy']['value']:.3f}"
    card = (releases / "multitask" / "MODEL_CARD.md").read_text()
    assert re.search(rf"Body part: Accuracy \|.*\| {shown} \[", card)
    assert f">{shown} <i>[" in (releases / "multitask" / "report.html").read_text()
    one = releases / "multitask"
    both = json.loads(run("compare", one, one, f"--data={data}", "--json").out)["differences"]
    assert both["part accuracy"]["value"] == both["accuracy"]["value"] == 0


class _Stored:
    """`RouterDecision` whose stored confidence is another."""

    def __init__(self, least: float) -> None:
        stored = RouterDecision.from_manifest
        self.from_manifest = lambda manifest: replace(stored(manifest), confidence=least)
