"""What does an epoch cost at each depth: by the peer, from pixels, from features, and bare?

`pixels` warps every image and runs the whole network; `first` computes and keeps the features that
`later` reads, as the first and the later trials of one strength level do. `bare` takes the same
steps on resident random batches, with no data path and no evaluation: what bounds us all. The
others evaluate dev too. Cases, data and peer are those of search.py; no cache is built in here.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import peer
import torch
from measure import arguments, interleaved, opened, ratio, spread
from search import CASES, CPU, Material, material

from mura_tune.config import load_config
from mura_tune.networks.factory import build_network
from mura_tune.networks.network import Network
from mura_tune.recipe import Recipe, apply_values
from mura_tune.training.batches import Split, load_split
from mura_tune.training.feature_cache import FeatureStore
from mura_tune.training.feeds import FeatureSource, Source, pixel_feed
from mura_tune.training.fit import fit
from mura_tune.training.tasks import ABNORMALITY_TASK


def split(n: int, size: int, device: torch.device, seed: int = 0) -> Split:
    """Noise, every second image abnormal."""
    drawn = np.random.default_rng(seed).integers(0, 256, (n, size, size), np.uint8)
    names = np.array([f"{i:06d}" for i in range(n)])
    on_device = torch.from_numpy(drawn).to(device), (torch.arange(n) % 2).to(device)
    return Split("noise", *on_device, names, names, names)


def recipe(arch: str, size: int, batch: int, depth: int, epochs: int) -> Recipe:
    return apply_values(
        load_config("default").recipe,
        {
            "arch": arch,
            "size": size,
            "pretrained": "none",
            "batch": batch,
            "head.epochs": 0,
            "finetune.epochs": epochs,
            "finetune.depth": depth,
        },
        "benchmark",
    )


def bare(net: Network, given: Recipe, train: Split) -> float:
    """Seconds of the recipe's steps on a handful of resident random batches."""
    device, n = next(net.parameters()).device, len(train)
    net.set_depth(given.finetune.depth)
    optimiser = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], fused=True)
    loss_of = ABNORMALITY_TASK.loss(train, given)
    steps = math.ceil(n / given.batch)
    rows = math.ceil(n / steps)
    stock = [torch.rand(rows, 1, given.size, given.size, device=device) for _ in range(4)]
    labels = torch.arange(rows, device=device) % 2
    net.train()

    def step(number: int) -> None:
        loss = loss_of(net(stock[number % len(stock)]), labels).mean()
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()

    step(0)
    wait(device)
    started = time.perf_counter()
    for number in range(steps * given.epochs):
        step(number)
    wait(device)
    return time.perf_counter() - started


def wait(device: torch.device) -> None:
    """Until a GPU has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--case", choices=[*CASES, "all"], help="cnn and resnet18 if not given")
    given = opened(parser)
    chosen = {"all": list(CASES), None: ["cnn", "resnet18"]}.get(given.case, [given.case])
    for arch in ["cnn"] if given.quick else chosen:
        case(arch, 32 if given.quick else CASES[arch], given.rounds, given.quick)


def case(arch: str, size: int, rounds: int, quick: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = material(arch, size, Path(folder), quick)
        train, dev = (load_split(data.prepared, part, CPU) for part in ("train", "dev"))
        print(f"{arch} at {size} px, {data.told}")
        for depth, name in ((0, "head"), (1, "last stage"), (2, "last two"), (99, "all")):
            # Short epochs thrice, or the first steps of a network, which are slow, weigh too much.
            epochs = 3 if not quick and (arch == "cnn" or depth < 2) else 1
            wanted, stores = recipe(arch, size, 16, depth, epochs), Path(folder) / str(depth)
            seen = interleaved(rounds, contenders_of(arch, data, train, dev, wanted, stores))
            for who, seconds in seen.items():
                per = [s / epochs / len(train) * 1000 for s in seconds]
                print(
                    f"  {name}, {who}: {spread(per, '.3f')} ms/image; peer / this "
                    f"{ratio(seen['peer'], seconds)}, pixels / this "
                    f"{ratio(seen['pixels'], seconds)}, this / bare "
                    f"{ratio(seconds, seen['bare'])}"
                )


def contenders_of(
    arch: str, data: Material, train: Split, dev: Split, wanted: Recipe, stores: Path
) -> dict[str, Callable[[], float]]:
    """Ways to run one recipe, each with its seconds; `stores` is a folder of feature stores."""

    def run(source: Source) -> float:
        found = fit(build_network(arch), train, dev, wanted, ABNORMALITY_TASK, source=source)
        return sum(epoch.seconds for epoch in found.epochs)

    def of_features(number: int) -> float:
        return run(FeatureSource(FeatureStore(stores / str(number))))

    def by_peer() -> float:
        started = time.perf_counter()
        peer.train(optuna.trial.FixedTrial({}), data.files["train"], data.files["dev"], wanted)
        return time.perf_counter() - started

    contenders: dict[str, Callable[[], float]] = {
        "peer": by_peer,
        "pixels": lambda: run(pixel_feed),
    }
    if wanted.finetune.depth < 2:
        contenders["first"] = lambda: of_features(_count(stores) + 1)
        contenders["later"] = lambda: of_features(_count(stores))
    contenders["bare"] = lambda: bare(build_network(arch), wanted, train)
    return contenders


def _count(folder: Path) -> int:
    return len(list(folder.glob("*")))


if __name__ == "__main__":
    main()
