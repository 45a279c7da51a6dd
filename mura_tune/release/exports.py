"""One file of a release for other programs, its calibration folded into the last layer.

Whatever the format, the sigmoid of the first output is the calibrated probability of *abnormal* of
one view, and a study's is the mean over its views. A router's outputs are a calibrated logit an
area; a study's probabilities are the softmax of their mean over its views. A multi-task release
has both, the abnormality's output first.
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
from mura_tune.files import replace
from mura_tune.learning.batches import MEAN, STD
from mura_tune.learning.ensemble import members_of
from mura_tune.learning.heads import PartHead
from mura_tune.learning.tasks import ABNORMALITY, MULTITASK, PART, TASKS
from mura_tune.release.bundle import Bundle
from mura_tune.release.calibrate import Chosen
from mura_tune.release.routing import Routing

# ImageNet's means and deviations, by which other programs normalise three channels. Their means
# average to MEAN; that is what makes `three_channels` exact.
RGB_MEAN, RGB_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TOLERANCE = 1e-4  # of an answer, between torch and ONNX
SAME_AS_TORCHVISION = ("resnet", "densenet")  # timm gives these networks torchvision's names


def export(bundle: Bundle, kind: str, out: Path | None = None) -> tuple[Path, str]:
    """Write `bundle` as one of KINDS; returns the file and a line that says how to use it.

    Args:
        out: [default: AREA_FINAL_best.pt, AREA.onnx, … in the working folder]

    Raises:
        InputError: a package that this kind needs is not installed, or a place that cannot be
            written.
        MuraError: ONNX answers differently than torch.
    """
    suffix, write = KINDS[kind]
    path = out or Path(f"{bundle.manifest['area']}{suffix}")
    content, told = write(bundle)
    try:
        replace(path, content)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{path}: cannot be written ({reason}); choose --out") from None
    return path, told


def calibrated(bundle: Bundle) -> list[nn.Module]:
    """Copies of the members on the CPU whose outputs, or their mean, are calibrated logits."""
    fitted = bundle.manifest["calibration"]
    temperature, offset = fitted["temperature"], fitted.get("offset", 0.0)  # a router has none
    bodies = []
    for member in members_of(copy.deepcopy(bundle.net).cpu()):
        head = member.body.get_classifier()
        classifier = head.abnormal if isinstance(head, PartHead) else head
        with torch.no_grad():
            classifier.weight /= temperature
            classifier.bias.copy_((classifier.bias + offset) / temperature)
        bodies.append(member.body.to(memory_format=torch.contiguous_format).eval())
    return bodies


def three_channels(weight: Tensor) -> Tensor:
    """A grey stem (O, 1, h, w) as (O, 3, h, w) for pictures normalised as ImageNet's are.

    With w_c = W s_c / (3 STD) the channels add up to W (g - MEAN) / STD for a grey level g, as the
    m_c average to MEAN. No bias is needed, so that zero padding stays what it was.
    """
    scale = torch.tensor(RGB_STD, dtype=weight.dtype).view(1, 3, 1, 1) / (3 * STD)
    return weight * scale


def stem_of(body: nn.Module) -> str:
    """The name of the convolution that reads the grey channel."""
    convolutions = (item for item in body.named_modules() if isinstance(item[1], nn.Conv2d))
    name: str = next(name for name, module in convolutions if module.in_channels == 1)
    return name


def _pt(bundle: Bundle) -> tuple[bytes, str]:
    arch, size = bundle.manifest["arch"], bundle.manifest["preprocessing"]["size"]
    if TASKS[_task(bundle)].head:
        raise InputError(f"{bundle.folder}: a pt holds {arch} with a linear classifier, and the "
                         "multi-task head is none; export it --to onnx or safetensors")  # fmt: skip
    body = _only(bundle)
    weights = body.state_dict()
    stem = f"{stem_of(body)}.weight"
    weights[stem] = three_channels(weights[stem])
    file = io.BytesIO()
    torch.save({"model_state": weights, **_about(bundle)}, file)
    same = arch.startswith(SAME_AS_TORCHVISION)
    names = f"torchvision's names of {arch}" if same else f"the names of timm's {arch}"
    if arch == "cnn" or arch.startswith("hybrid"):
        names = f"names of our own {arch}, which no other library has"
    return file.getvalue(), (f"model_state with {names}; RGB squashed to {size} x {size}, "
                             f"ImageNet's normalisation, {_outputs(bundle)}")  # fmt: skip


def _joblib(bundle: Bundle) -> tuple[bytes, str]:
    import joblib

    file = io.BytesIO()
    joblib.dump({name: value.numpy() for name, value in _only(bundle).state_dict().items()}, file)
    return file.getvalue(), f"a dict of numpy arrays by name; {_grey(bundle)}, {_outputs(bundle)}"


def _safetensors(bundle: Bundle) -> tuple[bytes, str]:
    about = {name: str(value) for name, value in _about(bundle).items()}
    content = to_safetensors(_only(bundle).state_dict(), metadata={"format": "pt", **about})
    return content, f"tensors by name; {_grey(bundle)}, {_outputs(bundle)}"


class Answers(nn.Module):
    """Grey levels (N, 1, S, S) from 0 to 1 in; what each of `ANSWERS` makes of the mean logits
    (N, K) out."""

    def __init__(self, bodies: Sequence[nn.Module], task: str) -> None:
        super().__init__()
        self.bodies = nn.ModuleList(bodies)
        self.task = task

    def forward(self, levels: Tensor) -> tuple[Tensor, ...]:
        x_nchw = (levels - MEAN) / STD
        logits_nk = torch.stack([body(x_nchw) for body in self.bodies]).mean(0)
        return tuple(answer(logits_nk) for answer in ANSWERS[self.task].values())


# What an ONNX model of each task gives, by name, from calibrated logits (N, K).
ANSWERS: Mapping[str, Mapping[str, Callable[[Tensor], Tensor]]] = {
    ABNORMALITY.name: {"probability": torch.sigmoid},
    PART.name: {"areas": lambda logits: logits},
    MULTITASK.name: {
        "probability": lambda logits: torch.sigmoid(logits[:, :1]),
        "areas": lambda logits: logits[:, 1:],
    },
}


def _onnx(bundle: Bundle) -> tuple[bytes, str]:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"--to onnx needs {package}: pip install 'mura-tune[onnx]'")
    size, task = bundle.manifest["preprocessing"]["size"], _task(bundle)
    net = Answers(calibrated(bundle), task).eval()
    levels = torch.rand((3, 1, size, size), generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():  # the exporter's own, about torch's insides
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            net, (levels,), dynamo=True, verbose=False, input_names=["levels"],
            output_names=list(ANSWERS[task]),
            dynamic_shapes={"levels": {0: torch.export.Dim("views")}},
        )  # fmt: skip
    assert program is not None  # it is, with dynamo
    model = program.model_proto  # made anew whenever it is asked for
    for name, value in _about(bundle).items():
        model.metadata_props.add(key=name, value=str(value))
    content: bytes = model.SerializeToString()
    worst = max(apart(content, net, views) for views in (levels, levels[:1]))
    if not worst <= TOLERANCE:
        raise MuraError(f"{bundle.folder}: ONNX differs from torch by {worst:.1e}; not written")
    areas = ", ".join(bundle.manifest.get("areas", ()))
    told = {"probability": "probability (views, 1) of abnormal",
            "areas": f"areas (views, K), a logit of each of {areas}: softmax their mean over a "
                     "study's views"}  # fmt: skip
    return content, (f"levels (views, 1, {size}, {size}), grey from 0 to 1, to "
                     + " and ".join(told[name] for name in ANSWERS[task]))  # fmt: skip


@torch.inference_mode()
def apart(content: bytes, net: nn.Module, views: Tensor) -> float:
    """The largest difference between what an ONNX model and `net` make of views (N, 1, S, S), of
    a probability, or of a logit and of its size where that is above 1."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = session.run(None, {"levels": views.numpy()})
    gaps = [
        np.abs(one - other.numpy()) / np.maximum(1, np.abs(one))
        for one, other in zip(found, net(views), strict=True)
    ]
    return float(max(gap.max() for gap in gaps))


def _only(bundle: Bundle) -> nn.Module:
    """The one network of a release, calibrated; InputError where it has several."""
    bodies = calibrated(bundle)
    if len(bodies) > 1:
        raise InputError(f"{bundle.folder}: the mean of {len(bodies)} networks is no single one; "
                         "export it --to onnx, or finalize one seed")  # fmt: skip
    return bodies[0]


def _task(bundle: Bundle) -> str:
    return str(bundle.manifest.get("task", ABNORMALITY.name))


def _about(bundle: Bundle) -> dict[str, Any]:
    """Plain values that travel beside the weights; a reader that wants weights alone skips them."""
    manifest, router = bundle.manifest, _task(bundle) == PART.name
    chosen = (
        {"confidence": Routing.from_json(manifest).confidence}
        if router
        else {"threshold": Chosen.from_json(manifest).threshold}
    )
    several = TASKS[_task(bundle)] is not ABNORMALITY
    return {
        "area": manifest["area"],
        "arch": manifest["arch"],
        "size": manifest["preprocessing"]["size"],
        **chosen,
        "recipe_digest": manifest["recipe_digest"],
        **({"task": _task(bundle), "areas": list(manifest["areas"])} if several else {}),
    }


def _outputs(bundle: Bundle) -> str:
    """What the outputs are, in words."""
    areas = ", ".join(bundle.manifest.get("areas", ()))
    return {
        ABNORMALITY.name: "sigmoid",
        PART.name: f"softmax over {areas}, of the mean over a study's views",
        MULTITASK.name: f"sigmoid of the first, softmax of the others over {areas}",
    }[_task(bundle)]


def _grey(bundle: Bundle) -> str:
    size = bundle.manifest["preprocessing"]["size"]
    return f"one grey channel of {size} x {size}, (level - {MEAN}) / {STD} of 0 to 1"


Writer = Callable[[Bundle], tuple[bytes, str]]
# What a file's name ends with, and what makes its content.
KINDS: dict[str, tuple[str, Writer]] = {
    "pt": ("_FINAL_best.pt", _pt),
    "joblib": (".joblib", _joblib),
    "onnx": (".onnx", _onnx),
    "safetensors": (".safetensors", _safetensors),
}
