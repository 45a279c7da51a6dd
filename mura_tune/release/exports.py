"""One file of a release for other programs, its calibration folded into the last layer.

Whatever the format, the sigmoid of the first output is the calibrated probability of *abnormal* of
one view. A study's is the sigmoid of the output's mean over its views; of a release of schema 1 or
2 it is the mean of the sigmoids. A router's outputs are a calibrated logit an area; a study's
probabilities are the softmax of their mean over its views. A multi-task release has both, the
abnormality's output first.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from mura_tune.errors import InputError, MuraError
from mura_tune.files import EXPORTS, check_writable, replace_file
from mura_tune.networks.factory import build_network
from mura_tune.networks.heads import output_layers
from mura_tune.networks.network import members_of
from mura_tune.networks.normalisation import MEAN, RGB_MEAN, RGB_STD, STD
from mura_tune.networks.weights import copy_tensors
from mura_tune.release.release import Release
from mura_tune.release.release_tasks import release_task
from mura_tune.text import printable

EXPORT_TOLERANCE = 1e-4  # of an answer, between our network and what is exported
SAME_AS_TORCHVISION = ("resnet", "densenet")  # timm gives these networks torchvision's names


def export_release(release: Release, form: str, out: Path | None = None) -> tuple[Path, str]:
    """Write `release` in one of EXPORTS; returns the file and a line that says how to use it.

    Args:
        out: [default: AREA_FINAL_best.pt, AREA.onnx, … in the working folder]

    Raises:
        InputError: a package that this form needs is not installed, or a place that cannot be
            written.
        MuraError: ONNX answers differently than torch.
    """
    path = out or Path(f"{release.manifest.area}{EXPORTS[form]}")
    check_writable(path)
    content, usage = WRITERS[form](release)
    try:
        replace_file(path, content)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{path}: cannot be written ({reason}); choose --out") from None
    return path, usage


def calibrated_networks(release: Release) -> list[nn.Module]:
    """Copies of the members on the CPU whose outputs, or their mean, are calibrated logits.

    What is compared, here and for a pt, is compared in double precision: networks that are hardly
    trained may blow a rounding up, and that is no other answer.

    Raises:
        InputError: a network whose classifier cannot hold the calibration.
    """
    own = release_task(release.manifest.task)
    temperature, offset = own.read_calibration(release)
    own_head = own.task.head is not None
    views = _noise(release, channels=1)
    bodies = []
    for member in members_of(copy.deepcopy(release.net).cpu()):
        body = member.body.to(torch.float64, memory_format=torch.contiguous_format).eval()
        before = _logits(body, views)
        layers = output_layers(body.get_classifier(), before.shape[1])
        for layer in layers[:1] if own_head else layers:
            _fold(layer, temperature, offset)
        last = 1 if own_head else before.shape[1]
        calibrated = torch.cat(((before[:, :last] + offset) / temperature, before[:, last:]), 1)
        if not _gap(_logits(body, views), calibrated) <= EXPORT_TOLERANCE:
            raise InputError(
                f"{release.folder}: the classifier of {release.manifest.arch} cannot hold its "
                "calibration; use the release's folder"
            )
        bodies.append(body.float())
    return bodies


@torch.no_grad()
def _fold(layer: nn.Linear | nn.Conv2d, temperature: float, offset: float) -> None:
    """Let a layer give (logit + offset) / temperature."""
    layer.weight /= temperature
    if layer.bias is not None:
        layer.bias.copy_((layer.bias + offset) / temperature)


@torch.inference_mode()
def _logits(body: nn.Module, views: Tensor) -> Tensor:
    logits: Tensor = body(views)
    return logits


def _gap(reference: Tensor, other: Tensor) -> float:
    """The largest difference from `reference`, as a share of its size where that is over 1; NaN if
    either tensor holds a NaN."""
    return float(((reference - other).abs() / reference.abs().clamp_min(1)).max())


def _noise(release: Release, channels: int) -> Tensor:
    """Two grey views (2, C, S, S), as the network reads them or normalised as ImageNet's are, in
    double precision."""
    size = release.manifest.preprocessing.size
    generator = torch.Generator().manual_seed(0)
    levels = torch.rand((2, 1, size, size), generator=generator, dtype=torch.float64)
    if channels == 1:
        return (levels - MEAN) / STD
    mean, deviation = (
        torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (RGB_MEAN, RGB_STD)
    )
    return (levels - mean) / deviation


def expand_to_three_channels(weight: Tensor) -> Tensor:
    """A grey stem (O, 1, h, w) as (O, 3, h, w) for pictures normalised as ImageNet's are.

    With w_c = W s_c / (3 STD) the channels add up to W (g - MEAN) / STD for a grey level g, as the
    m_c average to MEAN. No bias is needed, so that zero padding stays what it was.
    """
    scale = torch.tensor(RGB_STD, dtype=weight.dtype).view(1, 3, 1, 1) / (3 * STD)
    return weight * scale


def _pt(release: Release) -> tuple[bytes, str]:
    arch, size = release.manifest.arch, release.manifest.preprocessing.size
    if release_task(release.manifest.task).task.head:
        raise InputError(
            f"{release.folder}: a pt holds {arch} with a linear classifier, and the "
            "multi-task head is none; export it --to onnx or safetensors"
        )
    weights = _in_three_channels(release, _only(release))
    file = io.BytesIO()
    torch.save({"model_state": weights, **_about(release)}, file)
    same = arch.startswith(SAME_AS_TORCHVISION)
    names = f"torchvision's names of {arch}" if same else f"the names of timm's {arch}"
    if arch == "cnn" or arch.startswith("hybrid"):
        names = f"names of our own {arch}, which no other library has"
    return file.getvalue(), (
        f"model_state with {names}; RGB squashed to {size} x {size}, "
        f"ImageNet's normalisation, {_outputs(release)}"
    )


def _in_three_channels(release: Release, body: nn.Module) -> dict[str, Tensor]:
    """The weights of a calibrated network for pictures in three channels, tried in one that takes
    them.

    Raises:
        InputError: a network that answers otherwise, since it standardises its stem's weights, or
            one that does more with the grey channel than convolutions do.
    """
    arch, size = release.manifest.arch, release.manifest.preprocessing.size
    refusal = f"{release.folder}: a pt of {arch} for three channels"
    instead = "export it --to onnx or safetensors"
    weights = body.double().state_dict()
    twin = build_network(arch, size=size, outputs=release.manifest.outputs, channels=3).body
    twin = twin.double().eval()
    for name, three_channels in twin.state_dict().items():
        if weights[name].shape == three_channels.shape:
            continue
        if three_channels.ndim != 4 or weights[name].shape[1] != 1 or three_channels.shape[1] != 3:
            raise InputError(
                f"{refusal} cannot be made: {name} does not read the grey channel alone; {instead}"
            )
        weights[name] = expand_to_three_channels(weights[name])
    twin.load_state_dict(weights)
    grey, rgb = (
        _logits(body, _noise(release, channels=1)),
        _logits(twin, _noise(release, channels=3)),
    )
    if not (gap := _gap(grey, rgb)) <= EXPORT_TOLERANCE:
        raise InputError(
            f"{refusal} would answer otherwise (logits differ by {gap:.1e}): it standardises the "
            f"weights that read the picture; {instead}"
        )
    return {name: v.float() if v.is_floating_point() else v for name, v in weights.items()}


def _joblib(release: Release) -> tuple[bytes, str]:
    import joblib

    file = io.BytesIO()
    joblib.dump({name: value.numpy() for name, value in _only(release).state_dict().items()}, file)
    return file.getvalue(), f"a dict of numpy arrays by name; {_grey(release)}, {_outputs(release)}"


def _safetensors(release: Release) -> tuple[bytes, str]:
    about = {name: str(value) for name, value in _about(release).items()}
    weights = copy_tensors(_only(release).state_dict())
    content = to_safetensors(weights, metadata={"format": "pt", **about})
    return content, f"tensors by name; {_grey(release)}, {_outputs(release)}"


class ExportedAnswers(nn.Module):
    """Grey levels (N, 1, S, S) from 0 to 1 in; what is made of the mean logits (N, K) out.

    Args:
        outputs: by name, from logits (N, K); see `ReleaseTask.onnx_outputs`.
        flip_test: whether logits are averaged over a view and its mirror image.
    """

    def __init__(
        self,
        bodies: Sequence[nn.Module],
        outputs: Mapping[str, Callable[[Tensor], Tensor]],
        *,
        flip_test: bool = False,
    ) -> None:
        super().__init__()
        self.bodies = nn.ModuleList(bodies)
        self.outputs = dict(outputs)
        self.flip_test = flip_test

    def forward(self, levels: Tensor) -> tuple[Tensor, ...]:
        x_nchw = (levels - MEAN) / STD
        views = (x_nchw, x_nchw.flip(-1)) if self.flip_test else (x_nchw,)
        logits_nk = torch.stack([body(x) for body in self.bodies for x in views]).mean(0)
        return tuple(answer(logits_nk) for answer in self.outputs.values())


def _onnx(release: Release) -> tuple[bytes, str]:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"--to onnx needs {package}: pip install 'mura-tune[onnx]'")
    size = release.manifest.preprocessing.size
    outputs = release_task(release.manifest.task).onnx_outputs(release)
    flips = _averages_flips(release)
    net = ExportedAnswers(calibrated_networks(release), outputs, flip_test=flips).eval()
    levels = torch.rand((3, 1, size, size), generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():  # the exporter's own, about torch's insides
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                net,
                (levels,),
                dynamo=True,
                verbose=False,
                input_names=["levels"],
                output_names=list(outputs),
                dynamic_shapes={"levels": {0: torch.export.Dim("views")}},
            )
        except MemoryError:
            raise
        except Exception as error:
            # torch.onnx documents one kind, and errors of its passes and of onnxscript come
            # through: all say that this network cannot be written so. The cause stays, for
            # MURA_DEBUG.
            reason = printable(str(error).partition("\n")[0].partition(". ")[0])
            raise InputError(
                f"{release.folder}: {release.manifest.arch} cannot be written as onnx "
                f"({reason or 'torch does not say why'}); export it --to pt or safetensors"
            ) from error
    assert program is not None  # it is, with dynamo
    model = program.model_proto  # made anew whenever it is asked for
    for name, value in _about(release).items():
        model.metadata_props.add(key=name, value=str(value))
    content: bytes = model.SerializeToString()
    worst = max(measure_onnx_gap(content, net, views) for views in (levels, levels[:1]))
    if not worst <= EXPORT_TOLERANCE:
        raise MuraError(f"{release.folder}: ONNX differs from torch by {worst:.1e}; not written")
    areas = ", ".join(release.manifest.areas)
    meanings = {
        "probability": "probability (views, 1) of abnormal",
        "logit": "its logit (views, 1): a study's probability is the sigmoid of their mean",
        "areas": f"areas (views, K), a logit of each of {areas}: softmax their mean over a "
        "study's views",
    }
    return content, (
        f"levels (views, 1, {size}, {size}), grey from 0 to 1, to "
        + " and ".join(meanings[name] for name in outputs)
    )


@torch.inference_mode()
def measure_onnx_gap(content: bytes, net: nn.Module, views: Tensor) -> float:
    """The largest difference between what an ONNX model and `net` make of views (N, 1, S, S), of
    a probability, or of a logit and of its size where that is above 1."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    onnx_outputs = session.run(None, {"levels": views.numpy()})
    gaps = [
        np.abs(onnx_output - output.numpy()) / np.maximum(1, np.abs(onnx_output))
        for onnx_output, output in zip(onnx_outputs, net(views), strict=True)
    ]
    return float(max(gap.max() for gap in gaps))


def _only(release: Release) -> nn.Module:
    """The one network of a release, calibrated; InputError where its answer is a mean."""
    if _averages_flips(release):
        raise InputError(
            f"{release.folder}: flip_test: the mean of a view's answer and its mirror image's is "
            "that of no single network; export it --to onnx"
        )
    bodies = calibrated_networks(release)
    if len(bodies) > 1:
        raise InputError(
            f"{release.folder}: the mean of {len(bodies)} networks is no single one; "
            "export it --to onnx, or finalize one seed"
        )
    return bodies[0]


def _averages_flips(release: Release) -> bool:
    return any(member.flip_test for member in members_of(release.net))


def _about(release: Release) -> dict[str, Any]:
    """Plain values that travel beside the weights; a reader that wants weights alone skips them."""
    manifest, own = release.manifest, release_task(release.manifest.task)
    areas = {"task": manifest.task, "areas": list(manifest.areas)}
    return {
        "area": manifest.area,
        "arch": manifest.arch,
        "size": manifest.preprocessing.size,
        **own.export_decision(release),
        "recipe_digest": manifest.recipe_digest,
        **(areas if own.task.recognises_areas else {}),
    }


def _outputs(release: Release) -> str:
    """What the outputs are, in words."""
    return release_task(release.manifest.task).describe_outputs(release)


def _grey(release: Release) -> str:
    size = release.manifest.preprocessing.size
    return f"one grey channel of {size} x {size}, (level - {MEAN}) / {STD} of 0 to 1"


ExportWriter = Callable[[Release], tuple[bytes, str]]
# What makes the content of a file, and the line that says how to use the file.
WRITERS: Mapping[str, ExportWriter] = {
    "pt": _pt,
    "joblib": _joblib,
    "onnx": _onnx,
    "safetensors": _safetensors,
}
