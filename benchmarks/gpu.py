"""What does a GPU make of it? What matters most first, a line each as it comes, until `--minutes`.

1. `fit` on a resident split, dev evaluated: images/s at depth all, 2, 1 and 0 and batch 32 and 128,
   by captured steps and launched one by one, against bare captured steps on random batches and
   against the best eager batch; head and last stage from features too.
2. The share of an epoch in which the device is busy.
3. Two and four processes that share the GPU, with and without NVIDIA's MPS, against one.
4. `mura tune` of eight trials with 1, 2 and 4 workers.

Without a GPU toy sizes on the CPU show that the script runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from epoch import recipe, split, wait
from measure import arguments, interleaved, opened, ratio, spread
from PIL import Image

from mura_tune.networks.device import choose_device
from mura_tune.networks.factory import build_network
from mura_tune.training import fit as training
from mura_tune.training.batches import Split
from mura_tune.training.feature_cache import FeatureStore
from mura_tune.training.feeds import FeatureSource, Source, pixel_feed
from mura_tune.training.fit import fit
from mura_tune.training.graphs import captured
from mura_tune.training.tasks import ABNORMALITY_TASK

DEPTHS = {99: "all", 2: "2", 1: "1", 0: "head"}


def say(line: str) -> None:
    print(line, flush=True)


def bare(arch: str, size: int, batch: int, n: int, depth: int, device: torch.device) -> float:
    """Images/s of captured steps on four resident random batches: no data path, no evaluation."""
    net = build_network(arch).to(device)
    net.set_depth(depth)
    wanted, noise = recipe(arch, size, batch, depth, 1), split(8, size, device)
    trained = [p for p in net.parameters() if p.requires_grad]
    cuda = device.type == "cuda"
    optimiser = torch.optim.AdamW(trained, lr=torch.tensor(1e-4), fused=True, capturable=cuda)
    loss_of = ABNORMALITY_TASK.loss(noise, wanted)
    stock = [torch.rand(batch, 1, size, size, device=device) for _ in range(4)]
    labels = torch.arange(batch, device=device) % 2
    net.train()

    def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        loss = loss_of(net(x), y).mean()
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        return loss.detach()

    run = captured(step, device)
    for number in range(6):
        run(stock[number % 4], labels)
    wait(device)
    steps, started = max(2, n // batch), time.perf_counter()
    for number in range(steps):
        run(stock[number % 4], labels)
    wait(device)
    return steps * batch / (time.perf_counter() - started)


def one_by_one() -> contextlib.AbstractContextManager[object]:
    """Inside, `fit` launches every kernel by itself."""
    return mock.patch.object(training, "captured", lambda function, device: function)


def fitted(
    arch: str, train: Split, dev: Split, batch: int, depth: int, source: Source = pixel_feed
) -> float:
    """Images/s of the second epoch of a run: the first one captures, or fills the features."""
    wanted = recipe(arch, train.pixels.shape[1], batch, depth, 2)
    device = train.labels.device
    result = fit(
        build_network(arch).to(device), train, dev, wanted, ABNORMALITY_TASK, source=source
    )
    wait(device)
    return len(train) / result.epochs[1].seconds


def rates(arch: str, size: int, n: int, device: torch.device, rounds: int, until: float) -> None:
    train, dev = split(n, size, device), split(max(8, n // 8), size, device, 1)

    def eagerly(batch: int, depth: int) -> float:
        with one_by_one():
            return fitted(arch, train, dev, batch, depth)

    batches = (32, 128) if device.type == "cuda" else (8,)
    for depth, told in DEPTHS.items():
        for batch in batches:
            if time.monotonic() > until:
                return
            contenders: dict[str, Callable[[], float]] = {
                "captured": lambda d=depth, b=batch: fitted(arch, train, dev, b, d),
                "one by one": lambda d=depth, b=batch: eagerly(b, d),
                "bare captured": lambda d=depth, b=batch: bare(arch, size, b, n, d, device),
            }
            if depth == 99 and batch == 32:
                contenders["one by one at 256"] = lambda: eagerly(256, 99)
            with tempfile.TemporaryDirectory() as folder:
                if depth < 2:
                    store = FeatureSource(FeatureStore(Path(folder)))
                    contenders["features"] = lambda d=depth, b=batch, s=store: fitted(
                        arch, train, dev, b, d, s
                    )
                    contenders["features"]()
                seen = interleaved(rounds, contenders)
            for name, rate in seen.items():
                say(
                    f"{arch}, {size} px, batch {batch}, depth {told}, {name}: "
                    f"{spread(rate, '.0f')} images/s; this / bare captured "
                    f"{ratio(rate, seen['bare captured'])}"
                )


def busy(arch: str, size: int, batch: int, n: int, device: torch.device) -> None:
    """The share of an epoch's time in which a kernel runs."""
    train, dev = split(n, size, device), split(max(8, n // 8), size, device, 1)
    wanted = recipe(arch, size, batch, 99, 3)
    begun: list[float] = []
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:

        def mark(epoch: training.Epoch) -> None:
            wait(device)
            begun.append(time.time_ns() / 1000)

        result = fit(
            build_network(arch).to(device), train, dev, wanted, ABNORMALITY_TASK, on_epoch=mark
        )
    start, end = begun[1], begun[2]
    spans = sorted(
        (e.time_range.start, e.time_range.end)
        for e in profile.events() or []
        if e.device_type == torch.autograd.DeviceType.CUDA
    )
    seconds = result.epochs[2].seconds
    last = spans[-1][1]  # kernels of the last epoch: those of its length before the last
    total, reach = 0.0, last - seconds * 1e6
    for low, high in spans:
        total += max(0.0, high - max(low, reach))
        reach = max(reach, high)
    say(
        f"{arch}, {size} px, batch {batch}: device busy {total / (seconds * 1e6):.1%} of an epoch"
        f" of {seconds:.2f} s ({(end - start) / 1e6:.2f} s by the clock)"
    )


@contextlib.contextmanager
def mps() -> Iterator[dict[str, str] | None]:
    """NVIDIA's multi-process service, started by this user; None where that fails."""
    control = shutil.which("nvidia-cuda-mps-control")
    if control is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        own = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        started = subprocess.run([control, "-d"], env=os.environ | own, capture_output=True)
        try:
            yield own if started.returncode == 0 else None
        finally:
            subprocess.run([control], input=b"quit\n", env=os.environ | own, capture_output=True)


def together(
    arch: str, size: int, batch: int, n: int, device: torch.device, count: int, env: dict[str, str]
) -> float:
    """Images/s of so many processes side by side, each with its own network and pixels."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from gpu import *\n"
        f"device = torch.device({str(device)!r}); train = split({n}, {size}, device)\n"
        f"dev = split(64, {size}, device, 1); wanted = recipe({arch!r}, {size}, {batch}, 99, 4)\n"
        "marks = []\n"
        "def mark(epoch):\n"
        "    wait(device); marks.append(time.time())\n"
        "    if len(marks) == 1: print('ready', flush=True); sys.stdin.readline()\n"
        "    if len(marks) == 1: marks[0] = time.time()\n"
        f"fit(build_network({arch!r}).to(device), train, dev, wanted, ABNORMALITY, on_epoch=mark)\n"
        "print(json.dumps(marks), flush=True)\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | env,
        )
        for _ in range(count)
    ]
    try:
        for process in running:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("a process ended early")
        for process in running:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        marks = [json.loads(process.communicate()[0]) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    seconds = max(m[3] for m in marks) - min(m[0] for m in marks)
    return count * 3 * n / seconds


def sharing(arch: str, size: int, batch: int, n: int, device: torch.device, until: float) -> None:
    alone = together(arch, size, batch, n, device, 1, {})
    say(f"{arch}, {size} px, batch {batch}, 1 process: {alone:.0f} images/s")
    for count in (2, 4):
        if time.monotonic() > until:
            return
        rate = together(arch, size, batch, n, device, count, {})
        say(
            f"{arch}, batch {batch}, {count} processes: {rate:.0f} images/s, "
            f"{rate / alone:.2f} x one"
        )
    with mps() as env:
        if env is None:
            say("MPS: cannot be started here")
            return
        for count in (1, 2, 4):
            if time.monotonic() > until:
                return
            rate = together(arch, size, batch, n, device, count, env)
            say(
                f"{arch}, batch {batch}, {count} processes under MPS: {rate:.0f} images/s, "
                f"{rate / alone:.2f} x one without"
            )


def noise_data(root: Path, patients: int, side: int) -> Path:
    """Noise in MURA's layout: what training costs does not depend on what a picture shows."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[str]] = {"train": [], "valid": []}
    for number in range(patients):
        part = "valid" if number % 8 == 0 else "train"
        label = "positive" if (number + number // 8) % 2 else "negative"
        study = root / part / "XR_WRIST" / f"patient{number:05d}" / f"study1_{label}"
        study.mkdir(parents=True)
        for view in (1, 2):
            low = rng.integers(0, 200, (side // 8, side // 8), np.uint8)
            image = Image.fromarray(low).resize((side, side))
            image.save(study / f"image{view}.png", compress_level=1)
            rows[part].append(f"{root.name}/{(study / f'image{view}.png').relative_to(root)}")
    for part, paths in rows.items():
        (root / f"{part}_image_paths.csv").write_text("".join(f"{p}\n" for p in paths))
        studies = sorted({p.rsplit("/", 1)[0] for p in paths})
        (root / f"{part}_labeled_studies.csv").write_text(
            "".join(f"{s}/,{int(s.endswith('positive'))}\n" for s in studies)
        )
    return root


def searches(arch: str, size: int, patients: int, trials: int, until: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = noise_data(Path(name, "noise"), patients, size + 32)
        alone = 0.0
        for workers in (1, 2, 4):
            if time.monotonic() > until:
                return
            command = [sys.executable, "-c", "from mura_tune.launch import mura; mura()", "tune"]
            command += ["XR_WRIST", "--data", root, "--runs", Path(name, str(workers))]
            command += ["--trials", trials, "--workers", workers]
            sets = {
                "arch": arch,
                "size": size,
                "pretrained": "none",
                "split.folds": 0,
                "head.epochs": 0,
                "finetune.epochs": 4,
                "finetune.depth": 99,
                "budget.confirm.top": 0,
                "budget.pruner.name": "none",
            }
            command += [w for key, value in sets.items() for w in ("--set", f"{key}={value}")]
            started = time.perf_counter()
            done = subprocess.run([str(w) for w in command], capture_output=True, text=True)
            seconds = time.perf_counter() - started
            alone = alone or seconds
            if done.returncode:
                say(done.stderr[-600:])
            say(
                f"mura tune, {arch}, {size} px, {2 * patients} images, {trials} trials "
                f"of 4 epochs, {workers} worker(s): {seconds:.1f} s, "
                f"{alone / seconds:.2f} x one worker"
            )


def main() -> None:
    parser = arguments(__doc__, rounds=2)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--only", choices=["rates", "busy", "sharing", "searches"])
    given = opened(parser)
    device = choose_device("auto")
    gpu = device.type == "cuda" and not given.quick
    if gpu:
        say(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}")
    else:
        say("no GPU here: toy sizes on the CPU show that the script runs")
    arch, size = ("densenet121", 224) if gpu else ("cnn", 32)
    until, rounds = time.monotonic() + 60 * given.minutes, given.rounds if gpu else 1
    wanted = [given.only] if given.only else ["rates", "busy", "sharing", "searches"]
    if "rates" in wanted:
        rates(arch, size, 4096 if gpu else 32, device, rounds, until)
    if "busy" in wanted and gpu:
        for batch in (32, 128):
            busy(arch, size, batch, 2048, device)
    if "sharing" in wanted:
        sharing(arch, size, 32 if gpu else 8, 2048 if gpu else 32, device, until)
    if "searches" in wanted:
        searches(arch, size, 2000 if gpu else 24, 8 if gpu else 2, until)


if __name__ == "__main__":
    main()
