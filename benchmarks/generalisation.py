"""How good are released models on patients whom no search saw, by their start, head and judge?

The patients of a folder of radiographs are divided into fifths, the abnormal and the others alike.
In repetition r the fifth r is the test split, and a whole search and its release follow for each
cell: a start (random weights or ImageNet's), a head, and a judge. The judge is the way that trials
are picked: `old` is that of earlier versions, `new` is what default.yaml says. Both take the same
number of runs. A finished cell is a line of --cells, and the same command goes on after the last
one. About 30 minutes on one core; --repetitions divides the work among processes. What a search
says meanwhile is in CELLS.log.

    python benchmarks/generalisation.py DATA --cells cells.jsonl --out results/generalisation.txt
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import hashlib
import json
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from measure import REAL, arguments, commit, is_here, kept_or_temporary, mean_interval, opened

import mura_tune as mt
from mura_tune.config import config_to_dict
from mura_tune.data.index import index_mura
from mura_tune.evaluation.evaluate import Evaluation

AREA = "XR_MIXED"
FIFTHS = 5
BUDGET = (
    "size=64",
    "head.epochs=1",
    "finetune.epochs=3",
    "final.head.epochs=1",
    "final.finetune.epochs=6",
    "budget.random=4",
    "budget.pruner.name=none",
    "split.folds=0",  # with folds, a trial would be several runs
)
FROM_SCRATCH = ("pretrained=none", "head.epochs=0", "final.head.epochs=0", "finetune.depth=9")
LITE0 = ("arch=tf_efficientnet_lite0", "pretrained=imagenet")
# What earlier versions did. A field that the version at hand has not got is left out.
OLD_START = ("head_init=random", "normalisation=common", "head.solver=steps")
OLD_JUDGE = (
    "budget.confirm.resplit=false",
    "keep=best",
    "study_score=mean_probability",
)
STARTS = {
    "small CNN from scratch": ("arch=cnn", *FROM_SCRATCH),
    "resnet18 from scratch": ("arch=resnet18", *FROM_SCRATCH),
    "lite0 from ImageNet, old head": (*LITE0, *OLD_START),
    "lite0 from ImageNet, new head": (*LITE0, "head_init=prior", "head.solver=steps"),
    "lite0 from ImageNet, solved head": (
        *LITE0,
        "head_init=prior",
        "head.solver=lbfgs",
        "batch_norm=start",  # what a solved head wants: results/solved_head.txt
    ),
}
SMALL, SCRATCH, BEFORE, AFTER, SOLVED = STARTS


@dataclass(frozen=True)
class Judge:
    """A way to pick a recipe: trials; then `top` of them and the baseline run again,
    `seeds` times each."""

    trials: int
    top: int
    seeds: int
    overrides: tuple[str, ...] = ()

    @property
    def runs(self) -> int:
        return self.trials + (self.top + 1) * self.seeds


# In the proportions of the plans, 40 trials and 3 x 2 runs before, 24 and 5 x 4 now.
JUDGES = {"old": Judge(8, 2, 2, OLD_JUDGE), "new": Judge(5, 2, 3)}
assert len({judge.runs for judge in JUDGES.values()}) == 1
# From scratch, the new judge alone: what the start is worth is asked once. What matters most is
# first: each is done for all repetitions before the next begins.
CELLS = [
    (BEFORE, "old"),
    (AFTER, "new"),
    (SOLVED, "new"),
    (SMALL, "new"),
    (AFTER, "old"),
    (SOLVED, "old"),
    (BEFORE, "new"),
    (SCRATCH, "new"),
]


@dataclass(frozen=True)
class Cell:
    """A release: its study AUC on dev and test, and what the search said of its recipe."""

    repetition: int
    start: str
    judge: str
    settings: str  # the first digits of the sha256 of everything that it was made with
    dev: float
    test: float
    picked: float  # the winner's score in the search
    confirmed: float  # the mean over its new seeds
    test_studies: int
    seconds: float


def write_table(data: Path, fifth: int, file: Path) -> int:
    """Write the dataset as a table whose test split is a fifth of the patients. Return how many.

    Patients with an abnormal study and the others are each dealt out in an order that is drawn
    once, whatever the fifth.
    """
    frame = index_mura(data).frame
    abnormal = frame.groupby("patient")["label"].max()
    generator = np.random.default_rng(0)
    tested: set[str] = set()
    for label in (0, 1):
        patients = generator.permutation(sorted(abnormal.index[abnormal == label]))
        tested.update(patients[fifth::FIFTHS])
    with file.open("w", newline="", encoding="utf-8") as table:
        rows = csv.writer(table)
        rows.writerow(["path", "patient", "label", "area", "study", "split"])
        for row in frame.itertuples():
            split = "valid" if row.patient in tested else "train"
            path = (data / row.path).resolve()
            rows.writerow([path, row.patient, row.label, AREA, row.study, split])
    return len(tested)


def known(overrides: Iterable[str]) -> list[str]:
    """The overrides whose field this version has."""
    plain = config_to_dict(mt.load_config(AREA))

    def has(path: str) -> bool:
        at = plain if path.split(".")[0] in plain else plain["recipe"]
        for key in path.split("."):
            if not isinstance(at, dict) or key not in at:
                return False
            at = at[key]
        return True

    return [override for override in overrides if has(override.partition("=")[0])]


def overrides_of(start: str, judge: Judge, quick: bool) -> list[str]:
    toy = ("size=32", "finetune.epochs=1", "final.finetune.epochs=1") if quick else ()
    return [
        *BUDGET,
        *known((*STARTS[start], *judge.overrides)),
        *toy,
        f"budget.trials={judge.trials}",
        f"budget.confirm.top={judge.top}",
        f"budget.confirm.seeds={judge.seeds}",
    ]


def measure(
    repetition: int, start: str, judge: str, overrides: list[str], data: Path, folder: Path
) -> Cell:
    """Search, release, and read the release's scores."""
    began = time.perf_counter()
    config = mt.load_config(AREA, [*overrides, f"seed={repetition}", f"budget.seed={repetition}"])
    table = folder / f"fifth-{repetition}.csv"
    write_table(data, repetition, table)
    with tempfile.TemporaryDirectory(dir=folder) as runs:
        search = mt.Search(config, data=table, storage=f"{runs}/studies.db", runs=folder / "runs")
        best = search.run(artifacts=False, warm_start="none")
        made = mt.finalize(best, out=f"{runs}/releases", device="cpu")
    assert isinstance(made.dev, Evaluation)
    assert isinstance(made.test, Evaluation)
    dev, test = (evaluation.by_study["auc"] for evaluation in (made.dev, made.test))
    means = {candidate.trial: candidate.mean for candidate in best.confirmed}
    return Cell(
        repetition,
        start,
        judge,
        settings_of(overrides),
        dev.value,
        test.value,
        best.best.score,
        means[best.best.number],
        test.studies,
        round(time.perf_counter() - began, 1),
    )


def settings_of(overrides: list[str]) -> str:
    """A name of everything that a cell is made with: the whole configuration and the commit."""
    plain = config_to_dict(mt.load_config(AREA, overrides))
    text = json.dumps([plain, commit().split()[0]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_cells(file: Path) -> list[Cell]:
    if not file.exists():
        return []
    return [Cell(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def append_cell(file: Path, cell: Cell) -> None:
    with file.open("a", encoding="utf-8") as cells:
        fcntl.flock(cells, fcntl.LOCK_EX)
        cells.write(json.dumps(asdict(cell)) + "\n")


def summarise(cells: list[Cell]) -> None:
    """Print a row for each start and judge, and the differences, paired by repetition."""
    by_cell: dict[tuple[str, str], dict[int, Cell]] = {}
    for cell in cells:
        by_cell.setdefault((cell.start, cell.judge), {})[cell.repetition] = cell
    print(f"\n{'start':34}{'judge':7}{'dev':>7}{'test':>7}   {'dev - test':24}picked - test")
    for (start, judge), runs in by_cell.items():
        dev, test = (
            float(np.mean([getattr(c, s) for c in runs.values()])) for s in ("dev", "test")
        )
        short = [
            mean_interval([getattr(c, score) - c.test for c in runs.values()]) for score in GAPS
        ]
        print(f"{start:34}{judge:7}{dev:7.3f}{test:7.3f}   {short[0]:24}{short[1]}")
    print()
    for first, second in PAIRS:
        both = sorted(by_cell.get(first, {}).keys() & by_cell.get(second, {}).keys())
        if not both:
            continue
        one, other = (by_cell[key] for key in (first, second))
        gain = mean_interval([one[r].test - other[r].test for r in both])
        print(
            f"test AUC, {' with the '.join(first)} judge minus {' with the '.join(second)} judge:"
        )
        print(f"    {gain} (n = {len(both)})")


GAPS = ("dev", "picked")
PAIRS = [
    ((AFTER, "new"), (BEFORE, "old")),
    ((SOLVED, "new"), (BEFORE, "old")),
    *(((start, "new"), (start, "old")) for start in (BEFORE, AFTER, SOLVED)),
    *(((AFTER, judge), (BEFORE, judge)) for judge in JUDGES),
    *(((SOLVED, judge), (AFTER, judge)) for judge in JUDGES),
    ((AFTER, "new"), (SMALL, "new")),
    ((AFTER, "new"), (SCRATCH, "new")),
]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "data", type=Path, nargs="?", default=REAL, help="radiographs in MURA's layout"
    )
    parser.add_argument("--cells", type=Path, help="finished cells, a line each: it goes on there")
    parser.add_argument(
        "--repetitions", type=int, nargs="+", choices=range(FIFTHS), default=[*range(FIFTHS)]
    )
    given = opened(parser)
    if not is_here(given.data):
        return
    with kept_or_temporary(given.cells, "cells.jsonl") as file:
        make_cells(given.data, file, given.repetitions, given.quick)


def make_cells(data: Path, file: Path, repetitions: list[int], quick: bool) -> None:
    """Make the cells that the file lacks, and print the table of all that it then has."""
    cells = CELLS
    if quick:
        cells, repetitions = CELLS[:2], repetitions[:1]
        JUDGES.update(old=Judge(3, 1, 1, OLD_JUDGE), new=Judge(3, 1, 1))
    plans = {(s, j): overrides_of(s, JUDGES[j], quick) for s, j in cells}
    names = {key: settings_of(overrides) for key, overrides in plans.items()}

    def wanted() -> list[Cell]:
        """The stored cells that were made with these settings, in the order of the table."""
        stored = {
            (c.start, c.judge, c.repetition): c
            for c in read_cells(file)
            if c.settings == names.get((c.start, c.judge))
        }
        return [
            stored[key]
            for key in ((s, j, r) for s, j in CELLS for r in range(FIFTHS))
            if key in stored
        ]

    log = file.with_name(f"{file.name}.log")
    with tempfile.TemporaryDirectory() as folder, log.open("a", encoding="utf-8") as messages:
        for (start, judge), overrides in plans.items():
            for repetition in repetitions:
                if any(
                    (c.start, c.judge, c.repetition) == (start, judge, repetition) for c in wanted()
                ):
                    continue
                with contextlib.redirect_stderr(messages):
                    cell = measure(repetition, start, judge, overrides, data, Path(folder))
                append_cell(file, cell)
                print(
                    f"{repetition}  {start:34}{judge:5}dev {cell.dev:.3f}  test {cell.test:.3f} "
                    f"(n = {cell.test_studies})  picked for {cell.picked:.3f}, "
                    f"new seeds {cell.confirmed:.3f}  {cell.seconds:.0f} s"
                )
    summarise(wanted())


if __name__ == "__main__":
    main()
