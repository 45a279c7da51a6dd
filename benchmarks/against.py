"""Is anything slower than at an earlier commit: `mura --help`, reading a folder, a small search?

Whole processes of this checkout and of `--commit`, in a checkout of its own, on the same phantoms,
interleaved. The search is three trials of the small network with their confirmation; its cache is
built once before. The folder holds the test studies, and the release is each commit's own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from measure import REPO, arguments, interleaved, opened, ratio, spread

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


class Checkout:
    """The commands of one commit, writing into a folder of its own."""

    def __init__(self, code: Path, folder: Path) -> None:
        self.code, self.folder = code, folder
        folder.mkdir()

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
            env={**os.environ, "PYTHONPATH": str(self.code)},
        )
        if ran.returncode:
            raise SystemExit(f"{self.code.name}: mura {words[0]} failed:\n{ran.stderr}")
        return time.perf_counter() - started

    def search(self, data: Path, trials: int) -> float:
        """Seconds of a search from nothing but the cache."""
        for path in self.folder.glob("runs/studies.db*"):
            path.unlink()
        sets = [word for item in SETS for word in ("--set", item)]
        return self.mura(
            "tune", "XR_WRIST", "--data", data, "--trials", trials, "--feature-gb", 0, *sets
        )

    def infer(self, studies: Path) -> float:
        """Seconds of reading a folder of studies into a new table."""
        (self.folder / "answers.csv").unlink(missing_ok=True)
        return self.mura("infer", studies, "--release", "releases/XR_WRIST")


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--commit", default="cff93a7", help="what it is held against")
    given = opened(parser)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        code = folder / "earlier"
        git = ["git", "-C", str(REPO), "worktree"]
        subprocess.run([*git, "add", "--detach", "--quiet", code, given.commit], check=True)
        try:
            measure(given.rounds, given.quick, given.commit, code, folder)
        finally:
            subprocess.run([*git, "remove", "--force", code], check=True)


def measure(rounds: int, quick: bool, commit: str, code: Path, folder: Path) -> None:
    now, then = Checkout(REPO, folder / "now"), Checkout(code, folder / "then")
    data = folder / "phantoms"
    then.mura(
        "phantom", data, "--area", "XR_WRIST", "--patients", 30 if quick else 400, "--size", 256
    )
    for checkout in (now, then):
        checkout.search(data, 1)
        checkout.mura("finalize", "XR_WRIST", "--data", data)
    studies, trials = data / "valid", 1 if quick else 3
    questions: dict[str, tuple[int, Callable[[Checkout], float]]] = {
        "mura --help": (4 * rounds, lambda one: one.mura("--help")),
        "mura infer FOLDER": (rounds, lambda one: one.infer(studies)),
        "mura check": (rounds, lambda one: one.mura("check", "--data", data)),
        "mura tune": (rounds, lambda one: one.search(data, trials)),
    }
    for question, (times, run) in questions.items():
        print(question)
        seen = interleaved(times, {"now": lambda r=run: r(now), commit: lambda r=run: r(then)})
        print(
            f"{question}: {spread(seen['now'])} s, {commit} {spread(seen[commit])} s; "
            f"now / {commit} {ratio(seen['now'], seen[commit])}"
        )


if __name__ == "__main__":
    main()
