"""Is the cache built faster with two threads, and does its memory stay bounded with 64?

The cache of 2,000 PNGs of 512 pixels a side at 224 px, built anew with one thread and with two, in
turn. Then once with 64 threads: the most memory that the process takes beyond what it had.
The PNGs are a few phantoms, each rolled and toned anew: no two files have equal pixels.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import arguments, interleaved, opened, peak_memory, ratio, spread
from PIL import Image

from mura_tune.data.cache import open_cache
from mura_tune.data.prepare import open_dataset
from mura_tune.imaging.images import read_image
from mura_tune.phantoms.dataset import write_phantoms

FILES, SIZE = 2_000, 224
MANY = 64
MEMORY = "import cache, sys; print(cache.more_memory(sys.argv[1], sys.argv[2]))"


def draw_pngs(folder: Path, count: int, patients: int) -> Path:
    """Write a dataset of so many PNGs, a study each, and return its folder."""
    write_phantoms(folder / "few", areas=("XR_WRIST",), patients=patients, size=512)
    sources = [read_image(path) for path in sorted((folder / "few").rglob("*.png"))]
    root = folder / "many"
    studies = []
    for number in range(count):
        source = sources[number % len(sources)]
        turn = number // len(sources)
        picture = np.roll(source, 3 * turn, axis=1) * (1 - turn / 200)
        label = "positive" if number % 2 else "negative"
        study = f"train/XR_WRIST/patient{number + 1:05}/study1_{label}"
        (root / study).mkdir(parents=True)
        Image.fromarray(picture.astype(np.uint8)).save(root / study / "image1.png")
        studies.append(f"many/{study}/")
    labels = [f"{study},{number % 2}" for number, study in enumerate(studies)]
    for split, some in (("train", slice(None)), ("valid", slice(0))):
        images = [f"{study}image1.png" for study in studies[some]]
        (root / f"{split}_image_paths.csv").write_text("".join(f"{line}\n" for line in images))
        (root / f"{split}_labeled_studies.csv").write_text(
            "".join(f"{line}\n" for line in labels[some])
        )
    return root


def build(root: Path, threads: int) -> float:
    """Seconds of a cache from nothing; what the disk holds of the files is warm."""
    dataset = open_dataset(root).for_area("XR_WRIST")
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        cache = open_cache(dataset, SIZE, Path(folder), threads=threads, progress=False)
        seconds = time.perf_counter() - started
        if len(cache.pixels) != len(dataset.frame):
            raise SystemExit(f"{len(cache.pixels)} of {len(dataset.frame)} images in the cache")
    return seconds


def more_memory(root: str, threads: str) -> float:
    """MB that building the cache takes beyond what the process had."""
    before = peak_memory()
    build(Path(root), int(threads))
    return peak_memory() - before


def main() -> None:
    given = opened(arguments(__doc__, rounds=5))
    count = 60 if given.quick else FILES
    with tempfile.TemporaryDirectory() as name:
        root = draw_pngs(Path(name), count, 5 if given.quick else 40)
        build(root, 1)
        seen = interleaved(
            given.rounds,
            {"one thread": lambda: build(root, 1), "two threads": lambda: build(root, 2)},
        )
        for name, seconds in seen.items():
            print(f"{name}: {spread([1000 * s / count for s in seconds])} ms/image")
        print(f"one thread / two threads: {ratio(seen['one thread'], seen['two threads'])}")
        for threads in (1, MANY):
            program = [sys.executable, "-c", MEMORY, str(root), str(threads)]
            ran = subprocess.run(
                program, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True, check=True
            )
            print(f"memory of {threads} thread(s): {float(ran.stdout):.0f} MB more than before")
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
