"""Is anything slower than at an earlier commit: `mura --help`, reading a folder, a small search?

Whole processes of this checkout and of `--commit`, in a checkout of its own, on the same phantoms,
interleaved. The search is three trials of the small network with their confirmation; its cache is
built once before. The folder holds the test studies, and the release is each commit's own.

The last question is asked of `--engines`, the commit before searches on many machines: four workers
on one SQLite file, whose twelve trials are so short that what they store counts.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from measure import REPO, arguments, earlier_checkout, interleaved, opened, ratio, spread

SETS = [
    "arch=cnn",
    "size=64",
    "pretrained=none",
    "split.folds=0",
    "head.epochs=0",
    "finetune.epochs=4",
    "seed=7",
    "finetune.lr=1.0e-3",
    "final.head.epochs=0",
    "final.finetune.epochs=2",
    "batch=32",
    "budget.confirm.top=1",
    "budget.confirm.seeds=1",
    "budget.pruner.name=none",
    "search.finetune.depth=null",
    "finetune.depth=5",
]
SHORT = ["size=32", "finetune.epochs=2", "budget.confirm.top=0"]  # after SETS


class Checkout:
    """The commands of one commit, writing into a folder of its own."""

    def __init__(self, code: Path, folder: Path) -> None:
        self.code, self.folder = code, folder
        folder.mkdir()
        self.environment = {**os.environ, "PYTHONPATH": str(code)}
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has bytecode

    def mura(self, *words: object) -> float:
        """Seconds of a whole process."""
        command = [sys.executable, "-c", "from mura_tune.cli import main; main()"]
        started = time.perf_counter()
        ran = subprocess.run(
            [*command, *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            env=self.environment,
        )
        if ran.returncode:
            raise SystemExit(f"{self.code.name}: mura {words[0]} failed:\n{ran.stderr}")
        return time.perf_counter() - started

    def search(self, data: Path, trials: int, workers: int = 1, more: Sequence[str] = ()) -> float:
        """Seconds of a search from nothing but the cache."""
        for path in self.folder.glob("runs/studies.db*"):
            path.unlink()
        words = ["tune", "XR_WRIST", "--data", data, "--trials", trials, "--workers", workers]
        sets = [word for item in (*SETS, *more) for word in ("--set", item)]
        return self.mura(*words, "--feature-gb", 0, *sets)

    def infer(self, studies: Path) -> float:
        """Seconds of reading a folder of studies into a new table."""
        (self.folder / "answers.csv").unlink(missing_ok=True)
        return self.mura("infer", studies, "--release", "releases/XR_WRIST")


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--commit", default="cff93a7", help="what it is held against")
    parser.add_argument("--engines", default="ddd5aee", help="what four workers are held against")
    given = opened(parser)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measure(given.rounds, given.quick, given.commit, folder)
        measure_workers(given.rounds, given.quick, given.engines, folder)


@contextlib.contextmanager
def checkouts(commit: str, folder: Path) -> Iterator[tuple[Checkout, Checkout]]:
    """This checkout, and that of a commit while this is open."""
    with earlier_checkout(commit, folder / commit) as code:
        yield (
            Checkout(REPO, folder / f"now, beside {commit}"),
            Checkout(code, folder / f"then, {commit}"),
        )


def measure(rounds: int, quick: bool, commit: str, folder: Path) -> None:
    data = folder / "phantoms"
    with checkouts(commit, folder) as (now, then):
        then.mura(
            "phantom", data, "--area", "XR_WRIST", "--patients", 30 if quick else 400, "--size", 256
        )
        studies, trials = data / "valid", 1 if quick else 3
        for checkout in (now, then):
            checkout.search(data, 1)
            checkout.mura("finalize", "XR_WRIST", "--data", data)
            checkout.infer(studies)
            checkout.mura("check", "--data", data, "--index-only")
        compare("mura --help", 4 * rounds, now, then, commit, lambda one: one.mura("--help"))
        compare("mura infer FOLDER", rounds, now, then, commit, lambda one: one.infer(studies))
        compare(
            "mura check", rounds, now, then, commit, lambda one: one.mura("check", "--data", data)
        )
        compare("mura tune", rounds, now, then, commit, lambda one: one.search(data, trials))


def measure_workers(rounds: int, quick: bool, commit: str, folder: Path) -> None:
    data, trials = folder / "few", 2 if quick else 12
    with checkouts(commit, folder) as (now, then):
        then.mura("phantom", data, "--area", "XR_WRIST", "--patients", 30, "--size", 64)
        for checkout in (now, then):
            checkout.search(data, 1, more=SHORT)
        compare(
            f"mura tune --workers 4, {trials} trials on SQLite",
            *(rounds, now, then, commit),
            lambda one: one.search(data, trials, 4, SHORT),
        )


def compare(
    question: str,
    rounds: int,
    now: Checkout,
    then: Checkout,
    commit: str,
    run: Callable[[Checkout], float],
) -> None:
    print(question)
    seen = interleaved(rounds, {"now": lambda: run(now), commit: lambda: run(then)})
    print(
        f"{question}: {spread(seen['now'])} s, {commit} {spread(seen[commit])} s; "
        f"now / {commit} {ratio(seen['now'], seen[commit])}"
    )


if __name__ == "__main__":
    main()
