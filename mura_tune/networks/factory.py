"""Networks by name: built fresh, from a start, or from the weights of a release."""

from __future__ import annotations

import copy
import difflib
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mura_tune.errors import InputError, MuraError
from mura_tune.networks.cnn import SmallCNN
from mura_tune.networks.hybrid import HYBRID, Hybrid, backbone_name
from mura_tune.networks.imagenet import (
    find_packaged_weights,
    load_packaged_weights,
    require_hub_weights,
    unreachable_weights,
)
from mura_tune.networks.network import Network, find_classifier
from mura_tune.networks.normalisation import fold_normalisation, own_normalisation
from mura_tune.networks.starts import IMAGENET, NONE, load_start
from mura_tune.networks.weights import (
    check_finite_weights,
    check_tensor_names,
    read_shapes,
    read_weights,
)
from mura_tune.recipe import SIZES
from mura_tune.text import printable

ANY_SIDE = 224  # of a network that says nothing of its own
OWN_NETWORKS: dict[str, Callable[..., nn.Module]] = {"cnn": SmallCNN}
MOST_OUTPUTS = 1000  # more areas than any dataset has


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
            load_start(body, find_classifier(body)[0], pretrained, arch, fold if own else None)
        if head:
            _put_head(body, head, outputs)
        return _finish(body, arch, size, channels)


def _finish(body: nn.Module, arch: str, size: int | None, channels: int = 1) -> Network:
    """Try the network on an image of `size` px, and lay its weights out as its images are."""
    if size is not None:
        _require_patches(body, arch, size)
        _try(body, arch, size, channels)
    if any(value.ndim == 5 for value in body.parameters()):  # torch would take them for videos
        return Network(body)
    return Network(body).to(memory_format=torch.channels_last)


class NetworkCopies:
    """`build_network` for one trial after another: the same network again is a copy of the first.

    Files of weights are read, drawn and checked when a network is built; the trials of a search
    begin with the same one. The last one is kept, in the host's memory.
    """

    def __init__(self) -> None:
        self._built: tuple[tuple[object, ...], Network] | None = None

    def __call__(self, arch: str, **options: Any) -> Network:
        """What `build_network` returns for the same arguments; InputError as there."""
        asked = (arch, *sorted(options.items()))
        known, first = self._built or ((), None)
        if first is None or known != asked:
            self._built = None  # or both would be in memory
            first = build_network(arch, **options)
            self._built = asked, first
        return copy.deepcopy(first)


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
    with torch.random.fork_rng(devices=[]), _Undrawn():
        torch.manual_seed(0)
        body = _create(arch, outputs, size=size, download=False)
        if head:
            _put_head(body, head, outputs)
    body.load_state_dict(read_weights(path))
    check_finite_weights(body.state_dict(), path)
    return _finish(body, arch, size)


class _Undrawn(TorchFunctionMode):
    """Within it, networks are built without random weights, which take longest to make.

    The memory of parameters is what it was before: a file fills all of it. What else is drawn is
    drawn: `trunc_normal_` draws again until all values lie within its bounds.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        values = kwargs or {}
        if func in _DRAWS:
            drawn = args[0] if args else values["tensor"]
            if isinstance(drawn, nn.Parameter):
                return drawn
        return func(*args, **values)


_DRAWS = {
    Tensor.normal_,
    Tensor.uniform_,
    nn.init.kaiming_normal_,
    nn.init.kaiming_uniform_,
    nn.init.normal_,
    nn.init.trunc_normal_,
    nn.init.uniform_,
    nn.init.xavier_normal_,
    nn.init.xavier_uniform_,
}


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
    return dict(_outline(arch, size, outputs, head, channels))


@functools.lru_cache(maxsize=8)  # the members of a release are of one network
def _outline(
    arch: str,
    size: int,
    outputs: int,
    head: Callable[[int, int], nn.Module] | None,
    channels: int,
) -> Mapping[str, Tensor]:
    with torch.device("meta"), _Undrawn():
        body = _create(arch, outputs, size=size, download=False, channels=channels)
        if head:
            _put_head(body, head, outputs)
    return body.state_dict()


@functools.lru_cache(maxsize=8)
def count_stages(arch: str) -> int:
    """Return how many stages a network has beside its head; no weights are allocated."""
    with torch.device("meta"), _Undrawn():
        return len(Network(_create(arch, outputs=1, size=None, download=False)).stages)


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
    name, classifier = find_classifier(body)
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
    except Exception as error:
        # timm's networks refuse a size by assert, ValueError, RuntimeError, … each in its own way;
        # the message quotes what it was.
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
