"""How fast do images reach a network: decoded and transformed each time, or warped from the cache?

512-pixel phantoms at 224 px. Peer: PIL and torchvision v1 in a DataLoader with two workers, in grey
as our networks take it, and in RGB as backbones are usually fed. Ours: the cache,
`training_batches` (one batched warp), `plain_batches` for evaluation; resident, and streamed from
the file under a budget of nothing. The cache is built once and reported apart.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import peer
import torch
from measure import arguments, interleaved, opened, ratio, spread
from search import parts, phantom_data

from mura_tune.networks.device import evaluation_batch
from mura_tune.training.batches import Split, load_split, plain_batches, training_batches

CPU = torch.device("cpu")
BATCH, STRENGTH, PASSES = 32, 0.5, 10  # one of ours is too short to time


def main() -> None:
    given = opened(arguments(__doc__, rounds=5))
    size, patients = (64, 12) if given.quick else (224, 120)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = phantom_data(root / "phantoms", patients)
        started = time.perf_counter()
        prepared, files = parts(data, "XR_WRIST", size, root / "cache")
        build = time.perf_counter() - started
        part = files["train"]
        resident = load_split(prepared, "train", CPU)
        streamed = load_split(prepared, "train", CPU, budget=0)
        n, views = len(resident), len(prepared.frame)
        print(f"cache: {build / views * 1000:.2f} ms/image, once ({views} images)")

        def ms(run: Iterable[object]) -> float:
            started = time.perf_counter()
            for _ in run:
                pass
            return (time.perf_counter() - started) / n * 1000

        def ours(split: Split) -> Iterable[object]:
            epochs = (
                training_batches(
                    split, size=BATCH, seed=0, epoch=epoch, strength=STRENGTH, device=CPU
                )
                for epoch in range(PASSES)
            )
            return itertools.chain.from_iterable(epochs)

        def evaluated(split: Split) -> Iterable[object]:
            batches = (plain_batches(split, evaluation_batch(CPU), CPU) for _ in range(PASSES))
            return itertools.chain.from_iterable(batches)

        seen = interleaved(
            given.rounds,
            {
                "peer, train": lambda: ms(peer.loader(part, size, BATCH, strength=STRENGTH)),
                "peer, train, RGB": lambda: ms(
                    peer.loader(part, size, BATCH, strength=STRENGTH, mode="RGB")
                ),
                "peer, train, no workers": lambda: ms(
                    peer.loader(part, size, BATCH, strength=STRENGTH, workers=0)
                ),
                "ours, train": lambda: ms(ours(resident)) / PASSES,
                "ours, train, streamed": lambda: ms(ours(streamed)) / PASSES,
                "peer, evaluate": lambda: ms(peer.loader(part, size, BATCH)),
                "peer, evaluate, RGB": lambda: ms(peer.loader(part, size, BATCH, mode="RGB")),
                "ours, evaluate": lambda: ms(evaluated(resident)) / PASSES,
                "ours, evaluate, streamed": lambda: ms(evaluated(streamed)) / PASSES,
            },
        )
    for name, values in seen.items():
        against = "peer, train" if "train" in name else "peer, evaluate"
        grey, rgb = (ratio(seen[against + mode], values) for mode in ("", ", RGB"))
        print(f"{name}: {spread(values, '.3f')} ms/image; peer / this: grey {grey}, RGB {rgb}")


if __name__ == "__main__":
    main()
