"""Networks: stages, what trains at a depth, and weights that are verified before they load."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from mura_tune.errors import InputError
from mura_tune.learning.models import Network, build, stage_count, trained_names

ARCHES = {"cnn": 5, "resnet18": 5, "densenet121": 5, "efficientnet_b0": 8}


@pytest.mark.parametrize(("arch", "stages"), ARCHES.items())
def test_stages_hold_every_parameter_once(arch: str, stages: int) -> None:
    net = build(arch)
    assert len(net.stages) == stages == stage_count(arch)
    names = [*net.head, *(name for stage in net.stages for name in stage)]
    assert sorted(names) == sorted(name for name, _ in net.body.named_parameters())
    assert net(torch.zeros(2, 1, 64, 64)).shape == (2, 1)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("depth", [0, 1, 2, 99])
def test_depth_trains_the_head_and_the_last_stages(arch: str, depth: int) -> None:
    net = build(arch)
    assert net.set_depth(depth) == min(depth, ARCHES[arch])
    expected = {*net.head, *(n for s in net.stages[max(0, ARCHES[arch] - depth) :] for n in s)}
    assert set(trained_names(net)) == expected


def test_densenet_keeps_norm5_with_the_last_stage() -> None:
    net = build("densenet121")
    assert net.head == ("classifier.weight", "classifier.bias")
    assert "features.norm5.weight" in net.stages[-1]


def test_frozen_batchnorm_stays_in_eval_whenever_train_is_called() -> None:
    net = build("resnet18")
    net.set_depth(1)
    net.train()
    body = net.body
    assert not body.bn1.training
    assert not body.layer3[0].bn1.training
    assert body.layer4[0].bn1.training
    net.eval()
    net.set_depth(5)
    net.train()
    assert body.bn1.training


def test_the_seed_decides_the_weights_and_nothing_else_is_touched() -> None:
    state = torch.random.get_rng_state()
    one, same, other = build("cnn", seed=1), build("cnn", seed=1), build("cnn", seed=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.body.fc.weight, other.body.fc.weight)


def rgb_weights(folder: Path, drop: str = "", add: str = "") -> Path:
    torch.manual_seed(0)
    state = timm.create_model("resnet18", num_classes=1000).state_dict()
    state = {name: value for name, value in state.items() if name != drop}
    if add:
        state[add] = torch.zeros(1)
    save_file(state, str(folder / "weights.safetensors"))
    return folder / "weights.safetensors"


def test_an_rgb_file_loads_summed_and_equals_grey_in_three_channels(tmp_path: Path) -> None:
    path = rgb_weights(tmp_path)
    grey = build("resnet18", pretrained=str(path)).eval()
    torch.manual_seed(0)
    rgb = timm.create_model("resnet18", num_classes=1000).eval()
    x = torch.rand(2, 1, 64, 64)
    ours = grey.body.forward_features(x)
    theirs = rgb.forward_features(x.expand(-1, 3, -1, -1))
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("drop", "add", "told"),
    [
        ("layer3.0.conv1.weight", "", "missing tensor layer3.0.conv1.weight"),
        ("", "layer9.weight", "foreign tensor layer9.weight"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_tensor(
    tmp_path: Path, drop: str, add: str, told: str
) -> None:
    with pytest.raises(InputError, match=told):
        build("resnet18", pretrained=str(rgb_weights(tmp_path, drop, add)))


class Evil:
    """Unpickling this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_a_file_of_something_else_is_refused_unrun(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "weights.pt"
    if content is None:
        torch.save({"a": Evil(tmp_path / "ran")}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"weights\.pt"):
        build("cnn", pretrained=str(path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("arch", "pretrained", "told"),
    [
        ("resnet19", "none", "near it: resnet"),
        ("cnn", "imagenet", "has no ImageNet weights"),
        ("cnn", "nowhere.pt", "nowhere.pt: no such file"),
    ],
)
def test_what_cannot_be_had_is_told(arch: str, pretrained: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        build(arch, pretrained=pretrained)


def test_imagenet_weights_out_of_reach_name_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.delenv("https_proxy", raising=False)
    with pytest.raises(InputError, match="pretrained: none, or pretrained: FILE"):
        build("resnet50", pretrained="imagenet")


def test_a_body_without_a_classifier_is_refused() -> None:
    with pytest.raises(InputError, match="no classifier"):
        Network(timm.create_model("resnet18", num_classes=0))
