"""Weights as they lie around are read for what they are, or refused with the true reason."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mura_tune.errors import InputError
from mura_tune.networks.factory import build_network, outline_network, restore_network
from mura_tune.networks.weights import (
    check_finite_weights,
    check_tensor_names,
    copy_tensors,
    read_weights,
    rename_tensors,
)

State = Mapping[str, Tensor]


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: value for name, value in state.items()}


# What training scripts make of a state dict.
SHAPES: Mapping[str, Callable[[State], Any]] = {
    "alone": dict,
    "parallel": prefixed("module."),
    "compiled": prefixed("_orig_mod."),
    "compiled and parallel": prefixed("_orig_mod.module."),
    "lightning": lambda state: {"state_dict": prefixed("model.")(state), "epoch": 3},
    "a name of their own": prefixed("encoder.net."),
    "model_state_dict": lambda state: {"model_state_dict": dict(state), "optimizer": {"lr": 0.1}},
    "model": lambda state: {"model": dict(state), "args": {"arch": "cnn"}},
    "wrapped twice": lambda state: {"model": {"state_dict": dict(state)}},
    "a score of numpy's": lambda state: {
        "state_dict": dict(state),
        "best_auc": np.float64(0.9),
        "epoch": np.int64(7),
        "loss": np.float32(0.5),
        "stopped": np.bool_(True),
    },
    "no counts of batches": lambda state: {
        name: value for name, value in state.items() if not name.endswith("num_batches_tracked")
    },
    "double precision": lambda state: {name: value.double() for name, value in state.items()},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_checkpoint_of_any_script_is_a_start(shape: str, tmp_path: Path) -> None:
    theirs = build_network("cnn", seed=5).body.state_dict()
    torch.save(SHAPES[shape](theirs), tmp_path / "theirs.pt")
    net = build_network("cnn", pretrained=str(tmp_path / "theirs.pt"), seed=1)
    for name, value in net.body.state_dict().items():
        assert torch.equal(value, theirs[name]) or name in net.head, name


def test_densenets_of_old_get_the_names_of_today() -> None:
    """As in torchvision's own densenet121-a639ec97.pth: `norm.1`, and no counts of batches."""
    wanted = outline_network("densenet121", size=224)
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12]\.)", r"\1.\2", name): value
        for name, value in wanted.items()
        if not name.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    check_tensor_names(rename_tensors(old, wanted, "theirs.pth"), wanted, "theirs.pth")


class Whole(nn.Module):
    """A network that somebody saved whole."""


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (Whole(), "it holds a test_weights.Whole, which only running code would make"),
        ({"epoch": 3, "weights": [1.0]}, r"no state dict \(.*\); its keys are epoch, weights$"),
        ([1.0], r"no state dict \(.*\); it is of type list$"),
        (
            {"state_dict": {"a": torch.ones(2)}, "model": {"b": torch.ones(2)}},
            r"several state dicts \(state_dict, model\); save the one that is meant",
        ),
        ({"stem.0.0.weight": torch.zeros(1).expand(10**12)}, "bytes that would take 4000000000000"),
        ({"a": torch.empty(3, device="meta")}, "a is no plain tensor of numbers"),
    ],
    ids=["a whole network", "other keys", "a list", "two of them", "one number", "no numbers"],
)
def test_what_is_no_state_dict_is_refused_with_the_reason(
    content: Any, told: str, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "theirs.pt")
    with pytest.raises(InputError, match=told) as refused:
        read_weights(tmp_path / "theirs.pt")
    assert "\n" not in str(refused.value)


def test_a_network_and_its_moving_average_are_not_chosen_between(tmp_path: Path) -> None:
    state = build_network("cnn").body.state_dict()
    torch.save({**prefixed("model.")(state), **prefixed("ema.")(state)}, tmp_path / "two.pt")
    with pytest.raises(InputError, match=r"two\.pt: the network is there 2 times, under ema\. and"):
        build_network("cnn", pretrained=str(tmp_path / "two.pt"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_refused_wherever_weights_are_loaded(
    value: float, tmp_path: Path
) -> None:
    state = build_network("cnn", size=32).body.state_dict()
    state["stages.1.0.0.weight"][0, 0, 0, 0] = value
    save_file(copy_tensors(state), tmp_path / "broken.safetensors")
    told = r"not every number in tensor stages\.1\.0\.0\.weight is finite"
    with pytest.raises(InputError, match=rf"broken\.safetensors: {told}"):
        build_network("cnn", size=32, pretrained=str(tmp_path / "broken.safetensors"))
    with pytest.raises(InputError, match=told):
        restore_network(tmp_path / "broken.safetensors", "cnn", size=32)
    check_finite_weights({"steps": torch.tensor(3)}, "a count")


@pytest.mark.parametrize(
    ("arch", "size", "outputs", "told"),
    [
        ("vit_giant_patch14_dinov2", 518, 1, "missing tensor cls_token"),
        ("cnn", 32, 900, r"misshapen tensor fc\.weight is \(1, 256\), not \(900, 256\)"),
        ("cnn", 32, 10**12, "outputs 1000000000000: a network has 1 to 1000"),
        ("cnn", 3000, 1, "size 3000: sizes go from 16 to 1024 px"),
        ("resnet18.nope", 32, 1, "timm has no weights 'nope' of resnet18; it has a1_in1k, .* arch"),
    ],
)
def test_what_asks_for_more_than_its_file_holds_is_refused_before_it_is_built(
    arch: str, size: int, outputs: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(copy_tensors(build_network("cnn").body.state_dict()), tmp_path / "small.safetensors")
    monkeypatch.setattr("mura_tune.networks.factory.build_network", None)
    with pytest.raises(InputError, match=told):
        restore_network(tmp_path / "small.safetensors", arch, size=size, outputs=outputs)


def test_tensors_under_two_names_are_written_twice(tmp_path: Path) -> None:
    one = torch.arange(4.0)
    save_file(copy_tensors({"a": one, "b": one, "half": one[:2]}), tmp_path / "a.safetensors")
    assert {k: v.tolist() for k, v in read_weights(tmp_path / "a.safetensors").items()} == {
        "a": [0, 1, 2, 3],
        "b": [0, 1, 2, 3],
        "half": [0, 1],
    }


class _Calls(TorchFunctionMode):
    """The names of torch's functions that were called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("arch", ["cnn", "resnet18"])
def test_weights_are_restored_without_drawing_others_first(arch: str, tmp_path: Path) -> None:
    with _Calls() as built:
        net = build_network(arch, size=32, seed=4).eval()
    save_file(copy_tensors(net.body.state_dict()), tmp_path / "weights.safetensors")
    before = torch.get_rng_state()
    with _Calls() as restored:
        again = restore_network(tmp_path / "weights.safetensors", arch, size=32).eval()
    draws = {name for name in built.names if name.startswith(("uniform_", "normal_", "kaiming_"))}
    assert draws
    assert not draws & restored.names
    assert torch.equal(torch.get_rng_state(), before)
    x_nchw = torch.rand(2, 1, 32, 32)
    assert torch.equal(net(x_nchw), again(x_nchw))


@pytest.mark.timeout(30)  # a draw within bounds is repeated until it is
def test_what_lies_in_the_memory_of_new_weights_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = build_network("hybrid-resnet18", size=32, seed=4)
    save_file(copy_tensors(net.body.state_dict()), tmp_path / "weights.safetensors")

    def fill(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def filled(*args: Any, **options: Any) -> Tensor:
            tensor = make(*args, **options)
            return tensor.fill_(1e9) if tensor.is_floating_point() else tensor

        return filled

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, fill(getattr(torch, name)))
    again = restore_network(tmp_path / "weights.safetensors", "hybrid-resnet18", size=32)
    state = again.body.state_dict()
    for name, value in net.body.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_too_little_memory_is_not_the_fault_of_a_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    (tmp_path / name).touch()
    monkeypatch.setattr("safetensors.torch.load_file", fail)
    monkeypatch.setattr("torch.load", fail)
    with pytest.raises(MemoryError):
        read_weights(tmp_path / name)
