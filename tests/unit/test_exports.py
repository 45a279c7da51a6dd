"""What leaves as one file gives the same probabilities elsewhere, and comes back or is refused."""

import codecs
import collections
import copy
import functools
import io
import math
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Ran
from PIL import Image
from torch import Tensor
from untrained import CPU

from mura_tune import console
from mura_tune.cli.mura_infer import infer
from mura_tune.config import load_config
from mura_tune.errors import InputError
from mura_tune.evaluation.decision import Calibration, Decision
from mura_tune.evaluation.routing import RouterDecision
from mura_tune.networks.factory import build_network
from mura_tune.networks.heads import output_layers
from mura_tune.networks.network import Ensemble
from mura_tune.networks.normalisation import MEAN, RGB_MEAN, RGB_STD, STD
from mura_tune.reading.readers import Predictor
from mura_tune.release import exports
from mura_tune.release.legacy import load_checkpoint
from mura_tune.release.release import (
    CONFIG,
    Release,
    as_abnormality,
    current_preprocessing,
    load_release,
    save_release,
)
from mura_tune.release.release_tasks import AbnormalityReleases
from mura_tune.release_format.checksums import sha256
from mura_tune.release_format.entries import ThresholdEntry
from mura_tune.release_format.manifest import parse_manifest, uncalibrated
from mura_tune.release_format.schema import to_plain
from mura_tune.training.tasks import MULTI_TASK, ROUTER_TASK, Task

QUICK = ["arch=cnn", "size=32", "pretrained=none"]
FITTED = Calibration(temperature=1.7, offset=0.4)


def release(folder: Path, arch: str, size: int, views: Tensor) -> Release:
    """A random network whose logits of these views (N, 1, S, S) spread as a trained one's do."""
    net = build_network(arch, size=size, seed=1)
    with torch.no_grad():  # BatchNorm's first statistics would leave deep networks with one answer
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        net(views)
        logits = net.eval()(views)
    for layer in output_layers(net.body.get_classifier(), 1):
        with torch.no_grad():
            layer.weight.mul_(2 / logits.std())
            layer.bias.copy_((layer.bias - logits.mean()) * 2 / logits.std())
    manifest = {
        "schema": 2,
        "area": "XR_TEST",
        "arch": arch,
        "outputs": 1,
        "recipe_digest": "0123456789ab",
        "preprocessing": current_preprocessing(size).to_json(),
        **uncalibrated(ThresholdEntry(value=0.37, rule="for a test")).to_json(),
        "calibration": {"temperature": FITTED.temperature, "offset": FITTED.offset},
    }
    save_release(folder / "XR_TEST", net, parse_manifest(manifest, "for a test"), {})
    return load_release(folder / "XR_TEST", CPU)


def of_schema_3(opened: Release, folder: Path) -> Release:
    """The same network in a release whose studies have the sigmoid of their views' mean logit."""
    stored = opened.manifest.to_json() | {"schema": 3}
    stored["calibration"]["aggregation"] = "sigmoid of the mean logit"
    stored["abstain"]["bound"] = 0.2
    save_release(folder / "XR_NEW", opened.net, parse_manifest(stored, "for a test"), {})
    return load_release(folder / "XR_NEW", CPU)


def noise(size: int, n: int = 4) -> Tensor:
    levels = torch.rand((n, 1, size, size), generator=torch.Generator().manual_seed(0))
    return (levels - MEAN) / STD


def expected(opened: Release, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.sigmoid((opened.net(x) + FITTED.offset) / FITTED.temperature)


def test_scripts_that_know_torchvision_read_our_densenet(real: Path, tmp_path: Path) -> None:
    """Written from the format's description alone: 224 px squash, ImageNet, one logit."""
    from torchvision import models, transforms

    from mura_tune.imaging.images import read_image, resize_to_square

    images = sorted(real.glob("valid/*/*/*/*.png"))[:4]
    assert len(images) == 4
    pixels = np.stack([resize_to_square(read_image(image), 224) for image in images])
    views = (torch.from_numpy(pixels)[:, None] / 255 - MEAN) / STD
    opened = release(tmp_path, "densenet121", 224, views[::2])
    path, told = exports.export_release(opened, "pt", tmp_path / "XR_TEST_FINAL_best.pt")
    assert "torchvision's names of densenet121" in told

    model = models.densenet121(weights=None)
    model.classifier = torch.nn.Linear(1024, 1)
    model.load_state_dict(torch.load(path, weights_only=True)["model_state"])
    model.eval()
    prepare = transforms.Compose(
        [
            transforms.Resize((224, 224)),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    batch = torch.stack([prepare(Image.open(image).convert("RGB")) for image in images])
    with torch.inference_mode():
        theirs = torch.sigmoid(model(batch))[:, 0].tolist()
    ours, again = (Predictor(f, CPU) for f in (opened.folder, path))
    assert [ours.predict([i]).probability for i in images] == pytest.approx(theirs, abs=1e-3)
    assert again.predict(images[:1]).probability == pytest.approx(theirs[0], abs=1e-3)
    assert np.std(theirs) > 0.1


@pytest.mark.parametrize(
    ("arch", "size", "names"),
    [
        ("cnn", 32, "names of our own cnn"),
        ("vit_tiny_patch16_224", 32, "names of timm's vit"),
        ("hybrid-resnet18", 32, "names of our own hybrid"),
        ("resnet18", 32, "torchvision's names"),
        ("test_byobnet", 64, "timm's test_byob"),
        ("repvgg_a0", 32, "names of timm's repvgg"),
    ],
)
def test_a_pt_of_any_network_comes_back_to_the_same_probability(
    arch: str, size: int, names: str, tmp_path: Path
) -> None:
    opened = release(tmp_path, arch, size, noise(size))
    path, told = exports.export_release(opened, "pt", tmp_path / "some.pt")
    again = load_checkpoint(path, CPU)
    assert names in told
    assert (again.manifest.area, again.manifest.threshold.value) == ("XR_TEST", 0.37)
    with torch.inference_mode():
        found = torch.sigmoid(again.net(noise(size)))
    assert torch.allclose(found, expected(opened, noise(size)), atol=exports.EXPORT_TOLERANCE)


def test_a_padded_border_is_exact_in_three_channels() -> None:
    """A view of one bright level: all that its map varies by is what the padding did."""
    weight = torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    grey = torch.full((1, 1, 6, 6), 0.9)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (RGB_MEAN, RGB_STD))
    ours = torch.conv2d((grey - MEAN) / STD, weight, padding=1)
    theirs = torch.conv2d((grey - mean) / std, exports.expand_to_three_channels(weight), padding=1)
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert ours.std((2, 3)).min() > 0.1


def test_joblib_and_safetensors_hold_the_calibrated_arrays_alone(tmp_path: Path) -> None:
    import joblib
    from safetensors.torch import load_file

    opened = release(tmp_path, "cnn", 32, noise(32))
    plain = joblib.load(exports.export_release(opened, "joblib", tmp_path / "a.joblib")[0])
    tensors = load_file(
        exports.export_release(opened, "safetensors", tmp_path / "a.safetensors")[0]
    )
    assert type(plain) is dict
    assert {type(value) for value in plain.values()} == {np.ndarray}
    for weights in ({k: torch.from_numpy(v) for k, v in plain.items()}, tensors):
        net = build_network("cnn", size=32).eval()
        net.body.load_state_dict(weights)
        with torch.inference_mode():
            found = torch.sigmoid(net(noise(32)))
        assert torch.allclose(found, expected(opened, noise(32)), atol=1e-5)


def test_an_ensemble_is_no_single_network(tmp_path: Path) -> None:
    opened = release(tmp_path, "cnn", 32, noise(32))
    both = Ensemble([build_network("cnn", seed=1), build_network("cnn", seed=2)]).eval()
    several = Release(opened.folder, opened.manifest, both)
    for kind in ("pt", "joblib", "safetensors"):
        with pytest.raises(InputError, match="mean of 2 networks is no single one"):
            exports.export_release(several, kind, tmp_path / "a")
    x = noise(32)
    with torch.inference_mode():  # what ONNX would hold
        (found,) = exports.ExportedAnswers(
            exports.calibrated_networks(several), AbnormalityReleases().onnx_outputs(several)
        )(x * STD + MEAN)
        mean = torch.sigmoid((both(x) + FITTED.offset) / FITTED.temperature)
    assert torch.allclose(found, mean, atol=1e-5)


def with_flips(opened: Release, folder: Path) -> Release:
    """The same network in a release that answers by a view and its mirror image."""
    stored = opened.manifest.to_json()
    stored["preprocessing"]["flip_test"] = True
    net = copy.deepcopy(opened.net)
    net.flip_test = True
    save_release(folder / "XR_FLIPS", net, parse_manifest(stored, "for a test"), {})
    return load_release(folder / "XR_FLIPS", CPU)


def test_flips_at_test_time_are_read_again_and_leave_with_onnx_alone(tmp_path: Path) -> None:
    opened = release(tmp_path, "test_resnet", 32, noise(32))
    flips, x = with_flips(opened, tmp_path), noise(32)
    with torch.inference_mode():
        mean = (opened.net(x) + opened.net(x.flip(-1))) / 2
        assert torch.allclose(flips.net(x), mean, atol=1e-6)
        assert not torch.allclose(flips.net(x), opened.net(x), atol=1e-3)
    for kind in ("pt", "joblib", "safetensors"):
        with pytest.raises(InputError, match="flip_test: the mean of a view's answer"):
            exports.export_release(flips, kind, tmp_path / "a")
    with torch.inference_mode():  # what ONNX would hold
        (found,) = exports.ExportedAnswers(
            exports.calibrated_networks(flips),
            AbnormalityReleases().onnx_outputs(flips),
            flip_test=True,
        )(x * STD + MEAN)
    assert torch.allclose(found, expected(flips, x), atol=1e-5)
    assert (opened.folder / CONFIG).exists()  # for plain timm, which would not flip
    assert not (flips.folder / CONFIG).exists()


@pytest.fixture(scope="module")
def onnxruntime() -> Any:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason="the onnx extra is not installed")
    return pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")


@pytest.fixture(scope="module")
def exported(onnxruntime: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Release, Path]:
    """A release of schema 2 and its ONNX file, whose making takes seconds. Tests only read them."""
    folder = tmp_path_factory.mktemp("onnx")
    opened = release(folder, "cnn", 32, noise(32))
    return opened, exports.export_release(opened, "onnx", folder / "a.onnx")[0]


def test_onnx_answers_as_torch_does_for_any_number_of_views(
    onnxruntime: Any, exported: tuple[Release, Path]
) -> None:
    opened, path = exported
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for n in (1, 4, 20):
        x = noise(32, n)
        (found,) = session.run(None, {"levels": (x * STD + MEAN).numpy()})
        assert np.abs(found - expected(opened, x).numpy()).max() < 1e-4
    uncalibrated = exports.ExportedAnswers(
        [opened.net.body], AbnormalityReleases().onnx_outputs(opened)
    ).eval()  # what the check must notice
    assert (
        exports.measure_onnx_gap(path.read_bytes(), uncalibrated, x * STD + MEAN)
        > exports.EXPORT_TOLERANCE
    )


def test_onnx_gives_the_logits_whose_mean_is_a_studys_and_for_old_releases_as_before(
    onnxruntime: Any, exported: tuple[Release, Path], tmp_path: Path
) -> None:
    """The new one answers by a view and its mirror image, which its logits hold as well."""
    old, old_path = exported
    new = of_schema_3(with_flips(old, tmp_path), tmp_path)
    assert not torch.allclose(expected(new, noise(32)), expected(old, noise(32)), atol=1e-3)
    new_path, usage = exports.export_release(new, "onnx", tmp_path / "a.onnx")
    names = {}
    for opened, path in ((old, old_path), (new, new_path)):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        found = session.run(None, {"levels": (noise(32) * STD + MEAN).numpy()})
        names[opened.folder.name] = [output.name for output in session.get_outputs()]
        assert np.abs(found[0] - expected(opened, noise(32)).numpy()).max() < 1e-4
    assert names == {"XR_TEST": ["probability"], "XR_NEW": ["probability", "logit"]}
    assert "the sigmoid of their mean" in usage
    decision = Decision.from_manifest(as_abnormality(opened))
    with torch.inference_mode():
        study = decision.calibration.probability(opened.net(noise(32))[:, 0].numpy())
    assert 1 / (1 + np.exp(-found[1].mean())) == pytest.approx(study, abs=1e-4)


def of_areas(folder: Path, task: Task) -> Release:
    """A release of a task that tells three areas apart, calibrated as such are."""
    names = ["XR_A", "XR_B", "XR_C"]
    net = task.network(replace(load_config("router", QUICK).recipe, seed=1), 3)
    found = (
        to_plain(RouterDecision(1.7, 0.5, 0.0, 0.0, 0.0).entries())
        if task is ROUTER_TASK
        else {
            **uncalibrated(ThresholdEntry(value=0.37, rule="for a test")).to_json(),
            "calibration": {"temperature": FITTED.temperature, "offset": FITTED.offset},
        }
    )
    manifest = {
        "schema": 2,
        "area": "every",
        "arch": "cnn",
        "outputs": task.outputs(3),
        "recipe_digest": "0" * 12,
        "preprocessing": current_preprocessing(32).to_json(),
        "task": task.name,
        "areas": names,
        **found,
    }
    save_release(folder / "every", net, parse_manifest(manifest, "for a test"), {})
    return load_release(folder / "every", CPU)


@pytest.mark.parametrize("task", [ROUTER_TASK, MULTI_TASK], ids=["router", "multitask"])
def test_tasks_that_tell_areas_apart_leave_with_their_own_outputs(
    onnxruntime: Any, task: Task, tmp_path: Path
) -> None:
    import onnx
    from safetensors import safe_open

    opened = of_areas(tmp_path, task)
    path, told = exports.export_release(opened, "onnx", tmp_path / "a.onnx")
    assert "XR_A, XR_B, XR_C" in told
    about = {one.key: one.value for one in onnx.load(path).metadata_props}
    assert about["areas"] == "['XR_A', 'XR_B', 'XR_C']"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = noise(32, 5)
    with torch.inference_mode():
        logits = opened.net(x)
    areas = logits / 1.7 if task is ROUTER_TASK else logits[:, 1:]
    wanted = {"areas": areas.numpy()}
    if task is MULTI_TASK:
        wanted["probability"] = expected(opened, x)[:, :1].numpy()
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"levels": (x * STD + MEAN).numpy()}), strict=True))
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert np.abs(found[name] - values).max() < 1e-4

    path, _ = exports.export_release(opened, "safetensors", tmp_path / "a.safetensors")
    with safe_open(path, "pt") as file:
        assert file.metadata()["areas"] == about["areas"]
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    net = task.network(load_config("router", QUICK).recipe, 3).eval()
    net.body.load_state_dict(weights)
    with torch.inference_mode():
        given = net(x)
    if task is ROUTER_TASK:
        assert torch.allclose(given, logits / 1.7, atol=1e-5)
    else:
        assert torch.allclose(given[:, 1:], logits[:, 1:], atol=1e-5)
        assert torch.allclose(given[:, :1].sigmoid(), expected(opened, x)[:, :1], atol=1e-5)


def test_a_pt_holds_a_router_and_no_head_that_is_not_linear(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="multi-task head is none; export it --to onnx or safe"):
        exports.export_release(of_areas(tmp_path, MULTI_TASK), "pt", tmp_path / "a.pt")
    assert not (tmp_path / "a.pt").exists()
    opened = of_areas(tmp_path, ROUTER_TASK)
    path, told = exports.export_release(opened, "pt", tmp_path / "a.pt")
    assert "softmax over XR_A, XR_B, XR_C" in told
    state = torch.load(path, weights_only=True)
    assert state["areas"] == ["XR_A", "XR_B", "XR_C"]
    bias = opened.net.body.fc.bias / 1.7
    assert torch.allclose(state["model_state"]["fc.bias"], bias)
    with pytest.raises(InputError, match="tells areas apart"):
        load_checkpoint(path, CPU)


def test_a_checkpoint_answers_a_study_of_several_views_as_its_release(
    view: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.png"
    Image.fromarray(255 - np.asarray(Image.open(view))).save(other)
    old = release(tmp_path, "cnn", 32, noise(32))
    answers = []
    for opened in (old, of_schema_3(old, tmp_path)):
        path, _ = exports.export_release(opened, "pt", tmp_path / "a.pt")
        state = torch.load(path, weights_only=True)
        assert ("aggregation" in state) == (opened is not old)
        mine, its = (Predictor(p, CPU).predict([view, other]) for p in (opened.folder, path))
        assert its.probability == pytest.approx(mine.probability, abs=1e-4)
        answers.append(mine)
    logits = [np.log(v.probability / (1 - v.probability)) for v in answers[1].views]
    mean = np.mean([v.probability for v in answers[0].views])
    assert answers[0].probability == pytest.approx(mean)
    assert answers[1].probability == pytest.approx(1 / (1 + np.exp(-np.mean(logits))))
    assert answers[0].probability != pytest.approx(answers[1].probability, abs=1e-6)
    torch.save({**state, "aggregation": "max"}, tmp_path / "b.pt")
    with pytest.raises(InputError, match="aggregation is 'max'; it must be one of: mean of"):
        load_checkpoint(tmp_path / "b.pt", CPU)


def test_without_its_extra_onnx_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = release(tmp_path, "cnn", 32, noise(32))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs onnx: pip install 'mura-tune\[onnx\]'"):
        exports.export_release(opened, "onnx", tmp_path / "a.onnx")


@pytest.fixture
def view(phantoms: Path) -> Path:
    return min(phantoms.glob("train/XR_WRIST/**/*.png"))


def mura_infer(capfd: pytest.CaptureFixture[str], *args: object) -> Ran:
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        console.run_command(infer, "mura-infer", [str(arg) for arg in args])
    out, err = capfd.readouterr()
    assert isinstance(end.value.code, int)
    return Ran(end.value.code, out, err)


def test_both_commands_read_a_checkpoint_as_they_read_its_release(
    run: Callable[..., Ran], capfd: pytest.CaptureFixture[str], view: Path, tmp_path: Path
) -> None:
    opened = release(tmp_path, "cnn", 32, noise(32))
    file = tmp_path / "XR_TEST_FINAL_best.pt"
    exported = run("export", f"--release={opened.folder}", "--to=pt", f"--out={file}")
    assert (exported.code, exported.out.splitlines()[0]) == (0, str(file))
    call = (f"--image={view}", "--area=XR_TEST")
    texts = [mura_infer(capfd, *call, f"--ckpt={p}").out for p in (opened.folder, file)]
    assert texts[0] == texts[1]
    assert texts[0].startswith("area=XR_TEST\nprob_fracture=0.")
    answers = [run("infer", *call, f"--release={p}").out for p in (opened.folder, file)]
    assert answers[0].splitlines()[1] == answers[1].splitlines()[1]
    other = mura_infer(capfd, f"--image={view}", "--area=XR_HAND", f"--ckpt={file}")
    assert (other.code, other.out) == (2, "")
    assert "a release for XR_TEST, not for XR_HAND" in other.err


@functools.cache
def densenet() -> dict[str, Tensor]:
    """The tensors of torchvision's densenet121, with its own names. Tests only read them."""
    from torchvision import models

    return models.densenet121(weights=None, num_classes=1).state_dict()


def changed(state: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    if how == "a missing block":
        return {k: v for k, v in state.items() if "denseblock3.denselayer7." not in k}
    if how == "a foreign head":
        return state | {
            "classifier.weight": torch.zeros(7, 1024),
            "classifier.bias": torch.zeros(7),
        }
    if how == "a changed key":
        return {
            k.replace("transition2.norm.bias", "transition2.norm.b"): v for k, v in state.items()
        }
    return {f"net_{k}": v for k, v in state.items()}


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("a missing block", "missing tensor features.denseblock3.denselayer7.norm1.weight"),
        ("a foreign head", r"misshapen tensor classifier.weight is \(7, 1024\), not \(1, 1024\)"),
        ("a changed key", "missing tensor features.transition2.norm.bias"),
        ("another prefix", "missing tensor features.conv0.weight"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_tensor(
    how: str, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "XR_WRIST_FINAL_best.pt"
    torch.save({"model_state": changed(densenet(), how), "epoch": 3}, path)
    with pytest.raises(InputError, match=told) as refused:
        Predictor(path, CPU, "XR_WRIST")
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)


def checkpoint(folder: Path, **changes: Any) -> Path:
    """A small one of the form that earlier projects wrote, in three channels."""
    state = {
        name: value.clone()
        for name, value in build_network("cnn", size=32, channels=3).body.state_dict().items()
    }
    plain = {"model_state": state, "arch": "cnn", "size": 32, "threshold": 0.4} | changes
    torch.save(plain, folder / "XR_WRIST_FINAL_best.pt")
    return folder / "XR_WRIST_FINAL_best.pt"


def test_what_is_no_text_beside_the_weights_is_passed_over(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, area=torch.zeros(2), recipe_digest=["a"])
    manifest = load_checkpoint(path, CPU).manifest
    assert (manifest.area, manifest.recipe_digest) == ("XR_WRIST", sha256(path)[:12])


def test_a_checkpoint_as_a_script_leaves_it_is_read(tmp_path: Path) -> None:
    x = noise(32)
    plain = load_checkpoint(checkpoint(tmp_path), CPU)
    state = torch.load(tmp_path / "XR_WRIST_FINAL_best.pt", weights_only=True)["model_state"]
    theirs = build_network("cnn", size=32, channels=3).body.eval()
    theirs.load_state_dict(state)
    levels = x * STD + MEAN
    mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in (RGB_MEAN, RGB_STD))
    wrapped = {f"module.{name}": value for name, value in state.items()}
    other = checkpoint(
        tmp_path, model_state=wrapped, best_auc=np.float64(0.9), threshold=np.float64(0.4)
    )
    with torch.inference_mode():
        expected = theirs((levels - mean) / deviation)
        for opened in (plain, load_checkpoint(other, CPU)):
            assert torch.allclose(opened.net(x), expected, atol=1e-5)
            assert opened.manifest.threshold.value == 0.4


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"arch": "vit_giant_patch14_dinov2", "size": 518}, "missing tensor cls_token"),
        ({"arch": "resnet18.nope"}, "timm has no weights 'nope' of resnet18"),
        ({"size": 3000}, "size 3000: sizes go from 16 to 1024 px"),
        ({"size": True}, "its size is True"),
        ({"threshold": math.nan}, "its threshold is nan, and no probability"),
        ({"arch": "x" * 10_000}, "is neither"),
    ],
)
def test_what_a_checkpoint_asks_for_is_bounded(
    change: dict[str, Any], told: str, tmp_path: Path
) -> None:
    path = checkpoint(tmp_path, **change)
    with pytest.raises(InputError, match=told) as refused:
        load_checkpoint(path, CPU)
    assert str(path) in str(refused.value)
    assert len(str(refused.value)) < 500


def test_a_checkpoint_with_a_nan_answers_nothing(tmp_path: Path) -> None:
    state = torch.load(checkpoint(tmp_path), weights_only=True)["model_state"]
    state["fc.bias"][0] = math.nan
    with pytest.raises(InputError, match=r"not every number in tensor fc\.bias is finite"):
        load_checkpoint(checkpoint(tmp_path, model_state=state), CPU)


def test_a_pt_that_would_answer_otherwise_is_not_written(tmp_path: Path) -> None:
    """NFNets standardise their weights, which undoes any share of them for a channel."""
    opened = release(tmp_path, "test_nfnet", 64, noise(64))
    with pytest.raises(InputError, match=r"would answer otherwise .*--to onnx or safetensors"):
        exports.export_release(opened, "pt", tmp_path / "a.pt")
    assert not (tmp_path / "a.pt").exists()
    exports.export_release(opened, "safetensors", tmp_path / "a.safetensors")


def test_what_the_exporter_cannot_take_is_one_line(
    onnxruntime: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("Failed to decompose the graph. \x1b[96mThis is step 2/3\nand so on")

    monkeypatch.setattr("torch.onnx.export", fail)
    opened = release(tmp_path, "cnn", 32, noise(32))
    told = r"cnn cannot be written as onnx \(Failed to decompose the graph\); export it --to pt or"
    with pytest.raises(InputError, match=told):
        exports.export_release(opened, "onnx", tmp_path / "a.onnx")


class Calls:
    """Unpickling this calls a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.args = (function, args)

    def __reduce__(self) -> Any:
        return self.args


class Restores:
    """Unpickling this calls `setter` with a state."""

    def __reduce__(self) -> Any:
        return (collections.OrderedDict, (), None, None, iter([("a", Calls(os.system, CODE[0]))]))


CODE = [""]  # what would leave a mark, as a shell command and as Python


def saved(raw: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(raw, file, **options)
    return file.getvalue()


def zipped(pickled: bytes) -> bytes:
    """An archive as torch writes it, around any pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return file.getvalue()


def attacks(mark: Path) -> dict[str, bytes]:
    """Files that make `mark` when they are unpickled, each by another way."""
    shell, code = f"touch {mark}", f"open({str(mark)!r}, 'w').close()"
    CODE[0] = shell
    evil, inner = Calls(os.system, shell), pickle.dumps(Calls(os.system, shell))
    opcodes = b"cposix\nsystem\n(V" + shell.encode() + b"\ntR."
    state = {"model_state": {"features.conv0.weight": evil}}
    found = {f"protocol {p}": pickle.dumps(evil, protocol=p) for p in range(6)}
    return found | {
        "in a state dict": saved(state),
        "in a state dict, legacy file": saved(state, _use_new_zipfile_serialization=False),
        "beside the state dict": saved({"model_state": {}, "arch": evil}),
        "eval": saved(Calls(eval, code)),
        "exec": saved(Calls(exec, code)),
        "partial": saved(Calls(map, functools.partial(os.system), [shell])),
        "open": saved(Calls(open, str(mark), "w")),
        "opcodes": opcodes,
        "opcodes in an archive": zipped(opcodes),
        "getattr": saved(Calls(getattr, Calls(__import__, "os"), "system")),
        "a pickle in torch's own loader": saved(Calls(torch.storage._load_from_bytes, saved(evil))),
        "a pickle in pickle": saved(Calls(pickle.loads, inner)),
        "a pickle in a tensor's place": zipped(pickle.dumps({"a": Restores()}, protocol=2)),
        "numpy's loader": saved(Calls(np.load, io.BytesIO)),
        "codecs": saved(Calls(codecs.decode, shell, "rot13"), pickle_protocol=2) + opcodes,
        "an item's value": saved(Restores()),
    }


def test_no_pickle_runs_and_each_is_refused_in_one_line(
    capfd: pytest.CaptureFixture[str], view: Path, tmp_path: Path
) -> None:
    mark, path = tmp_path / "ran", tmp_path / "XR_WRIST_FINAL_best.pt"
    files = attacks(mark)
    assert len(files) >= 20
    pickle.loads(files["protocol 4"])  # the attack is real: whoever unpickles it is marked
    assert mark.exists()
    mark.unlink()
    for name, content in files.items():
        path.write_bytes(content)
        told = mura_infer(capfd, f"--image={view}", "--area=XR_WRIST", f"--ckpt={path}")
        assert not mark.exists(), name
        assert (told.code, told.out) == (2, ""), name
        assert len(told.err.strip().splitlines()) == 1, (name, told.err)
        assert str(path) in told.err
