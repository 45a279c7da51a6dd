"""The main job, from radiographs to an answer, by the commands a person types."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY, Ran, part_of

from mura_tune.api.search import make_searches
from mura_tune.release.release import load_release, verify_release

Run = Callable[..., Ran]


def fewer(phantoms: Path, root: Path) -> Path:
    """Another dataset: the same radiographs without those of one training patient in ten."""
    return part_of(
        phantoms,
        root,
        lambda path: "/valid/" in path or int(path.split("/patient")[1][:5]) % 10,
    )


def test_from_radiographs_to_an_answer(
    run: Run, phantoms: Path, finished: Path, trained_release: Path, tmp_path: Path
) -> None:
    """`mura tune` and `mura finalize` ran once for all tests: see `finished`."""
    data, release = f"--data={phantoms}", trained_release
    found = json.loads((finished / "tune.json").read_text())
    assert found["counts"]["finished"] == 2
    assert "trial   1" in (finished / "tune.err").read_text()
    best = json.loads(run("best", "XR_WRIST", "--json").out)
    assert best["best"] == found["best"]
    for trial in (best["best"], best["baseline"]):
        low, high = trial["interval"]
        assert low <= trial["score"] <= high
        assert trial["studies"] > 0

    (made,) = json.loads((finished / "finalize.json").read_text())
    manifest = verify_release(release).to_json()
    assert manifest["study"]["trial"] == found["best"]["number"]
    assert manifest["recipe"]["finetune"]["lr"] == found["best"]["recipe"]["finetune"]["lr"]
    assert manifest["recipe"]["finetune"]["epochs"] == 2  # the final phases, not the trial's
    assert "Not a medical device" in (release / "MODEL_CARD.md").read_text()
    counts = manifest["data"]["counts"]
    for part, split in (("dev", "dev"), ("test", "test")):
        figures = manifest["metrics"][split]
        assert figures["studies"] == counts[part]["studies"]
        assert figures["auc"]["low"] <= figures["auc"]["value"] <= figures["auc"]["high"]

    evaluated = run("evaluate", f"--release={release}", data, "--json")
    assert evaluated.code == 0, evaluated.err
    again = json.loads(evaluated.out)
    assert again.pop("area") == "XR_WRIST"
    stored = made["metrics"]["test"]
    assert (stored["uses_before"], again["uses_before"]) == (0, 1)
    assert {**again, "uses_before": 0} == stored

    study = next((phantoms / "valid" / "XR_WRIST").glob("*/study1_*"))
    views = [f"--image={path}" for path in sorted(study.glob("*.png"))]
    answer = run("infer", "--area=XR_WRIST", *views, "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    mean = sum(view["probability"] for view in told["views"]) / len(views)
    assert told["probability"] == pytest.approx(mean)
    assert told["abnormal"] == (told["probability"] >= manifest["threshold"]["value"])
    checked = run("verify", release, data, "--json")
    assert checked.code == 0, checked.err
    found = json.loads(checked.out)
    assert (found["whole"], found["data"]) == (True, True)
    assert found["apart"] < 1e-6
    assert f"{found['files']} files as released" in run("verify", release).out
    other = run("verify", release, f"--data={fewer(phantoms, tmp_path / 'fewer')}")
    assert other.code == 2
    assert "the data's fingerprint" in other.err


def test_an_answer_is_the_score_that_evaluation_counted(
    phantoms: Path, trained_release: Path, tmp_path: Path
) -> None:
    """Inference reads the file itself; evaluation read the cache: one preprocessing, one number."""
    import torch

    from mura_tune.data.prepare import open_dataset, prepare
    from mura_tune.reading.readers import Predictor
    from mura_tune.training.batches import load_split
    from mura_tune.training.fit import predict

    loaded = load_release(trained_release, torch.device("cpu"))
    split = loaded.manifest.search.read_config("test").split
    prepared = prepare(open_dataset(phantoms), "XR_WRIST", 32, split, tmp_path / "cache")
    part = load_split(prepared, "test", torch.device("cpu"))
    predictor = Predictor(trained_release, torch.device("cpu"))
    studies = predictor.decision.calibration.studies(predict(loaded.net, part), part)
    for name, score in list(zip(studies.names, studies.scores, strict=True))[:5]:
        paths = [phantoms / p for p in part.paths[part.studies == name]]
        assert predictor.predict(paths).probability == pytest.approx(score, abs=1e-6)


def test_what_comes_next_is_the_search_while_slots_are_open(
    trained_release: Path, phantoms: Path
) -> None:
    overrides = [word.removeprefix("--set=") for word in TINY]
    (search,) = make_searches(
        "XR_WRIST", overrides, data=phantoms, runs=trained_release.parents[1] / "runs"
    )
    outcome = search.result()
    done = outcome.counts["finished"] + outcome.counts["pruned"]
    assert search.with_trials(done).next_command(outcome).startswith("mura finalize XR_WRIST ")
    more = search.with_trials(done + 1).next_command(outcome)
    assert more.startswith("mura tune XR_WRIST ")
    assert f"--trials {done + 1} " in more


def test_finalize_without_an_area_releases_every_finished_study(
    run: Run, phantoms: Path, tmp_path: Path
) -> None:
    """From the stored recipe: nothing of the call that tuned is needed again, not even its --set,
    nor the area behind a search's name."""
    once = ("--trials=1", "--no-artifacts", *TINY)
    for area, name in (("XR_HAND", "XR_HAND"), ("XR_WRIST", "mine")):
        assert run("tune", area, f"--study={name}", f"--data={phantoms}", *once).code == 0
    other = fewer(phantoms, tmp_path / "fewer")
    assert run("tune", "XR_HAND", "--study=A", f"--data={other}", *once).code == 0
    done = run("finalize", f"--data={phantoms}")
    assert done.code == 2
    assert "A: search A: the dataset is not the one that was searched" in done.err
    assert "no release for A" in done.err.splitlines()[-1]
    table = done.out.partition("test, by study")[2].splitlines()[1:]
    assert [line.split()[0] for line in table] == ["XR_HAND", "mine"]
    made = [p.name for p in (tmp_path / "releases").iterdir() if p.is_dir()]
    assert sorted(made) == ["XR_HAND", "mine"]
    manifest = verify_release(tmp_path / "releases" / "mine").to_json()
    assert (manifest["area"], manifest["arch"], manifest["recipe"]["size"]) == (
        "XR_WRIST",
        "cnn",
        32,
    )


def test_old_scripts_read_three_lines(
    phantoms: Path, trained_release: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from mura_tune import console
    from mura_tune.cli.mura_infer import infer

    image = next(phantoms.glob("valid/XR_WRIST/*/*/image1.png"))
    call = [f"--image={image}", "--area=XR_WRIST", f"--ckpt={trained_release}"]
    answers = []
    for threshold in ("0", "1"):
        with pytest.raises(SystemExit):
            console.run_command(infer, "mura-infer", [*call, f"--threshold={threshold}"])
        lines = capfd.readouterr().out.splitlines()
        answers.append(dict(line.split("=") for line in lines))
    assert [list(a) for a in answers] == [["area", "prob_fracture", "pred"]] * 2
    assert [a["pred"] for a in answers] == ["1", "0"]
    assert 0 <= float(answers[0]["prob_fracture"]) <= 1


def test_every_report_is_one_json_document(run: Run, phantoms: Path) -> None:
    data = f"--data={phantoms}"
    for args in (
        ("check", data),
        ("check", data, "--index-only"),
        ("show", "XR_ELBOW"),
        ("cache", "XR_HAND", data, *TINY),
    ):
        ran = run(*args, "--json")
        assert ran.code == 0, ran.err
        assert isinstance(json.loads(ran.out), dict)


def test_pooled_is_one_model_for_all_areas_and_all_the_older_word(
    run: Run, phantoms: Path, tmp_path: Path
) -> None:
    data = f"--data={phantoms}"
    once = ("--trials=1", "--set=budget.confirm.top=0", "--no-artifacts", data, *TINY)
    tuned = run("tune", "pooled", *once, "--json")
    assert tuned.code == 0, tuned.err
    found = json.loads(tuned.out)
    assert (found["search"], found["study"], found["area"]) == ("pooled", "pooled", "ALL")
    again = run("tune", "ALL", "--search=pooled", *once, "--json")
    assert json.loads(again.out) == found, "the same search: nothing ran"
    assert run("best", "ALL").code == 2
    released = run("finalize", "pooled", data)
    assert released.code == 0, released.err
    assert json.loads((tmp_path / "releases/pooled/bundle.json").read_text())["area"] == "ALL"
    view = next((phantoms / "valid" / "XR_HAND").rglob("*.png"))
    for word in ("pooled", "ALL"):
        assert run("infer", "--area", word, "--image", view).out.startswith("ALL: P(abnormal)")


@pytest.mark.parametrize(
    "words", [(), ("XR_WRIST", "--every-area"), ("--every-area", "--search=x")]
)
def test_tune_wants_one_area_or_every_area(run: Run, words: tuple[str, ...]) -> None:
    refused = run("tune", *words)
    assert refused.code == 2
    assert refused.err.count("\n") == 1
