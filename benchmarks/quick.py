"""Does every benchmark still run? Each of them with --quick, a line each; 1 where one fails.

    python benchmarks/quick.py [NAME ...] [--jobs N]

What a benchmark leaves out, for want of a program, of radiographs or of an earlier commit, stands
below its line. The seconds say how long a toy takes, and nothing else: several run at once.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from measure import LEFT_OUT, REPO

FOLDER = Path(__file__).parent
NO_BENCHMARKS = {"epoch_runs", "measure", "peer", "quick", "searches", "tables"}
# What a benchmark is asked beside --quick: a list each time that it runs.
WORDS = {
    "coverage": [[], ["--folds"]],
    "record": [["demo"]],
    "subgroups": [[], ["--corrections"]],
}


@dataclass(frozen=True)
class Outcome:
    """What one command came to.

    Attributes:
        notes: what it left out; where it failed, what it said last.
    """

    title: str
    seconds: float
    failed: bool
    notes: tuple[str, ...]

    def __str__(self) -> str:
        verdict = "failed" if self.failed else "ok"
        return "\n    ".join([f"{self.title:<24}{self.seconds:6.1f} s  {verdict}", *self.notes])


def find_benchmarks() -> list[str]:
    """The names of all scripts that ask something."""
    return sorted({path.stem for path in FOLDER.glob("*.py")} - NO_BENCHMARKS)


def list_commands(names: Sequence[str]) -> Iterator[list[str]]:
    """The name of a script and its words, for each time that it runs."""
    for name in names:
        for words in WORDS.get(name, [[]]):
            yield [name, *words]


def run(command: Sequence[str]) -> Outcome:
    """Run a benchmark's toy in a process of its own, with one thread."""
    name, *words = command
    started = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), *words, "--quick"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
    )
    failed = ran.returncode != 0
    notes = [line for line in ran.stdout.splitlines() if line.startswith(LEFT_OUT)]
    if failed:
        notes += ran.stderr.splitlines()[-3:] or [f"exit code {ran.returncode}, no message"]
    seconds = time.perf_counter() - started
    return Outcome(" ".join(command), seconds, failed, tuple(dict.fromkeys(notes)))


def main() -> None:
    every = find_benchmarks()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a script; all by default")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at once")
    given = parser.parse_args()
    if unknown := sorted({*given.names} - {*every}):
        parser.error(f"no benchmark: {', '.join(unknown)}; there are {', '.join(every)}")
    started = time.perf_counter()
    with ThreadPoolExecutor(given.jobs) as pool:
        waiting = [pool.submit(run, command) for command in list_commands(given.names or every)]
        outcomes = []
        try:
            for done in as_completed(waiting):
                outcomes.append(done.result())
                print(outcomes[-1], flush=True)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    failed = [outcome.title for outcome in outcomes if outcome.failed]
    print(f"{len(outcomes)} commands in {time.perf_counter() - started:.0f} s")
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
