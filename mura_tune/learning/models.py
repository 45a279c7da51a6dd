"""Networks with stages: any timm backbone or our own, trained from the head down to a depth."""

from __future__ import annotations

import difflib
import functools
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import group_parameters
from timm.models.convnext import ConvNeXt
from timm.models.densenet import DenseNet
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mura_tune.errors import InputError
from mura_tune.learning.cnn import SmallCNN
from mura_tune.learning.device import autocast
from mura_tune.learning.weights import check_keys, one_channel, read_weights

OWN = {"cnn": SmallCNN}

Step = Callable[[Tensor], Tensor]

# What each class's `forward_features` does, step by step; a subclass may do otherwise.
STEPS: dict[type, Callable[[Any], list[Step]]] = {
    SmallCNN: lambda b: [b.stem, *b.stages],
    ResNet: lambda b: [b.conv1, b.bn1, b.act1, b.maxpool, b.layer1, b.layer2, b.layer3, b.layer4],
    DenseNet: lambda b: [*b.features],
    EfficientNet: lambda b: [b.conv_stem, b.bn1, *b.blocks, b.conv_head, b.bn2],
    ConvNeXt: lambda b: [b.stem, *b.stages, b.norm_pre],
    VisionTransformer: lambda b: [
        b.patch_embed, b._pos_embed, b.patch_drop, b.norm_pre, *b.blocks, b.norm
    ],
}  # fmt: skip


class Network(nn.Module):
    """A body that maps (N, 1, S, S) to (N, K), and which of its stages train.

    Stages run from the stem to the last block before the classifier; the classifier itself is
    the head and belongs to no stage. `body.state_dict()` is what gets saved.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head, self.stages = _stages(body)
        self._frozen: list[nn.Module] = []
        self.set_depth(len(self.stages))

    def forward(self, x_nchw: Tensor) -> Tensor:
        if (steps := self.steps()) is None:
            return self.body(x_nchw)  # type: ignore[no-any-return]  # torch's call is Any
        return self.finish(steps, x_nchw)

    def steps(self) -> list[Step] | None:
        """All that comes before the classifier, in order; None for a class not in `STEPS`."""
        if type(self.body) not in STEPS:
            return None
        pool: Any = self.body.forward_head
        return [*STEPS[type(self.body)](self.body), functools.partial(pool, pre_logits=True)]

    def finish(self, steps: Sequence[Step], x: Tensor) -> Tensor:
        """`steps`, which end with the pooling, and the classifier: logits (N, K) in float32
        whatever the steps run in, since rounded ones tie and AUC suffers."""
        classifier: Any = self.body.get_classifier()  # type: ignore[operator]  # see _stages
        return classifier(run(steps, x).float())  # type: ignore[no-any-return]

    def set_depth(self, depth: int) -> int:
        """Let the head and the last `depth` stages train; returns the depth, clipped to all."""
        depth = min(depth, len(self.stages))
        frozen = {name for stage in self.stages[: len(self.stages) - depth] for name in stage}
        for name, parameter in self.body.named_parameters():
            parameter.requires_grad_(name not in frozen)
        self._frozen = [
            module
            for prefix, module in self.body.named_modules()
            if _all_in(frozen, prefix, module)
        ]
        self.train(self.training)
        return depth

    def train(self, mode: bool = True) -> Network:
        """Training mode, but never for a frozen stage: its BatchNorm statistics would drift."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self


def build(arch: str, *, pretrained: str = "none", outputs: int = 1, seed: int = 0) -> Network:
    """A network with one grey input channel.

    Args:
        arch: `cnn`, or the name of a timm backbone.
        pretrained: `imagenet` (timm's weights, the RGB stem summed), `none`, or a file.
        outputs: K.
        seed: of the initial weights; the global generator is left as it was.

    Raises:
        InputError: an unknown name, weights out of reach, or a file that does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = _create(arch, outputs, download=pretrained == "imagenet")
        if pretrained not in ("imagenet", "none"):
            _load_file(body, Path(pretrained), arch)
    return Network(body).to(memory_format=torch.channels_last)


def stage_count(arch: str) -> int:
    """How many stages a network has beside its head; no weights are allocated."""
    with torch.device("meta"):
        return len(_stages(_create(arch, outputs=1, download=False))[1])


def _create(arch: str, outputs: int, *, download: bool) -> nn.Module:
    if arch in OWN:
        if download:
            raise InputError(f"pretrained: imagenet: {arch} has no ImageNet weights; "
                             "write pretrained: none or name a file")  # fmt: skip
        return OWN[arch](num_classes=outputs)
    if not timm.is_model(arch):
        near = difflib.get_close_matches(arch, [*OWN, *timm.list_models()], n=4)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise InputError(f"arch {arch!r} is neither `cnn` nor a timm model{hint}")
    if download:
        _require_hub(arch)
    try:
        return timm.create_model(arch, pretrained=download, in_chans=1, num_classes=outputs)
    except (OSError, RuntimeError) as error:
        if not download:
            raise
        raise InputError(_unreachable(arch, str(error).splitlines()[0])) from error


def _require_hub(arch: str) -> None:
    """Fail in seconds where there is no network: the hub's client retries for most of a minute."""
    from huggingface_hub import constants, try_to_load_from_cache

    source = timm.get_pretrained_cfg(arch)
    if source is None or not source.has_weights:
        raise InputError(f"pretrained: imagenet: timm has no weights for {arch}; "
                         "write pretrained: none or name a file")  # fmt: skip
    cached = source.hf_hub_id and any(
        isinstance(try_to_load_from_cache(source.hf_hub_id, name), str)
        for name in ("model.safetensors", "pytorch_model.bin")
    )
    if cached or os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return
    if constants.HF_HUB_OFFLINE:
        raise InputError(_unreachable(arch, "HF_HUB_OFFLINE is set and nothing is cached"))
    host = constants.ENDPOINT.split("//")[-1].split("/")[0].partition(":")[0]
    try:
        socket.create_connection((host, 443), timeout=5).close()
    except OSError as error:
        raise InputError(_unreachable(arch, f"{host}: {error}")) from None


def _unreachable(arch: str, why: str) -> str:
    return (f"pretrained: imagenet: the weights of {arch} are out of reach ({why}); "
            "write pretrained: none, or pretrained: FILE with weights you have")  # fmt: skip


def _load_file(body: nn.Module, path: Path, arch: str) -> None:
    """Every weight but the head's from a file, verified key by key."""
    given: Mapping[str, Tensor] = read_weights(path)
    head, _ = _stages(body)
    wanted = body.state_dict()
    given = {
        name: one_channel(value, wanted[name]) if name in wanted else value
        for name, value in given.items()
        if name not in head
    }
    body_only = {name: value for name, value in wanted.items() if name not in head}
    check_keys(given, body_only, f"{path} does not fit {arch}")
    body.load_state_dict(dict(given), strict=False)


def _stages(body: nn.Module) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Names of the head's parameters and of each stage's, stem first.

    timm puts what stands between the last block and the classifier (DenseNet's `norm5`) in the
    classifier's group; here it belongs to the last stage, so that depth 0 leaves it alone.
    """
    # torch types every attribute of a Module as Tensor or Module, timm's methods among them
    groups = group_parameters(body, body.group_matcher(coarse=True))  # type: ignore[operator]
    ordered: list[list[str]] = [list(groups[key]) for key in sorted(groups)]
    classifier = {id(p) for p in body.get_classifier().parameters()}  # type: ignore[operator]
    named = dict(body.named_parameters())
    head = tuple(name for name in named if id(named[name]) in classifier)
    if not head:
        raise InputError(f"{type(body).__name__} has no classifier to train")
    stages = [[name for name in group if name not in head] for group in ordered]
    if len(stages) > 1 and len(stages[-1]) < len(ordered[-1]):
        tail = stages.pop()
        stages[-1].extend(tail)
    return head, tuple(tuple(stage) for stage in stages if stage)


def run(steps: Sequence[Step], x: Tensor) -> Tensor:
    """`x` through `steps`, in the precision that the device is good at."""
    with autocast(x.device):
        for step in steps:
            x = step(x)
    return x


def _all_in(frozen: set[str], prefix: str, module: nn.Module) -> bool:
    names = [f"{prefix}.{name}" if prefix else name for name, _ in module.named_parameters()]
    return bool(names) and frozen.issuperset(names)


def trained_names(net: Network) -> Iterable[str]:
    """Names of the tensors that train at the present depth."""
    return (name for name, p in net.body.named_parameters() if p.requires_grad)
