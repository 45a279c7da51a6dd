"""A table by the router and what it names: the answers of one study at a time, resumed, marked."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Ran
from numpy.typing import NDArray
from PIL import Image
from serving import server
from torch import Tensor
from untrained import CPU

from mura_tune.errors import InputError
from mura_tune.evaluation.decision import Decision
from mura_tune.evaluation.routing import RouterDecision
from mura_tune.imaging.images import read_image, resize_to_square
from mura_tune.metrics.areas import softmax
from mura_tune.metrics.estimates import Floats
from mura_tune.networks.factory import build_network
from mura_tune.reading.answer_studies import answer_all
from mura_tune.reading.answers import Answer, AreaAnswer
from mura_tune.reading.locate import release_for
from mura_tune.reading.readers import Predictor, Router, load_reader
from mura_tune.reading.routed import RoutedReader
from mura_tune.reading.studies import StudyFiles, StudyViews, find_studies
from mura_tune.release.release import current_preprocessing, save_release
from mura_tune.release_format.manifest import parse_manifest
from mura_tune.release_format.schema import to_plain
from mura_tune.training.batches import to_input
from mura_tune.training.tasks import MULTI_TASK, ROUTER_TASK, Task

AREAS = ["XR_A", "XR_B", "XR_C"]


@pytest.fixture
def studies(tmp_path: Path) -> list[StudyFiles]:
    """Thirty studies of one or two views, from dark to bright; one view is no picture."""
    rng = np.random.default_rng(0)
    for number in range(30):
        folder = tmp_path / "studies" / f"study{number:02d}"
        folder.mkdir(parents=True)
        for view in range(1 + number % 2):
            pixels = rng.integers(0, 9 * (number + 1), (50, 40)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"image{view}.png")
    (tmp_path / "studies" / "study07" / "image1.png").write_bytes(b"no picture")
    return find_studies(tmp_path / "studies")


def views(studies: list[StudyFiles], size: int) -> Tensor:
    """The first view of each study, as a network is given it."""
    pixels = np.stack([resize_to_square(read_image(one.images[0]), size) for one in studies])
    return to_input(torch.from_numpy(pixels), CPU)


def release(
    folder: Path, seed: int, size: int, studies: list[StudyFiles], task: Task | None
) -> Path:
    """A network that nobody trained, whose answers differ from study to study."""
    outputs = task.outputs(3) if task else 1
    net = build_network(
        "cnn", size=size, seed=seed, outputs=outputs, head=task.head if task else None
    )
    x = views(studies, size)
    with torch.no_grad():
        logits = net.eval()(x)
        head: Any = net.body.fc
        if task is not MULTI_TASK:
            head.bias.copy_(-2 * (logits - head.bias).mean(0) / logits.std(0).mean())
            head.weight.mul_(2 / logits.std(0).mean())
        logits = net(x)
    points = {"max_youden": {"threshold": 0.5, "chosen": "by nobody"}}
    band = {"low": 0.4, "high": 0.6, "share": 0.0, "error": 0.0, "error_without": 0.0}
    told: dict[str, Any] = {
        "calibration": {"temperature": 0.5, "offset": 0.01},
        "operating_points": points,
        "recommended": "max_youden",
        "abstain": band,
    }
    if task is ROUTER_TASK:
        sure = float(np.quantile(softmax(logits.double().numpy()).max(1), 0.3))
        told = to_plain(RouterDecision(1.0, sure, 0.3, 0.0, 0.0).entries())
    manifest = {
        "schema": 2,
        "area": folder.name,
        "arch": "cnn",
        "outputs": outputs,
        "recipe_digest": f"{seed:012}",
        "preprocessing": current_preprocessing(size).to_json(),
        "task": task.name if task else "abnormality",
        "areas": [folder.name] if folder.name in AREAS else AREAS,
        **told,
    }
    save_release(folder, net, parse_manifest(manifest, "for a test"), {})
    return folder


@pytest.fixture
def releases(tmp_path: Path, studies: list[StudyFiles]) -> Path:
    """A router, XR_A at another size, ALL in the place of the others."""
    root = tmp_path / "releases"
    good = [one for one in studies if one.name != "study07"]
    release(root / "router", 1, 32, good, ROUTER_TASK)
    release(root / "XR_A", 2, 48, good, None)
    release(root / "ALL", 3, 32, good, None)
    return root


def rows_of(out: Path) -> list[dict[str, str]]:
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_row_is_what_the_router_and_its_release_say_of_that_study_alone(
    studies: list[StudyFiles], releases: Path, tmp_path: Path
) -> None:
    out = tmp_path / "answers.csv"
    chain = RoutedReader(releases.joinpath, CPU)
    assert [line.partition(": ")[2] for line in chain.open_all()] == [
        f"no release for {area}; ALL answers in its place" for area in ("XR_B", "XR_C")
    ]
    said: list[str] = []
    done = answer_all(chain, studies, tmp_path / "studies", out, said.append)
    assert (done.answered, done.unreadable, len(said)) == (29, ("study07",), 3)
    rows = rows_of(out)
    assert [row["study"] for row in rows] == [one.name for one in studies]
    kinds = set()
    for row, one in zip(rows, studies, strict=True):
        if row["error"]:
            assert row["area"] == row["confidence"] == row["probability"] == row["release"] == ""
            continue
        alone = RoutedReader(releases.joinpath, CPU).predict(one.images)
        assert (row["area"], int(row["views"])) == (alone.route.area, len(one.images))
        assert float(row["confidence"]) == pytest.approx(alone.route.confidence, abs=1e-5)
        if alone.answer is None:
            assert (row["probability"], row["abnormal"], row["abstain"]) == ("", "", "true")
            kinds.add("abstain")
            continue
        assert float(row["probability"]) == pytest.approx(alone.answer.probability, abs=1e-5)
        assert row["abstain"] == str(alone.answer.abstain).lower()
        assert row["release"].split()[0] == Path(alone.answer.release).name
        kinds.add(row["release"].split()[0])
    assert kinds == {"abstain", "XR_A", "ALL"}  # or the test has seen too little


def test_a_stopped_call_goes_on_to_the_same_table(
    studies: list[StudyFiles], releases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole.json", tmp_path / "out.json"
    answer_all(RoutedReader(releases.joinpath, CPU), studies, tmp_path / "studies", whole, print)
    chain, seen = RoutedReader(releases.joinpath, CPU), []
    real = chain.router.read

    def stopping(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], Floats | None]:
        if seen:
            raise KeyboardInterrupt
        seen.append(len(pixels))
        return real(pixels)

    monkeypatch.setattr(chain.router, "read", stopping)
    with pytest.raises(KeyboardInterrupt):
        answer_all(chain, studies, tmp_path / "studies", out, print)
    done = answer_all(
        RoutedReader(releases.joinpath, CPU), studies, tmp_path / "studies", out, print
    )
    assert 5 < done.before < 29
    assert out.read_text() == whole.read_text()

    release(releases / "XR_A", 4, 48, studies[:5], None)  # another one in its place
    with pytest.raises(InputError, match=r"its rows are by .*XR_A .*; choose another --out"):
        answer_all(RoutedReader(releases.joinpath, CPU), studies, tmp_path / "studies", out, print)
    with pytest.raises(InputError, match="not written by this command"):
        answer_all(Router(releases / "router", CPU), studies, tmp_path / "studies", out, print)


def test_studies_of_an_area_without_a_release_are_marked_until_there_is_one(
    studies: list[StudyFiles], releases: Path, run: Callable[..., Ran], tmp_path: Path
) -> None:
    (releases / "ALL").rename(tmp_path / "aside")
    out = tmp_path / "answers.csv"
    call = ("infer", tmp_path / "studies", "--area=auto", f"--out={out}")
    ran = run(*call)
    assert ran.code == 0, ran.err
    assert "of an area without a release, marked" in ran.out
    left = [row for row in rows_of(out) if "no release for XR_" in row["error"]]
    assert left
    assert all(row["probability"] == row["release"] == "" and row["area"] for row in left)
    (tmp_path / "aside").rename(releases / "ALL")
    assert f": {len(left)} studies answered" in run(*call).out
    assert [row["study"] for row in rows_of(out) if row["error"]] == ["study07"]
    shutil.rmtree(releases / "router")
    refused = run(*call)
    assert (refused.code, refused.out) == (2, "")
    assert "router: no router to ask for the area" in refused.err


def test_a_router_and_a_multi_task_release_name_the_area_in_their_tables(
    studies: list[StudyFiles], releases: Path, run: Callable[..., Ran], tmp_path: Path
) -> None:
    out = tmp_path / "areas.csv"
    ran = run("infer", tmp_path / "studies", "--area=router", f"--out={out}")
    assert ran.code == 0, ran.err
    router = Router(releases / "router", CPU)
    for row, one in list(zip(rows_of(out), studies, strict=True))[:5]:
        alone = router.predict(one.images)
        assert (row["area"], row["abstain"]) == (alone.area, str(alone.abstain).lower())
    release(releases / "multitask", 5, 32, studies[:5], MULTI_TASK)
    predictor = Predictor(releases / "multitask", CPU)
    assert Decision.from_manifest(predictor.release.manifest).threshold == 0.5
    answer_all(predictor, studies[:5], tmp_path / "studies", out.with_name("both.csv"), print)
    for row, one in zip(rows_of(out.with_name("both.csv")), studies[:5], strict=True):
        x = torch.cat(
            [
                to_input(torch.from_numpy(resize_to_square(read_image(p), 32))[None], CPU)
                for p in one.images
            ]
        )
        with torch.inference_mode():
            logits = predictor.release.net(x)
        assert row["area"] == AREAS[int(logits[:, 1:].mean(0).argmax())]
        told = predictor.predict(one.images)
        assert f"looks like {row['area']}" in str(told)
        assert float(row["probability"]) == pytest.approx(told.probability, abs=1e-6)


def test_a_router_and_what_it_names_come_from_a_server(
    studies: list[StudyFiles],
    releases: Path,
    run: Callable[..., Ran],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    there = releases.rename(tmp_path / "there")
    here, away = tmp_path / "here.json", tmp_path / "away.json"
    call = ("infer", tmp_path / "studies", "--area=auto")
    assert run(*call, f"--releases={there}", f"--out={here}").code == 0
    with server(there) as url:
        ran = run(*call, f"--base-url={url}", f"--out={away}")
        assert ran.code == 0, ran.err
        assert "XR_B: no release for XR_B; ALL answers in its place" in ran.err
        assert away.read_text() == here.read_text()
        kinds = set()
        for one in studies[::3]:  # until there was one of each kind
            if len(kinds) == 2:
                break
            views = [f"--image={path}" for path in one.images]
            out = tmp_path / f"{one.name}.png"
            ran = run("explain", "--area=auto", f"--base-url={url}", *views, f"--out={out}")
            assert ran.code == 0, ran.err
            abstains = ran.out.startswith("abstain: ")
            assert out.is_file() == ("P(abnormal)" in ran.out) == (not abstains)
            kinds.add(abstains)
        assert kinds == {True, False}
        (there / "ALL").rename(tmp_path / "aside")
        assert run("infer", *views, "--area=XR_B", f"--base-url={url}").code == 2
    refused = run("explain", "--area=auto", "--release=there", *views)
    assert (refused.code, "leave --release out" in refused.err) == (2, True)


def test_a_release_for_all_areas_answers_for_those_that_it_was_trained_on(
    studies: list[StudyFiles], releases: Path
) -> None:
    release(releases / "multitask", 5, 32, studies[:5], MULTI_TASK)
    manifest = releases / "ALL" / "bundle.json"
    stored = json.loads(manifest.read_text())
    del stored["areas"]  # as an early version wrote it
    two = {"areas": ["XR_A", "XR_B"]}
    for known, answering in (({}, ["ALL", "ALL"]), (two, ["ALL", "multitask"])):
        manifest.write_text(json.dumps(stored | known))
        names = [release_for(releases.joinpath, area)[0].name for area in ("XR_B", "XR_C")]
        assert names == answering
    shutil.rmtree(releases / "multitask")
    with pytest.raises(InputError, match="no release for XR_C, and none for pooled"):
        release_for(releases.joinpath, "XR_C")


def test_a_release_is_read_by_the_reader_of_its_task(
    studies: list[StudyFiles], releases: Path
) -> None:
    images = [str(image) for image in studies[1].images]
    reader = load_reader(str(releases / "XR_A"), threshold=0.25)
    answer = reader.predict(images)
    assert isinstance(answer, Answer)
    assert (answer.threshold, answer.operating_point, answer.abstain) == (0.25, "given", False)
    assert answer == Predictor(releases / "XR_A", threshold=0.25).predict(studies[1].images)
    assert str(answer).startswith(f"XR_A: P(abnormal) = {answer.probability:.3f}, ")
    assert [view["image"] for view in answer.to_json()["views"]] == images
    area = load_reader(releases / "router").predict(images)
    assert isinstance(area, AreaAnswer)
    assert area == Router(releases / "router").predict(studies[1].images)
    with pytest.raises(InputError, match="a router, which has no probability"):
        load_reader(releases / "router", threshold=0.25)
    with pytest.raises(InputError, match="no release there"):
        load_reader(releases / "XR_B")


def test_a_study_is_one_view_or_several_and_never_none(
    studies: list[StudyFiles], releases: Path
) -> None:
    reader = load_reader(releases / "XR_A")
    (image,) = studies[0].images
    assert reader.predict(image) == reader.predict(str(image)) == reader.predict([image])
    with pytest.raises(InputError, match="at least one view"):
        reader.predict([])


def test_a_study_has_the_same_answer_alone_and_among_others(
    studies: list[StudyFiles], releases: Path
) -> None:
    """A single study is a batch of one; sums over larger batches may differ in the last digits."""
    readable = [study for study in studies if study.name != "study07"]
    for reader in (
        Predictor(releases / "XR_A"),
        Router(releases / "router"),
        RoutedReader(releases.joinpath),
    ):
        together = reader.answer([StudyViews(study) for study in readable])
        for study, answer in zip(readable, together, strict=True):
            alone = reader.predict(study.images)
            for column, value in alone.cells().items():
                same = pytest.approx(value, abs=1e-5) if isinstance(value, float) else value
                assert answer.cells()[column] == same
