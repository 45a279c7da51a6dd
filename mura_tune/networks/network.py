"""Networks with stages: any timm backbone or our own, trained from the head down to a depth.

An `Ensemble` is several networks that answer as one, by the mean of their logits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from timm.models import group_parameters
from timm.models.convnext import ConvNeXt
from timm.models.densenet import DenseNet
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mura_tune.errors import InputError
from mura_tune.networks.cnn import SmallCNN
from mura_tune.networks.device import autocast
from mura_tune.networks.hybrid import Hybrid
from mura_tune.text import printable

# The methods that stages, freezing, heatmaps and the head need.
TIMM_METHODS = ("forward_features", "forward_head", "get_classifier", "group_matcher")

Step = Callable[[Tensor], Tensor]

# What each class's `forward_features` does, step by step; a subclass may do otherwise.
FORWARD_STEPS: dict[type, Callable[[Any], list[Step]]] = {
    SmallCNN: lambda b: [b.stem, *b.stages],
    ResNet: lambda b: [b.conv1, b.bn1, b.act1, b.maxpool, b.layer1, b.layer2, b.layer3, b.layer4],
    DenseNet: lambda b: [*b.features],
    EfficientNet: lambda b: [b.conv_stem, b.bn1, *b.blocks, b.conv_head, b.bn2],
    ConvNeXt: lambda b: [b.stem, *b.stages, b.norm_pre],
    VisionTransformer: lambda b: [
        b.patch_embed,
        b._pos_embed,
        b.patch_drop,
        b.norm_pre,
        *b.blocks,
        b.norm,
    ],
}


class Network(nn.Module):
    """A body that maps (N, 1, S, S) to (N, K), and which of its stages train.

    Stages run from the stem to the last block before the classifier; the classifier itself is
    the head and belongs to no stage. `body.state_dict()` is saved.

    Attributes:
        flip_test: whether, in evaluation mode, its logits are the mean of those of a view and of
            its mirror image.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body: Any = body  # torch types its methods, timm's, as Tensor or Module
        self.head, self.stages = _stages(body)
        self.flip_test = False
        # Each module with its place and the names of its parameters: asked once, used a phase.
        self._owners: list[tuple[str, nn.Module, frozenset[str]]] = [
            (prefix, module, _parameter_names(prefix, module))
            for prefix, module in body.named_modules()
        ]
        self._frozen: list[nn.Module] = []
        self._norms: list[nn.Module] = []
        self.set_depth(len(self.stages))

    def forward(self, x_nchw: Tensor) -> Tensor:
        if self.flip_test and not self.training:
            return (self._answer(x_nchw) + self._answer(x_nchw.flip(-1))) / 2
        return self._answer(x_nchw)

    def _answer(self, x_nchw: Tensor) -> Tensor:
        """Logits (N, K) of views as they are."""
        if (steps := self.steps()) is None:
            logits: Tensor = self.body(x_nchw)
            return logits
        return self.finish(steps, x_nchw)

    def steps(self) -> list[Step] | None:
        """Return all steps before the classifier; None for a class not in `FORWARD_STEPS`."""
        if (before := _steps(self.body)) is None:
            return None
        return [*before, functools.partial(self.body.forward_head, pre_logits=True)]

    def finish(self, steps: Sequence[Step], x: Tensor) -> Tensor:
        """Run `steps`, which end with the pooling, and the classifier: logits (N, K).

        The logits are float32 whatever the steps run in: rounded ones tie, and AUC suffers.
        """
        logits: Tensor = self.body.get_classifier()(run_steps(steps, x).float())
        return logits

    def set_depth(self, depth: int) -> int:
        """Let the head and the last `depth` stages train. Return the depth, at most all stages."""
        depth = min(depth, len(self.stages))
        frozen = {name for stage in self.stages[: len(self.stages) - depth] for name in stage}
        for name, parameter in self.body.named_parameters():
            parameter.requires_grad_(name not in frozen)
        self._frozen, within = [], "."
        for prefix, module, names in self._owners:  # a module stands before those inside it
            if names and frozen.issuperset(names) and not prefix.startswith(within):
                self._frozen.append(module)
                within = f"{prefix}."
        self.train(self.training)
        return depth

    def freeze_statistics(self) -> None:
        """Let every BatchNorm layer normalise by the statistics that it has now, in training too.

        Its scale and offset still train with their stage.
        """
        kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
        self._norms = [module for module in self.body.modules() if isinstance(module, kinds)]
        self.train(self.training)

    def distance(self, name: str) -> int:
        """Return how many stages below the head a parameter is: 1 in the last, 0 in the head."""
        stages = (index for index, stage in enumerate(self.stages) if name in stage)
        return len(self.stages) - next(stages, len(self.stages))

    def train(self, mode: bool = True) -> Network:
        """Set training mode, except for frozen stages and frozen statistics, which would drift."""
        super().train(mode)
        for module in (*self._frozen, *self._norms):
            module.eval()
        return self


def _stages(body: nn.Module) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Return the names of the head's parameters, and of each stage's, stem first.

    timm puts the layers between the last block and the classifier (DenseNet's `norm5`) in the
    classifier's group; here they belong to the last stage, so that depth 0 leaves them alone.
    """
    name, _ = find_classifier(body)
    head = tuple(n for n, _ in body.named_parameters() if n.startswith(f"{name}."))
    timms: Any = body  # see Network.body
    try:
        groups = group_parameters(body, timms.group_matcher(coarse=True))
    except (AssertionError, AttributeError) as error:  # RDNet's way, and that of a hybrid's stem
        raise InputError(
            f"{type(body).__name__} has no stages that train one by one ({printable(error)}); "
            "choose another arch"
        ) from None
    ordered: list[list[str]] = [list(groups[key]) for key in sorted(groups)]
    stages = [[name for name in group if name not in head] for group in ordered]
    if len(stages) > 1 and len(stages[-1]) < len(ordered[-1]):
        tail = stages.pop()
        stages[-1].extend(tail)
    return head, tuple(tuple(stage) for stage in stages if stage)


def find_classifier(body: nn.Module) -> tuple[str, nn.Module]:
    """Return the name of the module that gives the outputs, and that module.

    Raises:
        InputError: a network that lacks timm's methods, or has no classifier, or two.
    """
    timms: Any = body  # see Network.body
    kind = type(body).__name__
    lacking = [name for name in TIMM_METHODS if not callable(getattr(body, name, None))]
    if lacking:
        raise InputError(
            f"{kind} has no {lacking[0]}, which training by stages needs; choose another arch"
        )
    last = timms.get_classifier()
    if not isinstance(last, nn.Module):  # LeViT and distilled ViTs have two
        raise InputError(f"{kind} has no single classifier to train")
    name = next((name for name, module in body.named_modules() if module is last), "")
    if not name or not any(True for _ in last.parameters()):
        raise InputError(f"{kind} has no classifier to train")
    return name, last


def run_steps(steps: Sequence[Step], x: Tensor) -> Tensor:
    """Pass `x` through `steps`, in the precision that suits the device."""
    with autocast(x.device):
        for step in steps:
            x = step(x)
    return x


def is_map(features: object) -> bool:
    """Return whether features are one map, (N, C, H, W); CoaT gives several."""
    return isinstance(features, Tensor) and features.ndim == 4


def shape_of(features: object) -> str:
    """Return the shape of a view's features, for a message."""
    return str(tuple(features.shape[1:])) if isinstance(features, Tensor) else "several"


def _steps(body: nn.Module) -> list[Step] | None:
    """Return the steps of `forward_features`; None for a class not in `FORWARD_STEPS`."""
    if not isinstance(body, Hybrid):
        return FORWARD_STEPS[type(body)](body) if type(body) in FORWARD_STEPS else None
    of_stem = _steps(body.stem)
    return of_stem and [*of_stem, body.embed, *body.encoder, body.norm]


def _parameter_names(prefix: str, module: nn.Module) -> frozenset[str]:
    """Return the names of a module's parameters, those inside it too, as the body has them."""
    return frozenset(
        f"{prefix}.{name}" if prefix else name for name, _ in module.named_parameters()
    )


def trainable_names(net: Network) -> Iterable[str]:
    """Return the names of the tensors that train at the present depth."""
    return (name for name, p in net.body.named_parameters() if p.requires_grad)


class Ensemble(nn.Module):
    """Networks of one kind whose logits (N, K) are averaged."""

    def __init__(self, members: Sequence[Network]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x_nchw: Tensor) -> Tensor:
        return torch.stack([member(x_nchw) for member in self.members]).mean(0)


Model = Network | Ensemble


def join_members(members: Sequence[Network]) -> Model:
    """Return one network as it is, and several as an ensemble."""
    return members[0] if len(members) == 1 else Ensemble(members)


def members_of(net: Model) -> Iterator[Network]:
    """Yield the members of an ensemble, or the network itself."""
    if isinstance(net, Network):
        yield net
        return
    for member in net.members:
        assert isinstance(member, Network)  # nn.ModuleList forgets what it was given
        yield member
