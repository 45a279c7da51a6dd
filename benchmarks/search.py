"""How long does a whole search take: 10 fixed trials, 5 epochs, pruning off, against the peer?

Depths cycle through head, last stage, last two, all; learning rate and class weight are fixed in
advance, the strength is the same in all (--levels 2 spreads them over two of the five levels, as
a search over strength would, and fewer views are shared). Ours starts with no cache and no features
in every round. Cases: `cnn` (64 px, from 512-pixel phantoms: data-bound), `resnet18` (96 px) and
`densenet121` (128 px) on real radiographs, weights drawn from a seed (compute-bound). The ladder
--ladder runs what lies between the two, to say what each part brings; --every 3 takes every third
patient of the real radiographs, for those who have less time.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import peer
import torch
from measure import REAL, arguments, interleaved, opened, ratio, spread

from mura_tune.config import load_config
from mura_tune.data.prepare import Prepared, open_dataset, prepare
from mura_tune.metrics.ranking import estimate_auc
from mura_tune.networks.factory import build_network
from mura_tune.phantoms.dataset import write_phantoms
from mura_tune.recipe import Recipe, apply_values
from mura_tune.training.batches import load_split
from mura_tune.training.feature_cache import FeatureStore
from mura_tune.training.feeds import FeatureSource, Source, pixel_feed
from mura_tune.training.fit import FitResult, fit
from mura_tune.training.tasks import ABNORMALITY_TASK, study_scores

CPU = torch.device("cpu")
DEPTHS = (0, 1, 2, 99, 0, 1, 2, 99, 0, 1)
LEVELS = (0.5, 0.25)
CASES = {"cnn": 64, "resnet18": 96, "densenet121": 128}


def recipes(arch: str, size: int, epochs: int, trials: int, levels: int) -> list[Recipe]:
    """The fixed trials: lr from 3e-4 to 3e-3, class weight from 0.5 to 2."""
    base = load_config("default").recipe
    return [
        apply_values(
            base,
            {
                "arch": arch,
                "size": size,
                "pretrained": "none",
                "batch": 16,
                "head.epochs": 0,
                "finetune.epochs": epochs,
                "finetune.depth": DEPTHS[i % len(DEPTHS)],
                "finetune.lr": 3e-4 * 10 ** (i % 5 / 4),
                "class_weight": 2.0 ** (i % 3 - 1),
                "augment": LEVELS[i // 2 % levels],
            },
            "benchmark",
        )
        for i in range(trials)
    ]


def phantom_data(folder: Path, patients: int) -> Path:
    """512-pixel phantoms, written once."""
    write_phantoms(folder, areas=("XR_WRIST",), patients=patients, size=512)
    return folder


def parts(data: Path, area: str, size: int, cache: Path) -> tuple[Prepared, dict[str, peer.Part]]:
    """The area as `mura tune` prepares it, and the same images as files for the peer."""
    dataset = open_dataset(data)
    holdout = dataclasses.replace(load_config("default").split, dev=0.25)
    prepared = prepare(dataset, area, size, holdout, cache)
    frames = {name: prepared.frame.iloc[prepared.rows(name)] for name in ("train", "dev")}
    return prepared, {
        name: peer.Part(
            [dataset.root / path for path in frame["path"]],
            frame["label"].tolist(),
            frame["study"].tolist(),
        )
        for name, frame in frames.items()
    }


@dataclass(frozen=True, eq=False)
class Material:
    """A case's images: where they lie, prepared, and as files for the peer; and what they are."""

    root: Path
    prepared: Prepared
    files: dict[str, peer.Part]
    told: str


def thinned(source: Path, root: Path, every: int) -> Path:
    """A dataset of every n-th patient of `source`, in MURA's layout; the images are linked."""
    root.mkdir()
    for part in ("train", "valid"):
        (root / part).symlink_to((source / part).resolve())
    for table in source.glob("*.csv"):
        lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if int(line.split("patient")[1][:5]) % every == 0]
        (root / table.name).write_text("".join(kept), encoding="utf-8")
    return root


def material(arch: str, size: int, folder: Path, quick: bool, every: int = 1) -> Material:
    real = arch != "cnn" and REAL.is_dir()
    root = REAL if real else phantom_data(folder / "phantoms", 24 if quick else 120)
    if real and every > 1:
        root = thinned(root, folder / root.name, every)
    prepared, files = parts(root, "XR_MIXED" if real else "XR_WRIST", size, folder / "cache")
    told = (
        f"{len(files['train'].files)} train and {len(files['dev'].files)} dev images of "
        f"{'real radiographs' if real else '512-pixel phantoms'}"
    )
    return Material(root, prepared, files, told)


def our_search(
    given: Material, trials: Sequence[Recipe], layout: torch.memory_format, keep: bool
) -> tuple[float, FitResult, Any]:
    """Seconds from files to the last trial, the best fit, and its dev split."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        size, area = trials[0].size, given.prepared.area
        prepared, _ = parts(given.root, area, size, Path(folder) / "cache")
        train, dev = (load_split(prepared, part, CPU) for part in ("train", "dev"))
        source: Source = (
            FeatureSource(FeatureStore(Path(folder) / "features")) if keep else pixel_feed
        )
        best: FitResult | None = None
        for recipe in trials:
            net = build_network(recipe.arch, seed=recipe.seed).to(memory_format=layout)
            found = fit(net, train, dev, recipe, ABNORMALITY_TASK, source=source)
            best = found if best is None or found.epoch.score > best.epoch.score else best
        assert best is not None
        return time.perf_counter() - started, best, dev


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--case", choices=[*CASES, "all"], default="cnn")
    parser.add_argument("--levels", type=int, choices=(1, 2), default=1)
    parser.add_argument("--ladder", action="store_true", help="what each part brings")
    parser.add_argument("--every", type=int, default=1, help="n-th patient of the real ones")
    given = opened(parser)
    for arch in CASES if given.case == "all" else [given.case]:
        case(arch, given)


def case(arch: str, asked: argparse.Namespace) -> None:
    quick, levels, ladder = asked.quick, asked.levels, asked.ladder
    with tempfile.TemporaryDirectory() as folder:
        epochs, count = (1, 4) if quick else (5, 10)
        trials = recipes(arch, 32 if quick else CASES[arch], epochs, count, levels)
        given = material(arch, trials[0].size, Path(folder), quick, asked.every)
        files = given.files
        print(
            f"{arch} at {trials[0].size} px: {count} trials of {epochs} epochs, {given.told}, "
            f"{levels} level(s) of strength"
        )
        scores: dict[str, list[str]] = {"peer": [], "ours": []}

        def theirs(workers: int = 2) -> float:
            started = time.perf_counter()
            score = peer.search(
                trials,
                files["train"],
                files["dev"],
                workers=workers,
                pruner=optuna.pruners.NopPruner(),
            )
            scores["peer"].append(f"{score:.3f}")
            return time.perf_counter() - started

        def ours(layout: torch.memory_format = torch.channels_last, keep: bool = True) -> float:
            seconds, best, dev = our_search(given, trials, layout, keep)
            scores["ours"].append(str(estimate_auc(study_scores(best.logits, dev))))
            return seconds

        between = {
            "peer without workers": lambda: theirs(0),
            "ours: cache and warp": lambda: ours(torch.contiguous_format, False),
            "ours: and channels last": lambda: ours(keep=False),
        }
        seen = interleaved(
            asked.rounds,
            {"peer": theirs, **(between if ladder else {}), "ours": ours},
        )
        for name, seconds in seen.items():
            print(f"  {name}: {spread(seconds)} s; peer / this {ratio(seen['peer'], seconds)}")
        names = list(seen)
        for before, after in itertools.pairwise(names) if ladder else ():
            gain = statistics.median(seen[before]) / statistics.median(seen[after])
            print(f"  from `{before}` to `{after}`: {gain:.2f}x")
        print(f"  best dev AUC: peer {scores['peer'][0]}, ours {scores['ours'][0]}")


if __name__ == "__main__":
    main()
