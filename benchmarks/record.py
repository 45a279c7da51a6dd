"""What the demo and a search of real radiographs print, and how long they take, as a result.

    python benchmarks/record.py demo --out benchmarks/results/demo.txt
    python benchmarks/record.py real --data DATA --out benchmarks/results/real.txt

Standard output alone is recorded; progress stays on the terminal. With --quick it is the list of
what `make` can do that is recorded.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from measure import REAL, REPO, arguments, opened

AREA = "XR_MIXED"
RUNS = {"demo": Path("runs/demo"), "real": Path("runs/real")}


def commands(what: str, data: Path, quick: bool) -> list[list[str]]:
    if quick:
        return [["make", "help"]]
    if what == "demo":
        return [["make", "demo"]]
    where = [f"AREA={AREA}", f"DATA={data}", f"RUNS={RUNS[what]}"]
    return [
        [
            "make",
            "tune",
            *where,
            "TRIALS=10",
            "ARGS=--set arch=tf_efficientnet_lite0 --set size=96",
        ],
        ["make", "finalize", *where, f"RELEASES={RUNS[what]}/releases"],
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("what", choices=RUNS)
    parser.add_argument("--data", type=Path, default=REAL, help="radiographs of XR_MIXED")
    given = opened(parser)
    if (REPO / RUNS[given.what]).exists() and not given.quick:
        sys.exit(f"{RUNS[given.what]}: is there already; remove it, for a search would go on")
    data = Path("../shared") / given.data.name if given.data == REAL else given.data
    make = shutil.which("make")
    if make is None:
        sys.exit("make is needed")
    began = time.perf_counter()
    for words in commands(given.what, data, given.quick):
        line = " ".join(
            f"{w.partition('=')[0]}='{w.partition('=')[2]}'" if " " in w else w for w in words
        )
        print(f"\n$ {line}")
        with subprocess.Popen(
            [make, *words[1:]], cwd=REPO, stdout=subprocess.PIPE, text=True
        ) as running:
            assert running.stdout is not None
            for output in running.stdout:
                print(output, end="")
        if running.returncode:
            sys.exit(f"{line}: exit code {running.returncode}")
    print(f"\nminutes: {(time.perf_counter() - began) / 60:.1f}")


if __name__ == "__main__":
    main()
