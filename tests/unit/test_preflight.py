"""What would fail after training is tried before anything is decoded."""

from pathlib import Path

import pytest
import torch
from untrained import manifest_of

from mura_tune import config
from mura_tune.errors import InputError
from mura_tune.networks.factory import build_network
from mura_tune.networks.gradcam import compute_gradcam
from mura_tune.release.release import load_release, save_release
from mura_tune.training.preflight import check_networks

CPU = torch.device("cpu")


def check(arch: str, size: int = 64) -> None:
    check_networks(
        config.load_config("XR_WRIST", [f"arch={arch}", f"size={size}", "pretrained=none"])
    )


def test_a_network_with_modules_under_two_names_is_released(tmp_path: Path) -> None:
    """CoaT's tensors share memory, which safetensors refuses."""
    check("coat_lite_tiny")
    net = build_network("coat_lite_tiny", size=64, seed=3).eval()
    x = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    manifest = manifest_of("coat_lite_tiny", 64)
    save_release(tmp_path / "XR_TEST", net, manifest, {})
    with torch.inference_mode():
        assert torch.allclose(load_release(tmp_path / "XR_TEST", CPU).net(x), net(x), atol=1e-5)


def test_a_network_with_several_maps_is_searched_and_not_explained() -> None:
    check("efficientvim_m1")
    with pytest.raises(InputError, match=r"no feature map to explain \(its features are several"):
        compute_gradcam(build_network("efficientvim_m1", size=64), torch.zeros(1, 1, 64, 64))


@pytest.mark.parametrize(
    ("arch", "told"),
    [
        ("pit_ti_224", "PoolingVisionTransformer has no group_matcher"),
        ("poolformerv2_s12", "MetaFormer has no group_matcher"),
        ("hybrid-poolformerv2_s12", "Hybrid has no stages that train one by one"),
        ("rdnet_tiny", "RDNet has no stages that train one by one"),
        ("resnet18.nope", "timm has no weights 'nope' of resnet18; it has a1_in1k"),
        ("hybrid-coat_lite_tiny", "CoaT gives no feature map; name a convolutional stem"),
    ],
)
def test_what_cannot_be_trained_is_one_line_before_a_search(arch: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as refused:
        check(arch)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("arch", ["xcit_nano_12_p16_224", "lambda_resnet26rpt_256"])
def test_what_only_looks_odd_is_searched(arch: str) -> None:
    """The side of XCiT's patches is a number, not a pair; Lambda layers have 5-D weights."""
    check(arch)


@pytest.mark.parametrize(
    ("step", "told"),
    [("copy_tensors", "cannot be released"), ("compute_gradcam", "cannot be explained")],
)
def test_a_step_after_training_that_fails_refuses_the_search(
    step: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(f"mura_tune.training.preflight.{step}", fail)
    told = rf"arch test_resnet: {told} \(RuntimeError\); choose another arch"
    with pytest.raises(InputError, match=told):
        check(
            "test_resnet", 96 + 32 * (step == "compute_gradcam")
        )  # a recipe is tried once a process
