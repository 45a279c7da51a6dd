"""Does memory grow with the number of images, once the budget for pixels is reached?

96-pixel phantoms, linked until there are 2,000, 10,000 and 40,000 rows, at 64 px. Each figure is a
process of its own: building the cache (decode, resize, write), opening it again, and a trial (the
small CNN, head and then last stage, features kept, then its score on dev, a fifth of the patients,
with the interval) whose pixels may take 4 MB, less than any of the sets. Peak is the process's
largest resident set; `over torch` is what lies above a process that imports torch and the package
and does nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import arguments, opened

IMPORTS = """
import resource, sys, time
from pathlib import Path
import mura_tune, torch
from mura_tune.config import load_config
from mura_tune.data import cache
from mura_tune.data.prepare import open_dataset
from mura_tune.training.batches import load_split
from mura_tune.networks.factory import (build_network)
from mura_tune.metrics.comparison import average_folds
from mura_tune.training.feature_cache import FeatureStore
from mura_tune.training.feeds import FeatureSource
from mura_tune.training.tasks import ABNORMALITY_TASK
from mura_tune.training.fit import fit
from mura_tune.recipe import apply_values

root, work = Path(sys.argv[1]), Path(sys.argv[2])

class Whole:  # a part is every fifth row, or the rest; copies are wanted here
    def __init__(self, cached):
        self.pixels, self.areas = cached.pixels, ("XR_WRIST",)
        self.frame = cached.frame.assign(row=range(len(cached.frame)))
    def rows(self, part):
        import numpy as np
        fifth = np.arange(len(self.frame)) % 5 == 0
        return np.flatnonzero(fifth if part == "dev" else ~fifth)

started = time.perf_counter()
"""
WORK = {
    "nothing": "",
    "index": "open_dataset(root)",
    "build": "cache.open_cache(open_dataset(root), 64, work, progress=False)",
    "reopen": "cache.open_cache(open_dataset(root), 64, work, progress=False)",
    "trial": """
whole = Whole(cache.open_cache(open_dataset(root), 64, work, progress=False))
train, dev = (load_split(whole, part, torch.device("cpu"), budget=4_000_000)
              for part in ("train", "dev"))
started = time.perf_counter()
recipe = apply_values(load_config("default").recipe, {
    "arch": "cnn", "size": 64, "pretrained": "none", "head.epochs": 1, "finetune.epochs": 1,
    "finetune.depth": 1}, "benchmark")
features = FeatureSource(FeatureStore(work / "features"))
found = fit(build_network("cnn"), train, dev, recipe, ABNORMALITY_TASK, source=features)
average_folds([ABNORMALITY_TASK.table(found.logits, dev)], measure=ABNORMALITY_TASK.measure)
""",
}
REPORT = """
print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def measured(work: str, root: Path, folder: Path) -> tuple[float, float]:
    """Seconds of the work itself, and the whole process's peak in MiB."""
    ran = subprocess.run(
        [sys.executable, "-c", IMPORTS + WORK[work] + REPORT, str(root), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise SystemExit(f"{work} failed:\n{ran.stderr}")
    seconds, peak = ran.stdout.split()[-2:]
    return float(seconds), float(peak)


def linked(source: Path, root: Path, rows: int) -> Path:
    """A dataset of `rows` images in MURA's layout, one a patient, linked from `source`'s images."""
    files = sorted((source / "train").rglob("*.png"))
    normal = [file for file in files if "negative" in file.parent.name]
    abnormal = [file for file in files if "positive" in file.parent.name]
    lists: dict[str, list[str]] = {}
    for i in range(rows):
        word, of_label = ("positive", abnormal) if i % 2 else ("negative", normal)
        split = "valid" if i % 20 == 0 else "train"
        study = f"{split}/XR_WRIST/patient{i:06d}/study1_{word}"
        (root / study).mkdir(parents=True)
        os.link(of_label[i // 2 % len(of_label)], root / study / "image1.png")
        lists.setdefault(f"{split}_image_paths.csv", []).append(f"{root.name}/{study}/image1.png")
        lists.setdefault(f"{split}_labeled_studies.csv", []).append(
            f"{root.name}/{study}/,{int(word == 'positive')}"
        )
    for name, lines in lists.items():
        (root / name).write_text("\n".join(lines) + "\n")
    return root


def main() -> None:
    given = opened(arguments(__doc__))
    sizes = (200,) if given.quick else (2_000, 10_000, 40_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        from mura_tune.phantoms.dataset import write_phantoms

        write_phantoms(folder / "phantoms", areas=("XR_WRIST",), patients=20, size=96)
        base = measured("nothing", folder, folder)[1]
        print(f"a process that imports all and does nothing: {base:.0f} MiB")
        for rows in sizes:
            root = linked(folder / "phantoms", folder / f"rows{rows}", rows)
            for work in ("index", "build", "reopen", "trial"):
                seconds, peak = measured(work, root, folder / f"cache{rows}")
                print(
                    f"{rows:6d} rows, {work}: {seconds:.2f} s, peak {peak:.0f} MiB, "
                    f"over torch {peak - base:.0f} MiB"
                )


if __name__ == "__main__":
    main()
