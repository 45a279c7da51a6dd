"""CUDA graphs: on a CPU nothing changes; on a GPU captured steps are the eager ones."""

import dataclasses
from pathlib import Path

import pytest
import torch
from test_fit import recipe, split
from torch import Tensor

from mura_tune.networks.factory import build_network
from mura_tune.training import fit as training
from mura_tune.training import steps
from mura_tune.training.compiling import Compiler, Inductor, leave_uncompiled
from mura_tune.training.fit import FitResult, fit
from mura_tune.training.graphs import WARM_UP, Captured, captured
from mura_tune.training.tasks import ABNORMALITY_TASK

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
CUDA = torch.device("cuda")


def test_on_a_cpu_a_function_stays_itself() -> None:
    def double(x: Tensor) -> Tensor:
        return 2 * x

    assert captured(double, torch.device("cpu")) is double


@cuda
def test_every_call_counts_once_and_gives_its_own_tensor() -> None:
    total = torch.zeros(1, device=CUDA)

    def add(x: Tensor) -> Tensor:
        total.add_(x.sum())
        return total * 1

    called = Captured(add, CUDA)
    given = [called(torch.full((2,), float(i), device=CUDA)) for i in range(WARM_UP + 5)]
    expected = [float(sum(2 * j for j in range(i + 1))) for i in range(WARM_UP + 5)]
    assert [float(value) for value in given] == expected
    assert called.replays == 5


@cuda
def test_what_cannot_be_captured_stays_eager(caplog: pytest.LogCaptureFixture) -> None:
    def wait(x: Tensor) -> Tensor:
        return x * float(x.sum().item())

    called = Captured(wait, CUDA)
    for _ in range(WARM_UP + 3):
        assert called(torch.ones(2, device=CUDA)).tolist() == [2.0, 2.0]
    assert called.replays == 0
    assert len(caplog.records) == 1
    torch.cuda.synchronize()


def trained(
    arch: str,
    optimiser: str,
    depth: int,
    fields: dict[str, object],
    compiler: Compiler = leave_uncompiled,
) -> tuple[FitResult, dict[str, Tensor]]:
    given = recipe(
        **{
            "finetune.depth": depth,
            "finetune.epochs": 3,
            "finetune.lr": 1e-3,
            "optimiser": optimiser,
            "batch": 16,
            "warmup": 0.1,
            **fields,
        }
    )
    train, dev = (
        dataclasses.replace(part, pixels=part.pixels.to(CUDA), labels=part.labels.to(CUDA))
        for part in (split(200, side=64), split(60, "dev", 1, side=64))
    )
    net = build_network(arch, size=64).to(CUDA)
    result = fit(net, train, dev, given, ABNORMALITY_TASK, compiler=compiler)
    return result, net.body.state_dict()


@cuda
def test_compiled_steps_train_as_eager_ones_do(tmp_path: Path) -> None:
    lines: list[str] = []
    compiled, _ = trained("resnet18", "adamw", 99, {}, Inductor(tmp_path, bool, lines.append))
    eager, _ = trained("resnet18", "adamw", 99, {})
    again, _ = trained("resnet18", "adamw", 99, {})  # what the device itself does not repeat
    assert lines
    noise = max(abs(a.loss - b.loss) for a, b in zip(eager.epochs, again.epochs, strict=True))
    for a, b in zip(compiled.epochs, eager.epochs, strict=True):
        assert a.loss == pytest.approx(b.loss, abs=max(0.02, 3 * noise))


SOFT = {"clip": 0.5, "mixup": 0.2, "label_smoothing": 0.1, "weigh": "study", "ema": 1.0}


@cuda
@pytest.mark.parametrize("arch", ["cnn", "resnet18", "densenet121"])
@pytest.mark.parametrize(
    ("optimiser", "depth", "fields"),
    [("adamw", 99, {}), ("sgd", 99, {}), ("adam", 1, {}), ("adamw", 99, SOFT)],
)
def test_captured_steps_train_as_eager_ones_do(
    arch: str,
    optimiser: str,
    depth: int,
    fields: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    captured_run, _ = trained(arch, optimiser, depth, fields)
    assert not caplog.records  # a step that could not be captured says so
    for module in (training, steps):
        monkeypatch.setattr(module, "captured", lambda function, device: function)
    eager_run, _ = trained(arch, optimiser, depth, fields)
    again, _ = trained(arch, optimiser, depth, fields)  # what the device itself does not repeat
    noise = max(abs(a.loss - b.loss) for a, b in zip(eager_run.epochs, again.epochs, strict=True))
    for a, b in zip(captured_run.epochs, eager_run.epochs, strict=True):
        assert a.loss == pytest.approx(b.loss, abs=max(0.02, 3 * noise))
