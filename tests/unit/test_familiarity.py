"""A study that is not like the training radiographs is refused, and only then."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Ran
from numpy.typing import NDArray
from PIL import Image
from untrained import CPU, manifest_of

from mura_tune.data.prepare import Prepared
from mura_tune.errors import InputError
from mura_tune.evaluation.familiarity import (
    FILE,
    UNFAMILIAR,
    FamiliarityRule,
    FoldFeatures,
    choose_rule,
    count_unfamiliar,
    find_unfamiliar,
    measure_depths,
    measure_features,
    measure_split,
    predict_with_distances,
    sample_rows,
)
from mura_tune.evaluation.picture_rule import MOST_VIEWS, PictureRule
from mura_tune.metrics.distances import join_distances
from mura_tune.networks.factory import build_network
from mura_tune.networks.features import answer_with_features, describe_pictures
from mura_tune.networks.network import Model, join_members
from mura_tune.reading.answers import Familiarity
from mura_tune.reading.readers import Predictor
from mura_tune.reading.routed import RoutedReader
from mura_tune.release.release import load_release, save_release
from mura_tune.release_format import checksums
from mura_tune.release_format.manifest import MANIFEST, parse_manifest
from mura_tune.training.batches import Split, load_split, to_input
from mura_tune.training.fit import predict

NOISE = np.random.default_rng(0).integers(0, 256, (40, 40)).astype(np.uint8)


@pytest.fixture(scope="module")
def splits(prepared: Prepared) -> dict[str, Split]:
    return {name: load_split(prepared, name, CPU) for name in ("train", "dev", "test")}


@pytest.fixture(scope="module")
def net() -> Model:
    return build_network("cnn", size=32, seed=3).eval()


@pytest.fixture(scope="module")
def rule(net: Model, splits: dict[str, Split], pictures_rule: PictureRule) -> FamiliarityRule:
    return rule_of(net, splits, pictures_rule)


def rule_of(
    net: Model, splits: dict[str, Split], pictures_rule: PictureRule | None
) -> FamiliarityRule:
    features = measure_features(net, splits["train"], splits["dev"])
    chosen = choose_rule([features], splits["dev"].studies, pictures_rule)
    assert chosen is not None
    return chosen


def with_pixels(split: Split, row: int, pixels: NDArray[np.uint8]) -> Split:
    changed = split.pixels[:].clone()
    changed[row] = torch.from_numpy(pixels[: changed.shape[1], : changed.shape[2]])
    return replace(split, pixels=changed)


def test_one_view_of_noise_makes_its_study_one_that_is_refused(
    net: Model, rule: FamiliarityRule, splits: dict[str, Split]
) -> None:
    test = splits["test"]
    logits, distances = predict_with_distances(net, test, rule)
    assert torch.equal(logits, predict(net, test))
    before = count_unfamiliar(distances, test, rule)
    assert before is not None
    assert before.share.low <= 0.05
    assert before.share.studies == len(set(test.studies)) > 5
    assert before.share.patients == len(set(test.patients))
    _, noisy = predict_with_distances(net, with_pixels(test, 0, NOISE), rule)
    after = count_unfamiliar(noisy, test, rule)
    assert after is not None
    assert after.studies == before.studies + 1
    assert after.share.value == after.studies / after.share.studies
    assert after.share.low < after.share.value < after.share.high


def test_a_network_that_sees_nothing_still_has_noise_and_an_empty_frame_refused(
    splits: dict[str, Split], pictures_rule: PictureRule
) -> None:
    blind = build_network("cnn", size=32, seed=3).eval()
    with torch.no_grad():
        next(blind.parameters()).zero_()
    test = splits["test"]
    both, features = (rule_of(blind, splits, one) for one in (pictures_rule, None))
    before = find_unfamiliar(predict_with_distances(blind, test, both)[1], test, both)
    changes = np.unique(test.studies) == test.studies[0]
    assert not before[changes].any()
    for pixels in (NOISE, np.zeros_like(NOISE), np.full_like(NOISE, 128)):
        changed = with_pixels(test, 0, pixels)
        _, distances = predict_with_distances(blind, changed, features)
        assert not find_unfamiliar(distances, changed, features).any()
        _, distances = predict_with_distances(blind, changed, both)
        np.testing.assert_array_equal(find_unfamiliar(distances, changed, both), before | changes)


def test_a_release_without_pictures_answers_as_it_always_did(
    net: Model, rule: FamiliarityRule, splits: dict[str, Split]
) -> None:
    older = FamiliarityRule.from_bytes(replace(rule, pictures=None).to_bytes(), rule.entry(), FILE)
    assert older.pictures is None
    _, distances = predict_with_distances(net, splits["test"], older)
    own = measure_split(net, rule.depths, splits["test"])
    np.testing.assert_array_equal(distances, join_distances(own, rule.scales))


def test_a_picture_at_its_bound_is_as_far_as_features_at_theirs(
    net: Model, rule: FamiliarityRule, splits: dict[str, Split]
) -> None:
    x_nchw = to_input(splits["test"].pixels[:4], CPU)
    with torch.inference_mode():
        _, features = answer_with_features(net, x_nchw)
    assert rule.pictures is not None
    bound = float(rule.pictures.distribution.measure(describe_pictures(x_nchw))[0])
    near = replace(rule.pictures, bound=bound)
    distances = replace(rule, pictures=near).measure(x_nchw, features)
    own = join_distances(measure_depths(rule.depths, features), rule.scales)
    assert distances[0] == max(rule.threshold, own[0])
    assert (distances >= own).all()


def test_a_distance_that_is_no_number_is_refused(
    rule: FamiliarityRule, splits: dict[str, Split]
) -> None:
    distances = np.zeros(len(splits["test"]))
    distances[0] = np.nan
    counted = count_unfamiliar(distances, splits["test"], rule)
    assert counted is not None
    assert counted.studies == 1


def test_a_release_without_a_rule_refuses_nothing(net: Model, splits: dict[str, Split]) -> None:
    logits, distances = predict_with_distances(net, splits["test"], None)
    assert torch.equal(logits, predict(net, splits["test"]))
    assert distances is None
    assert count_unfamiliar(distances, splits["test"], None) is None


def test_dev_is_refused_as_rarely_as_the_rule_says(
    net: Model, rule: FamiliarityRule, splits: dict[str, Split]
) -> None:
    _, distances = predict_with_distances(net, splits["dev"], rule)
    counted = count_unfamiliar(distances, splits["dev"], rule)
    assert counted is not None
    assert counted.studies == 0
    assert rule.studies == counted.share.studies
    by_pictures = rule.pictures.share if rule.pictures else 0
    assert rule.share == pytest.approx(1 / (rule.studies + 1) + by_pictures)
    assert f"by features with a probability of {1 / (rule.studies + 1):.3f}" in rule.entry().rule
    studies = rule.pictures.studies if rule.pictures else 0
    assert f"one of about {by_pictures:.3f}: {studies} studies of train and" in rule.entry().rule
    alone = replace(rule, pictures=None, share=rule.share - by_pictures).entry().rule
    assert alone.startswith("a new study like those of dev lies beyond it with a probability of ")
    assert "picture" not in alone


def test_a_rule_is_read_as_it_was_written(
    net: Model, rule: FamiliarityRule, splits: dict[str, Split]
) -> None:
    read = FamiliarityRule.from_bytes(rule.to_bytes(), rule.entry(), FILE)
    assert read.entry() == rule.entry()
    assert (read.threshold, read.share, read.studies, read.views) == (
        *(rule.threshold, rule.share, rule.studies, rule.views),
    )
    _, before = predict_with_distances(net, splits["test"], rule)
    _, after = predict_with_distances(net, splits["test"], read)
    np.testing.assert_array_equal(before, after)


def test_members_of_an_ensemble_have_one_rule(splits: dict[str, Split]) -> None:
    nets = [build_network("cnn", size=32, seed=seed).eval() for seed in (0, 1)]
    each = [measure_features(one, splits["train"], splits["dev"]) for one in nets]
    chosen = choose_rule(each, splits["dev"].studies, None)
    assert chosen is not None
    _, distances = predict_with_distances(join_members(nets), splits["dev"], chosen)
    assert distances is not None
    np.testing.assert_allclose(distances.max(), chosen.threshold, rtol=1e-6)


def test_folds_measure_patients_that_their_network_did_not_know(splits: dict[str, Split]) -> None:
    everyone = splits["train"]
    patients = np.unique(everyone.patients)
    folds = FoldFeatures(everyone)
    for seed in (0, 1):
        out = np.isin(everyone.patients, patients[seed::2])
        own = build_network("cnn", size=32, seed=seed).eval()
        train, dev = (everyone.take(np.flatnonzero(rows)) for rows in (~out, out))
        folds.add(own, train, dev)
        alone = measure_features(own, train, dev).distances
        last = build_network("cnn", size=32, seed=2).eval()
        if seed:
            joined = folds.join(last)
            np.testing.assert_array_equal(joined.distances[out], alone)
            assert np.isfinite(joined.distances).all()
            assert joined.views == len(everyone)
            assert choose_rule([joined], everyone.studies, None) is not None


def test_too_few_views_give_no_rule(net: Model, splits: dict[str, Split]) -> None:
    few = splits["train"].take(np.arange(5))
    features = measure_features(net, few, splits["dev"])
    assert choose_rule([features], splits["dev"].studies, None) is None


def test_a_large_train_split_is_sampled_evenly() -> None:
    rows = sample_rows(10 * MOST_VIEWS)
    assert len(rows) == MOST_VIEWS
    assert rows[0] == 0
    assert rows[-1] == 10 * MOST_VIEWS - 1
    np.testing.assert_array_equal(sample_rows(7), np.arange(7))


# ---- a release with one ----


def save(folder: Path, net: Model, rule: FamiliarityRule | None, **changes: Any) -> Path:
    """A release of the small network, which nobody trained."""
    entry = None if rule is None else rule.entry()
    manifest = manifest_of().changed(area=folder.name, familiarity=entry)
    if changes:
        plain = {key: value for key, value in manifest.to_json().items() if key != "abstain"}
        manifest = parse_manifest(plain | changes, "for a test")
    save_release(folder, net, manifest, {}, rule)
    return folder


@pytest.fixture
def pictures(phantoms: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A phantom wrist and noise."""
    noise = tmp_path / "noise.png"
    Image.fromarray(NOISE).save(noise)
    return sorted(phantoms.glob("valid/XR_WRIST/*/*/image1.png"))[0], noise


def test_an_answer_says_what_is_not_like_the_training_radiographs(
    net: Model, rule: FamiliarityRule, pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    wrist, noise = pictures
    reader = Predictor(save(tmp_path / "XR_TEST", net, rule))
    alike, both = reader.predict(wrist), reader.predict([wrist, noise])
    assert alike.familiarity is not None
    assert alike.familiarity.like_training
    assert not alike.abstain
    assert UNFAMILIAR not in str(alike) + alike.brief()
    assert both.familiarity is not None
    assert not both.familiarity.like_training
    assert both.abstain
    assert both.familiarity.distance == max(view.distance or 0 for view in both.views)
    lines = str(both).splitlines()
    assert lines[0].startswith(f"XR_TEST: abstain: {UNFAMILIAR} (distance ")
    assert lines[-2].endswith(str(wrist))
    assert lines[-1].endswith(UNFAMILIAR)
    assert UNFAMILIAR in both.brief()
    document = json.loads(json.dumps(both.to_json()))
    assert document["familiarity"] == {
        "distance": both.familiarity.distance,
        "threshold": rule.threshold,
        "like_training": False,
    }
    overruled = Predictor(tmp_path / "XR_TEST", threshold=0.9).predict(noise)
    assert overruled.abstain  # an operating point does not make noise a radiograph


def test_an_older_release_says_nothing(
    net: Model, pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    reader = Predictor(save(tmp_path / "XR_TEST", net, None))
    answer = reader.predict(pictures[1])
    assert answer.familiarity is None
    assert not answer.abstain
    document = answer.to_json()
    assert "familiarity" not in document
    assert "distance" not in document["views"][0]
    assert not {"distance", "like_training"} & set(reader.columns)


def test_a_table_has_the_distance_and_is_answered_again_where_it_does_not_fit(
    net: Model,
    rule: FamiliarityRule,
    pictures: tuple[Path, Path],
    tmp_path: Path,
    run: Callable[..., Ran],
) -> None:
    folder, out = tmp_path / "studies", tmp_path / "answers.csv"
    for picture in pictures:
        (folder / picture.stem).mkdir(parents=True)
        (folder / picture.stem / "1.png").write_bytes(picture.read_bytes())
    release = save(tmp_path / "releases" / "XR_TEST", net, rule)
    call = ("infer", folder, f"--release={release}", f"--out={out}")
    ran = run(*call)
    assert ran.code == 0, ran.err
    written = out.read_text()
    header, wrist, noise = written.splitlines()
    assert header.startswith("study,views,probability,abnormal,abstain,distance,like_training,")
    assert wrist.split(",")[4] == "false"
    assert wrist.split(",")[6] == "true"
    assert noise.split(",")[4] == "true"
    assert noise.split(",")[6] == "false"
    again = run(*call)
    assert again.code == 0
    assert "2 were there before" in again.out
    for wrong in (noise.replace(",true,", ",false,", 1), noise.replace(",false,", ",true,")):
        assert wrong != noise
        out.write_text(written.replace(noise, wrong))
        assert "1 were there before" in run(*call).out
        assert out.read_text().splitlines()[2].split(",")[4:7:2] == ["true", "false"]


@pytest.mark.parametrize("refuses", ["router", "release"])
def test_a_routed_study_is_refused_by_the_router_or_by_the_release(
    net: Model,
    rule: FamiliarityRule,
    pictures: tuple[Path, Path],
    tmp_path: Path,
    refuses: str,
    run: Callable[..., Ran],
) -> None:
    areas = ["XR_A", "XR_B"]
    task = {
        "task": "part",
        "areas": areas,
        "outputs": 2,
        "calibration": {"temperature": 1.0},
        "abstain": {"confidence": 0.1, "share": 0.0, "error": 0.0, "error_without": 0.0},
    }
    routing = build_network("cnn", size=32, seed=3, outputs=2).eval()
    root = tmp_path / "releases"
    of_router = rule if refuses == "router" else None
    save(root / "router", routing, of_router, **task)
    for area in areas:
        save(root / area, net, rule if refuses == "release" else None)
    reader = RoutedReader(root.joinpath)
    wrist, noise = (reader.predict(picture) for picture in pictures)
    assert wrist.answer is not None
    assert not wrist.answer.abstain
    assert noise.familiarity is not None
    assert not noise.familiarity.like_training
    assert UNFAMILIAR in str(noise)
    assert UNFAMILIAR in noise.brief()
    assert (noise.answer is None) == (refuses == "router")
    assert noise.route.abstain == (refuses == "router")
    folder, out = tmp_path / "studies", tmp_path / "answers.csv"
    for picture in pictures:
        (folder / picture.stem).mkdir(parents=True)
        (folder / picture.stem / "1.png").write_bytes(picture.read_bytes())
    call = ("infer", folder, "--area=auto", f"--out={out}")
    ran = run(*call)
    assert ran.code == 0, ran.err
    rows = [line.split(",") for line in out.read_text().splitlines()]
    at = {name: rows[0].index(name) for name in rows[0]}
    assert [row[at["like_training"]] for row in rows[1:]][1] == "false"
    assert [row[at["abstain"]] for row in rows[1:]] == ["false", "true"]
    assert "2 were there before" in run(*call).out


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content[:-40], "damaged"),
        (lambda content: b"", "damaged"),
        (lambda content: content.replace(b'"rests"', b'"wrong"'), "damaged"),
        (lambda content: content.replace(b'"pictures.bound"', b'"pictures.wrong"'), "damaged"),
    ],
)
def test_a_damaged_file_is_refused(
    net: Model,
    rule: FamiliarityRule,
    tmp_path: Path,
    change: Callable[[bytes], bytes],
    reason: str,
) -> None:
    folder = save(tmp_path / "XR_TEST", net, rule)
    stored = folder / FILE
    stored.write_bytes(change(stored.read_bytes()))
    with pytest.raises(InputError, match=f"{FILE}: not as released"):
        load_release(folder, CPU)
    (folder / checksums.SUMS).unlink()
    checksums.write_checksums(folder)
    with pytest.raises(InputError, match=f"{FILE}: {reason} .*; fetch the release again"):
        load_release(folder, CPU)
    stored.unlink()
    (folder / checksums.SUMS).unlink()
    checksums.write_checksums(folder)
    with pytest.raises(InputError, match=f"does not list {FILE}"):
        load_release(folder, CPU)


def test_another_networks_file_is_refused(
    net: Model, rule: FamiliarityRule, pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    less = replace(rule, depths=rule.depths[1:], scales=rule.scales[1:])
    folder = save(tmp_path / "XR_TEST", net, less)
    with pytest.raises(InputError, match="of another network"):
        Predictor(folder).predict(pictures[0])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("threshold", -1),
        ("threshold", None),
        ("share", 2),
        ("file", "../x.safetensors"),
        ("views", 0),
    ],
)
def test_a_manifest_with_another_entry_is_refused(
    net: Model, rule: FamiliarityRule, tmp_path: Path, key: str, value: object
) -> None:
    plain = manifest_of().changed(familiarity=rule.entry()).to_json()
    plain["members"] = ["model.safetensors"]
    assert parse_manifest(plain, MANIFEST).familiarity == rule.entry()
    plain["familiarity"][key] = value
    with pytest.raises(InputError, match=f"familiarity.{key}"):
        parse_manifest(plain, MANIFEST)


def test_what_lies_at_the_threshold_is_like_training() -> None:
    assert Familiarity(1.5, 1.5).like_training
    assert not Familiarity(1.5000001, 1.5).like_training
    assert not Familiarity(float("nan"), 1.5).like_training
