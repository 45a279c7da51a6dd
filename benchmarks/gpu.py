"""What does a GPU make of it? One call runs all worth knowing; without one, a toy on the CPU.

1. Images/s of training steps on resident random batches, all stages, batch 32 to 256: eager
   float32, channels last, bfloat16, both, compiled.
2. Images/s of `fit` on a resident split of the same size, warp included, against the same steps
   bare (the goal is 90 %); and head-only and last-stage epochs from features.
3. Two and four processes that share the GPU, against one.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from epoch import bare, recipe, split, wait
from measure import arguments, interleaved, opened, ratio, spread

from mura_tune.networks.device import choose_device, precision
from mura_tune.networks.network import build_network
from mura_tune.training.feature_cache import Store
from mura_tune.training.feeds import Features, Source, pixels
from mura_tune.training.fit import fit
from mura_tune.training.tasks import ABNORMALITY


def steps_per_second(
    arch: str, size: int, batch: int, device: torch.device, *, last: bool, half: bool, whole: bool
) -> float:
    """Images/s of steps on one resident random batch: forward, backward, fused AdamW."""
    layout = torch.channels_last if last else torch.contiguous_format
    net = build_network(arch).body.to(device).to(memory_format=layout).train()
    forward: Callable[[torch.Tensor], torch.Tensor] = torch.compile(net) if whole else net
    optimiser = torch.optim.AdamW(net.parameters(), fused=True)
    x = torch.rand(batch, 1, size, size, device=device)
    y = torch.rand(batch, 1, device=device)
    cast = torch.autocast(device.type, dtype=torch.bfloat16) if half else contextlib.nullcontext()

    def step() -> None:
        with cast:
            logits = forward(x)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), y)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    for _ in range(3):
        step()
    wait(device)
    count, started = (20 if device.type == "cuda" else 2), time.perf_counter()
    for _ in range(count):
        step()
    wait(device)
    return count * batch / (time.perf_counter() - started)


def variants(arch: str, size: int, batches: list[int], device: torch.device, rounds: int) -> None:
    forms = {"eager": (False, False, False), "channels last": (True, False, False)}
    if precision(device) == torch.bfloat16:
        forms |= {"bfloat16": (False, True, False), "both": (True, True, False)}
        forms |= {"both, compiled": (True, True, True)}
    for batch in batches:
        seen = interleaved(
            rounds,
            {
                name: lambda f=form, b=batch: steps_per_second(
                    arch, size, b, device, last=f[0], half=f[1], whole=f[2]
                )
                for name, form in forms.items()
            },
        )
        for name, rate in seen.items():
            print(
                f"{arch}, {size} px, batch {batch}, {name}: {spread(rate, '.0f')} images/s; "
                f"this / eager {ratio(rate, seen['eager'])}"
            )


def against_bare(
    arch: str, size: int, batch: int, n: int, device: torch.device, rounds: int
) -> None:
    train, dev = split(n, size, device), split(max(8, n // 100), size, device, 1)
    for depth, told in ((99, "all"), (1, "last stage"), (0, "head")):
        wanted = recipe(arch, size, batch, depth, 1)
        with tempfile.TemporaryDirectory() as folder:

            def run(source: Source, wanted: object = wanted) -> float:
                found = fit(
                    build_network(arch).to(device), train, dev, wanted, ABNORMALITY, source=source
                )
                wait(device)
                return found.epochs[0].seconds

            contenders = {
                "bare": lambda wanted=wanted: bare(build_network(arch).to(device), wanted, train),
                "pixels": lambda run=run: run(pixels),
            }
            if depth < 2:
                features = Features(Store(Path(folder)))
                run(features)
                contenders["features"] = lambda run=run, features=features: run(features)
            seen = interleaved(rounds, contenders)
        for name, seconds in seen.items():
            print(
                f"{arch}, {size} px, batch {batch}, depth {told}, {name}: "
                f"{spread([n / s for s in seconds], '.0f')} images/s; bare / this "
                f"{ratio(seen['bare'], seconds)}"
            )


def shared(
    arch: str, size: int, batch: int, n: int, device: torch.device, rounds: int, counts: list[int]
) -> None:
    """Processes that train side by side, each with its own network and pixels."""
    code = (
        "import sys; from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import gpu; from gpu import *\n"
        f"device = torch.device({str(device)!r}); train = split({n}, {size}, device)\n"
        f"wanted = recipe({arch!r}, {size}, {batch}, 99, 1); net = build({arch!r}).to(device)\n"
        "fit(net, train, split(8, wanted.size, device), wanted, ABNORMALITY)\n"
        "print('ready', flush=True); sys.stdin.readline(); started = time.perf_counter()\n"
        "fit(net, train, split(8, wanted.size, device), wanted, ABNORMALITY); wait(device)\n"
        "print(time.perf_counter() - started, flush=True)\n"
    )

    def rate(processes: int) -> float:
        running = [
            subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(processes)
        ]
        try:
            for process in running:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            for process in running:
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
            return processes * n / max(float(p.communicate()[0]) for p in running)
        finally:
            for process in running:
                process.kill()
                process.wait()

    seen = interleaved(rounds, {str(c): lambda c=c: rate(c) for c in counts})
    for count, rates in seen.items():
        print(
            f"{arch}, {size} px, batch {batch}, {count} process(es): {spread(rates, '.0f')} "
            f"images/s together; this / one {ratio(rates, seen['1'])}"
        )


def main() -> None:
    given = opened(arguments(__doc__, rounds=3))
    device = choose_device("auto")
    gpu = device.type == "cuda" and not given.quick
    if device.type != "cuda":
        print(
            "no GPU here: toy sizes on the CPU show that the script runs; no GPU figure exists yet"
        )
        given.rounds = 1
    size = 224 if gpu else 32
    for arch in ("densenet121", "resnet18") if gpu else ("cnn",):
        variants(arch, size, [32, 64, 128, 256] if gpu else [8], device, given.rounds)
        for batch in (32, 128) if gpu else (8,):
            against_bare(arch, size, batch, 8192 if gpu else 32, device, given.rounds)
        counts = [1, 2, 4] if gpu else [1, 2]
        shared(arch, size, 32, 4096 if gpu else 32, device, given.rounds, counts)


if __name__ == "__main__":
    main()
