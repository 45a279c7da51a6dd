"""Networks with stages: any timm backbone or our own, trained from the head down to a depth.

An `Ensemble` is several networks that answer as one, by the mean of their logits.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
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

from mura_tune.errors import InputError, MuraError
from mura_tune.networks.cnn import SmallCNN
from mura_tune.networks.device import autocast
from mura_tune.networks.hybrid import HYBRID, Hybrid, backbone_name
from mura_tune.networks.imagenet import (
    load_packaged_weights,
    require_hub_weights,
    unreachable_weights,
)
from mura_tune.networks.normalisation import fold_normalisation, own_normalisation
from mura_tune.networks.packages import find_packaged_weights
from mura_tune.networks.starts import IMAGENET, NONE, load_start
from mura_tune.networks.weights import (
    check_finite_weights,
    check_tensor_names,
    read_shapes,
    read_weights,
)
from mura_tune.recipe import SIZES
from mura_tune.text import printable

OWN_NETWORKS: dict[str, Callable[..., nn.Module]] = {"cnn": SmallCNN}
ANY_SIDE = 224  # of a network that says nothing of its own
MOST_OUTPUTS = 1000  # more areas than any dataset has
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
        self._frozen = [
            module
            for prefix, module in self.body.named_modules()
            if _all_in(frozen, prefix, module)
        ]
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


def build_network(
    arch: str,
    *,
    size: int | None = None,
    pretrained: str = NONE,
    outputs: int = 1,
    seed: int = 0,
    head: Callable[[int, int], nn.Module] | None = None,
    channels: int = 1,
    normalisation: str = "common",
) -> Network:
    """Build a network with one grey input channel.

    Args:
        arch: `cnn`, `hybrid`, `hybrid-STEM`, or the name of a timm backbone.
        size: pixels a side of the images; None leaves the size that the backbone was made for.
        pretrained: `imagenet` (an installed package's weights or timm's, the RGB stem summed),
            `none`, a file of weights, or the folder of a release.
        outputs: K.
        seed: of the initial weights; the global generator is left as it was.
        head: makes a module for the classifier's place, from its numbers of inputs and outputs.
        channels: of a view; other programs feed a network 3.
        normalisation: `own` folds the normalisation that RGB weights expect into one grey channel,
            see `fold_normalisation`; `common` sums the channels of them all alike.

    Raises:
        InputError: an unknown name, a size it cannot take, weights out of reach, or some that do
            not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        download = pretrained == IMAGENET
        own = normalisation == "own"
        body = _create(arch, outputs, size=size, download=download and not own, channels=channels)
        fold = functools.partial(fold_normalisation, body, side=size or _side_of(arch))
        if download and own:
            rgb = _create(arch, outputs, size=size, download=True, channels=3).state_dict()
            grey = fold(rgb, own_normalisation(arch))
            check_tensor_names(grey, body.state_dict(), f"{arch} reads more than a grey channel")
            body.load_state_dict(grey)
        elif pretrained not in (IMAGENET, NONE):
            load_start(body, _classifier(body)[0], pretrained, arch, fold if own else None)
        if head:
            _put_head(body, head, outputs)
        if size is not None:
            _require_patches(body, arch, size)
            _try(body, arch, size, channels)
    if any(value.ndim == 5 for value in body.parameters()):  # torch would take them for videos
        return Network(body)
    return Network(body).to(memory_format=torch.channels_last)


def restore_network(
    path: Path,
    arch: str,
    *,
    size: int,
    outputs: int = 1,
    head: Callable[[int, int], nn.Module] | None = None,
) -> Network:
    """Build a network with the weights of a safetensors file; see `build_network`.

    The file's header is compared with the network's outline first: a network that needs more than
    the file holds takes no memory.

    Raises:
        InputError: as `build_network` and `outline_network`; also a file that is no safetensors
            file, a tensor that is missing, foreign or misshapen, by name, or one with a number that
            is not finite.
    """
    expected = outline_network(arch, size=size, outputs=outputs, head=head)
    check_tensor_names(read_shapes(path), expected, f"{path} does not fit {arch}")
    net = build_network(arch, size=size, outputs=outputs, head=head)
    net.body.load_state_dict(read_weights(path))
    check_finite_weights(net.body.state_dict(), path)
    return net


def outline_network(
    arch: str,
    *,
    size: int,
    outputs: int = 1,
    head: Callable[[int, int], nn.Module] | None = None,
    channels: int = 1,
) -> dict[str, Tensor]:
    """Return a network's tensors by name on the meta device: shapes, without memory.

    Raises:
        InputError: an unknown name, or a size or number of outputs that no recipe may have.
    """
    if size not in SIZES:
        raise InputError(f"size {size}: sizes go from {SIZES[0]} to {SIZES[-1]} px")
    if not 1 <= outputs <= MOST_OUTPUTS:
        raise InputError(f"outputs {outputs}: a network has 1 to {MOST_OUTPUTS}")
    with torch.device("meta"):
        body = _create(arch, outputs, size=size, download=False, channels=channels)
        if head:
            _put_head(body, head, outputs)
    return dict(body.state_dict())


def count_stages(arch: str) -> int:
    """Return how many stages a network has beside its head; no weights are allocated."""
    with torch.device("meta"):
        return len(_stages(_create(arch, outputs=1, size=None, download=False))[1])


def _create(
    arch: str, outputs: int, *, size: int | None, download: bool, channels: int = 1
) -> nn.Module:
    if arch in OWN_NETWORKS:
        if download:
            raise InputError(
                f"pretrained: imagenet: {arch} has no ImageNet weights; "
                "write --set pretrained=none, or name a file of weights"
            )
        return OWN_NETWORKS[arch](num_classes=outputs, in_chans=channels)
    if (stem := backbone_name(arch)) != arch:
        return Hybrid(_from_timm(stem, 0, size, download, channels), num_classes=outputs)
    return _from_timm(arch, outputs, size, download, channels)


def _from_timm(
    arch: str, outputs: int, size: int | None, download: bool, channels: int
) -> nn.Module:
    _require_known(arch)
    packaged = find_packaged_weights(arch) if download else None
    from_hub = download and packaged is None
    if from_hub:
        require_hub_weights(arch)
    about = timm.get_pretrained_cfg(arch)
    fixed = size is not None and about is not None and about.fixed_input_size
    options: dict[str, Any] = {"img_size": size} if fixed else {}
    try:
        body: nn.Module = timm.create_model(
            arch, pretrained=from_hub, in_chans=channels, num_classes=outputs, **options
        )
    except (AssertionError, ValueError) as error:  # of a size: all else is its default
        raise _unfit(arch, size, error) from None
    except (OSError, RuntimeError) as error:
        if not from_hub:
            raise
        raise unreachable_weights(arch, str(error).splitlines()[0]) from error
    if packaged:
        load_packaged_weights(body, packaged, arch)
    return body


def _side_of(arch: str) -> int:
    """Return the pixels a side that a network was made for."""
    about = timm.get_pretrained_cfg(backbone_name(arch)) if arch not in OWN_NETWORKS else None
    return int(about.input_size[-1]) if about is not None else ANY_SIDE


def _require_known(arch: str) -> None:
    """Raise InputError for a name, or a tag of weights of that name, that timm does not know."""
    name, _, tag = arch.partition(".")
    if not timm.is_model(name):
        near = difflib.get_close_matches(
            arch[:100], [*OWN_NETWORKS, HYBRID, *timm.list_models()], n=4
        )
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise InputError(
            f"arch {printable(arch[:100])!r} is neither `cnn`, `hybrid` nor a timm model{hint}"
        )
    try:
        timm.get_pretrained_cfg(arch)
    except RuntimeError:
        tags = [known.partition(".")[2] for known in timm.list_pretrained(name)]
        hint = f"it has {', '.join(tags)}" if tags else "it has none"
        raise InputError(
            f"arch {printable(arch[:100])!r}: timm has no weights {printable(tag)!r} of {name}; "
            f"{hint}; write arch: {name}"
        ) from None


def _put_head(body: nn.Module, head: Callable[[int, int], nn.Module], outputs: int) -> None:
    """Put `head` in the place of the classifier."""
    name, classifier = _classifier(body)
    if not isinstance(classifier, nn.Linear):
        raise InputError(f"{type(body).__name__} has no linear classifier to put another head on")
    parent, _, leaf = name.rpartition(".")
    setattr(body.get_submodule(parent), leaf, head(classifier.in_features, outputs))


@torch.inference_mode()
def _try(body: nn.Module, arch: str, size: int, channels: int) -> None:
    """Run one black image through the network. Raises InputError for a size that it cannot take."""
    try:
        answer = body.eval()(torch.zeros(1, channels, size, size))
    except (MuraError, MemoryError):
        raise
    except Exception as error:  # each network has its own way to say that a size does not fit
        raise _unfit(arch, size, error) from None
    if not bool(answer.isfinite().all()):
        raise _unfit(arch, size, ValueError("its answer to a black one is not finite"))
    body.train()


def _require_patches(body: nn.Module, arch: str, size: int) -> None:
    """Raise InputError for a size that the patches of a Transformer do not divide."""
    patches: Any = getattr(getattr(body, "stem", body), "patch_embed", None)
    side = getattr(patches, "patch_size", 1)
    side = side if isinstance(side, int) else side[0]  # a number in XCiT, else a pair
    if size % side and not getattr(patches, "dynamic_img_pad", False):
        near = [value for value in (size - size % side, size - size % side + side) if value]
        raise InputError(
            f"size {size}: {arch} reads patches of {side} px, which do not divide it; "
            f"choose {' or '.join(map(str, near))}"
        )


def _unfit(arch: str, size: int | None, error: Exception) -> InputError:
    reason = printable(str(error).partition("\n")[0]).rstrip(". ") or "it does not say why"
    about = timm.get_pretrained_cfg(arch)
    own = f", such as {about.input_size[-1]}" if about is not None else ""
    return InputError(
        f"size {size}: {arch} takes no images of {size} px ({reason}); choose another size{own}"
    )


def _stages(body: nn.Module) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Return the names of the head's parameters, and of each stage's, stem first.

    timm puts the layers between the last block and the classifier (DenseNet's `norm5`) in the
    classifier's group; here they belong to the last stage, so that depth 0 leaves them alone.
    """
    name, _ = _classifier(body)
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


def _classifier(body: nn.Module) -> tuple[str, nn.Module]:
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


def _all_in(frozen: set[str], prefix: str, module: nn.Module) -> bool:
    names = [f"{prefix}.{name}" if prefix else name for name, _ in module.named_parameters()]
    return bool(names) and frozen.issuperset(names)


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
