"""Do images, epochs or searches take longer than at an earlier commit, or come nearer to the peer?

data_path.py, epoch.py and search.py of this checkout and of `--commit`, each beside its own peer,
a round of one and then of the other, the other first in every second round. A line for each of our
contenders: its time now over its time then, and how many times longer the peer took, now and then.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from against import Checkout, checkouts
from measure import REAL, arguments, opened, ratio, spread

PARTS = (
    ("data_path",),
    ("epoch", "--case", "cnn"),
    ("epoch", "--case", "resnet18"),
    ("search", "--case", "cnn"),
    ("search", "--case", "resnet18", "--every", "3"),
)
TIME = re.compile(r"^ *([a-z, ]+): ([\d.]+) \([\d.]+ to [\d.]+\) (?:ms/image|s);", re.MULTILINE)


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--commit", default="cff93a7", help="what it is held against")
    parser.add_argument("--part", type=int, nargs="+", default=range(1, len(PARTS) + 1))
    given = opened(parser)
    if given.quick:  # a script's toy has one case
        given.part = [1, 2, 4]
    with tempfile.TemporaryDirectory() as name, checkouts(given.commit, Path(name)) as both:
        (Path(name) / "shared").symlink_to(REAL.parent)  # where the scripts look for it
        for number in given.part:
            script, *words = PARTS[number - 1]
            print(script, *words)
            words = ["--quick"] if given.quick else [*words, "--rounds", "1"]
            rounds = []
            for turn in range(given.rounds):
                order = both if turn % 2 == 0 else both[::-1]
                times = {one.code: run(one, script, words) for one in order}
                rounds.append([times[one.code] for one in both])
            for contender in rounds[0][0]:
                if "peer" not in contender and "bare" not in contender:
                    describe(contender, rounds, given.commit)


def run(checkout: Checkout, script: str, words: list[str]) -> dict[str, float]:
    """The times that one round of a script prints, by contender."""
    ran = subprocess.run(
        [sys.executable, f"benchmarks/{script}.py", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=checkout.code,
        env=checkout.environment,
    )
    if ran.returncode:
        raise SystemExit(f"{script} in {checkout.code.name} failed:\n{ran.stderr}")
    return {name: float(time) for name, time in TIME.findall(ran.stdout)}


def describe(contender: str, rounds: list[list[dict[str, float]]], commit: str) -> None:
    now, then = ([times[contender] for times in of] for of in zip(*rounds, strict=True))
    peers = [[over_peer(contender, times) for times in of] for of in zip(*rounds, strict=True)]
    print(
        f"  {contender}: now / {commit} {ratio(now, then)}; "
        f"peer / this now {spread(peers[0])}x, {commit} {spread(peers[1])}x"
    )


def over_peer(contender: str, times: Mapping[str, float]) -> float:
    """How many times longer the peer took for the same."""
    first, *rest = contender.split(", ")
    peer = ", ".join(["peer", *rest[:1]]) if first == "ours" else f"{first}, peer"
    return times[peer] / times[contender]


if __name__ == "__main__":
    main()
