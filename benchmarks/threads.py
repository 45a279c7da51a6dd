"""How should threads wait: OMP_WAIT_POLICY passive, or OpenMP's default of spinning a while?

Whole epochs of `fit` (all stages) in processes of their own: alone with every core, and two at
once with half of the cores each, as workers of a search run. Policies take turns; above 1, the
default takes that many times as long as passive waiting. `learning/__init__.py` sets what wins.
"""

from __future__ import annotations

import os
import subprocess
import sys

from measure import arguments, interleaved, opened, ratio, spread

# Warms up one epoch, says so, waits for a line, then prints the seconds of the epochs that follow.
EPOCHS = """
import sys
import torch  # before mura_tune.learning, which would set a policy where there is none
import numpy as np
from mura_tune.config import load
from mura_tune.learning.batches import Split
from mura_tune.learning.models import build
from mura_tune.learning.tasks import ABNORMALITY
from mura_tune.learning.training import fit
from mura_tune.recipe import apply

arch, size, images, epochs, threads = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(threads)

def split(n):
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, size, size), np.uint8))
    names = np.array([str(i) for i in range(n)])
    return Split("any", pixels, torch.arange(n) % 2, names, names, names)

recipe = apply(load("default").recipe, {
    "arch": arch, "size": size, "pretrained": "none", "batch": 16, "finetune.depth": 99,
    "finetune.epochs": epochs + 1, "head.epochs": 0}, "benchmark")
seconds = []

def on_epoch(epoch):
    seconds.append(epoch.seconds)
    if epoch.number == 1:
        print("ready", flush=True)
        sys.stdin.readline()

fit(build(arch), split(images), split(images // 4), recipe, ABNORMALITY, on_epoch=on_epoch)
print(sum(seconds[1:]), flush=True)
"""


def seconds(policy: str, processes: int, *work: object) -> float:
    """The slowest of `processes` that start their epochs together."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    if policy != "default":
        environment["OMP_WAIT_POLICY"] = policy
    threads = max(1, (os.cpu_count() or 1) // processes)
    words = [sys.executable, "-c", EPOCHS, *map(str, work), str(threads)]
    running = [
        subprocess.Popen(
            words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(processes)
    ]
    try:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", "the epochs did not start"
        for process in running:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        return max(float(process.communicate()[0]) for process in running)
    finally:
        for process in running:
            process.kill()
            process.wait()


def main() -> None:
    given = opened(arguments(__doc__, rounds=5))
    # network, pixels a side, images, epochs
    works = [("cnn", 64, 512, 6), ("resnet18", 96, 96, 2)]
    if given.quick:
        works = [("cnn", 32, 32, 1)]
    for processes, told in ((1, "alone, every core"), (2, "two at once, half of the cores each")):
        for work in works:
            seen = interleaved(
                given.rounds,
                {
                    policy: lambda policy=policy, n=processes, w=work: seconds(policy, n, *w)
                    for policy in ("default", "passive")
                },
            )
            default, passive = seen["default"], seen["passive"]
            print(f"{told}, {work[0]} at {work[1]} px: default {spread(default)} s, "
                  f"passive {spread(passive)} s; ratio {ratio(default, passive)}")  # fmt: skip


if __name__ == "__main__":
    main()
