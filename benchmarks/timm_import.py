"""What does the import of a network cost without torch's compiler, and with it?

Seconds of a core of whole processes, in turn. The second imports timm before mura_tune does, so
that timm and torchvision take `torch._dynamo` with them (docs/decisions/timm-import.md).
"""

from __future__ import annotations

import resource
import subprocess
import sys

from measure import REPO, arguments, interleaved, opened, ratio, spread

NETWORKS = "import mura_tune.networks.factory"


def seconds_of(code: str) -> float:
    """Seconds of a core that a process with this program takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    given = opened(arguments(__doc__, rounds=7))
    seconds_of(NETWORKS)  # reads the files once, and compiles those that are not
    seen = interleaved(
        given.rounds,
        {
            "without": lambda: seconds_of(NETWORKS),
            "with": lambda: seconds_of(f"import timm; {NETWORKS}"),
        },
    )
    for name, values in seen.items():
        print(
            f"{name} torch's compiler: {spread(values)} s of a core; "
            f"this / with {ratio(values, seen['with'])}"
        )


if __name__ == "__main__":
    main()
