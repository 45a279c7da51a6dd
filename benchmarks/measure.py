"""What every benchmark shares: interleaved rounds, a ratio with its spread, the machine's line."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

REPO = Path(__file__).parents[1]
REAL = REPO.parent / "shared" / "real-xrays"
LEFT_OUT = "left out:"  # before what a machine lacks
SMALL_CNN = {  # a recipe of minutes on one core; its size and epochs are each script's own
    "arch": "cnn",
    "pretrained": "none",
    "head.epochs": 0,
    "augment": 0.25,
    "finetune.lr": 1e-3,
    "finetune.depth": 9,
}


def arguments(doc: str | None, rounds: int | None = None) -> argparse.ArgumentParser:
    """`--quick` for a toy size, `--out` to keep what is printed, `--rounds` where there are any."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="toy size, one round: does it run?")
    if rounds:
        parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--out", type=Path, help="write what is printed to this file too")
    return parser


def opened(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The parsed arguments, after the lines that say what runs where."""
    given = parser.parse_args()
    code = commit()  # before `--out` is opened: that file would be a change
    if given.quick:
        given.rounds = 1
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    if given.out:
        sys.stdout = Tee(given.out)
    words = [Path(w).name if Path(w).is_absolute() else w for w in sys.argv[1:]]
    print(
        "command:", " ".join([".venv/bin/python", f"benchmarks/{Path(sys.argv[0]).name}", *words])
    )
    print("commit:", code)
    print(machine())
    return given


class Tee(io.TextIOWrapper):
    """A file that shows on standard output what is written to it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.open("wb"), encoding="utf-8", line_buffering=True)
        self.stdout = sys.stdout

    def write(self, text: str, /) -> int:
        self.stdout.write(text)
        return super().write(text)

    def flush(self) -> None:
        self.stdout.flush()
        super().flush()


def commit() -> str:
    """The commit that runs, and whether files differ from it."""
    git = shutil.which("git")
    if git is None:
        return "unknown"

    def said(*words: str) -> str:
        ran = subprocess.run([git, "-C", REPO, *words], capture_output=True, text=True, check=False)
        return str(ran.stdout).strip()

    changed = " and changes not in it" if said("status", "--porcelain") else ""
    return (said("rev-parse", "--short", "HEAD") or "unknown") + changed


def machine() -> str:
    """Processor, cores, versions and how busy it was; no name that tells whose it is."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"machine: {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} "
        f"thread(s), {gpu}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.1f} at the start"
    )


def leave_out(what: str) -> NoReturn:
    """End here, with success, for want of what this machine does not have."""
    print(LEFT_OUT, what)
    sys.exit(0)


def is_here(radiographs: Path) -> bool:
    """Whether the radiographs of REAL are here; where they are not, that is printed.

    True of any other folder: somebody named it, and what reads it says what is wrong.
    """
    if radiographs.is_dir() or radiographs != REAL:
        return True
    print(LEFT_OUT, f"what needs the radiographs of {REAL.name}, which are not here")
    return False


@contextlib.contextmanager
def earlier_checkout(commit: str, folder: Path) -> Iterator[Path]:
    """The files of a commit, as `folder`, until the block ends."""
    git = shutil.which("git") or leave_out("an earlier commit: git is not here")
    known = [git, "-C", str(REPO), "cat-file", "-e", f"{commit}^{{commit}}"]
    if subprocess.run(known, capture_output=True, check=False).returncode:
        leave_out(f"commit {commit}: this clone does not have it")
    worktree = [git, "-C", str(REPO), "worktree"]
    subprocess.run([*worktree, "add", "--detach", "--quiet", folder, commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*worktree, "remove", "--force", folder], check=True)


@contextlib.contextmanager
def kept_or_temporary(file: Path | None, name: str) -> Iterator[Path]:
    """`file` where one is named, else one in a folder that goes when the block ends."""
    if file is not None:
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder, name)


def peak_memory() -> float:
    """The most memory that this process has held so far, in MB: not that of its parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def interleaved(
    rounds: int, contenders: Mapping[str, Callable[[], float]]
) -> dict[str, list[float]]:
    """Each contender once a round, in turn: what the machine does meanwhile meets all of them.

    A round's values are printed when it is over, so that a run that is cut off leaves what it saw.
    """
    seen: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, run in contenders.items():
            seen[name].append(run())
        values = ", ".join(f"{name} {found[-1]:.4g}" for name, found in seen.items())
        print(f"    round {number + 1}: {values}")
    return seen


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Median and range."""
    middle = statistics.median(values)
    return f"{middle:{form}} ({min(values):{form}} to {max(values):{form}})"


def mean_interval(values: Collection[float]) -> str:
    """The mean of paired differences, with its 95 % interval by Student's t from two on."""
    from scipy.special import stdtrit

    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:+.3f}"
    half = float(stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"


def ratio(over: Sequence[float], under: Sequence[float]) -> str:
    """Median and range of the rounds' own ratios."""
    return spread([a / b for a, b in zip(over, under, strict=True)]) + "x"
