"""Networks by name: stages, what trains at a depth, and the sizes they take."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from mura_tune.errors import InputError
from mura_tune.networks.factory import NetworkCopies, build_network, count_stages
from mura_tune.networks.network import Network, trainable_names
from mura_tune.networks.weights import copy_tensors

# Stages, and a side that is small and not what the network was made for.
ARCHES = {
    "cnn": (5, 32),
    "resnet18": (5, 32),
    "resnet50": (5, 32),
    "densenet121": (5, 32),
    "efficientnet_b0": (8, 32),
    "vit_tiny_patch16_224": (13, 32),
    "convnext_atto": (5, 32),
    "hybrid-resnet18": (7, 32),
}


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.mark.parametrize(("arch", "stages", "size"), [(k, *v) for k, v in ARCHES.items()])
def test_a_step_moves_the_stages_that_train_and_nothing_else(
    arch: str, stages: int, size: int
) -> None:
    """Every tensor, BatchNorm's statistics among them, at depths 0, 1, 2 and all."""
    net = build_network(arch, size=size)
    assert len(net.stages) == stages == count_stages(arch)
    names = [*net.head, *(name for stage in net.stages for name in stage)]
    assert sorted(names) == sorted(name for name, _ in net.body.named_parameters())
    with torch.no_grad():  # no parameter starts at zero, so a step with weight decay moves it
        for parameter in net.parameters():
            parameter.add_(0.01)
        for name, value in net.body.named_buffers():
            if name.endswith(STATISTICS[:2]):  # far from what any batch has
                value.add_(3)
    x = torch.randn(2, 1, size, size, generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in net.body.state_dict().items()}
    for depth in (0, 1, 2, 99):
        assert net.set_depth(depth) == min(depth, stages)
        trained = {*net.head, *(n for s in net.stages[max(0, stages - depth) :] for n in s)}
        assert set(trainable_names(net)) == trained
        net.train()
        net(x).square().sum().backward()
        parameters = [p for p in net.parameters() if p.requires_grad]
        torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.5).step()
        net.zero_grad()
        owners = {name.rpartition(".")[0] for name in trained}
        after = {name: value.clone() for name, value in net.body.state_dict().items()}
        moved = {name for name in after if not torch.equal(after[name], before[name])}
        statistics = {f"{owner}.{name}" for owner in owners for name in STATISTICS}
        assert moved == trained | (statistics & after.keys())
        before = after


@pytest.mark.parametrize(
    ("arch", "size"),
    [("vit_tiny_patch16_224", 96), ("swin_tiny_patch4_window7_224", 96), ("hybrid-resnet18", 72)],
)
def test_any_size_that_fits_works(arch: str, size: int) -> None:
    net = build_network(arch, size=size, outputs=2).eval()
    assert net(torch.zeros(1, 1, size, size)).shape == (1, 2)


@pytest.mark.parametrize(
    ("arch", "size", "told"),
    [
        ("densenet121", 16, "size 16: densenet121 takes no images of 16 px"),
        ("inception_v3", 32, "choose another size, such as 299"),
        ("hybrid-vit_tiny_patch16_224", 32, "gives no feature map; name a convolutional stem"),
        ("levit_128s", None, "LevitDistilled has no single classifier"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(arch: str, size: int | None, told: str) -> None:
    with pytest.raises(InputError, match=told) as refused:
        build_network(arch, size=size)
    assert "\n" not in str(refused.value)


def test_densenet_keeps_norm5_with_the_last_stage() -> None:
    net = build_network("densenet121")
    assert net.head == ("classifier.weight", "classifier.bias")
    assert "features.norm5.weight" in net.stages[-1]


def test_frozen_batchnorm_stays_in_eval_whenever_train_is_called() -> None:
    net = build_network("resnet18")
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
    one, same, other = (
        build_network("cnn", seed=1),
        build_network("cnn", seed=1),
        build_network("cnn", seed=2),
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.body.fc.weight, other.body.fc.weight)


def test_a_body_without_a_classifier_is_refused() -> None:
    with pytest.raises(InputError, match="no classifier"):
        Network(timm.create_model("resnet18", num_classes=0))


def test_the_same_network_again_is_a_copy_that_shares_nothing(tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    save_file(copy_tensors(build_network("resnet18", seed=5).body.state_dict()), start)
    asked: dict[str, Any] = {"size": 32, "pretrained": str(start), "seed": 3}
    fresh, build = build_network("resnet18", **asked), NetworkCopies()
    first = build("resnet18", **asked)
    with torch.no_grad():  # as a trial would
        first.set_depth(1)
        first.freeze_statistics()
        for value in first.body.state_dict().values():
            value.add_(1)
    start.unlink()  # nothing is read again
    second = build("resnet18", **asked)
    assert torch.equal(second(x := torch.rand(2, 1, 32, 32)), fresh(x))
    tensors = (net.body.state_dict().values() for net in (second, fresh))
    assert all(map(torch.equal, *tensors))
    assert len(list(trainable_names(second))) == len(list(trainable_names(fresh)))
    with pytest.raises(InputError, match="no such file of weights"):
        build("resnet18", **asked | {"seed": 4})
