"""What does it cost to be told no area, where every area has a release of its own?

A user's whole way by the product's own commands on phantoms of three areas: a study and a release
of wrists, of the other areas from the wrists' weights, and of the router; then the router on the
published `valid` studies, the chain (`evaluate --routed`) and one `infer --area auto`. The searches
are a trial long: what is measured is the chain. The comparison says something where each release is
well above chance, so each one's figures stand above it.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import tempfile
import time
from pathlib import Path

from measure import arguments, opened

from mura_tune import console
from mura_tune.cli import mura

FIRST, OTHERS = "XR_WRIST", ("XR_FOREARM", "XR_HUMERUS")
DATA = ("--data", "phantoms")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--patients", type=int, default=400, help="of each area")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument(
        "--epochs", type=int, default=16, help="of the wrists' release; the others take fewer"
    )
    given = opened(parser)
    if given.quick:
        given.patients, given.size, given.epochs = 40, 32, 2
    short = (
        "--no-artifacts",
        "--feature-gb",
        0,
        "--trials",
        1,
        *sets(
            "arch=cnn",
            f"size={given.size}",
            "head.epochs=0",
            "finetune.epochs=1",
            "finetune.depth=99",
            "augment=0.25",
            "budget.confirm.top=0",
            "split.dev=0.2",
            "split.folds=0",
            "final.head.epochs=0",
            "final.patience=0",
        ),
    )
    started, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        areas = [word for area in (FIRST, *OTHERS) for word in ("--area", area)]
        run("phantom", "phantoms", *areas, "--patients", given.patients, "--size", 256)
        for study, start, lr, epochs in (
            (FIRST, "none", "1.0e-3", given.epochs),
            *((area, f"releases/{FIRST}", "1.0e-3", given.epochs // 2) for area in OTHERS),
            ("router", "none", "1.0e-3", max(1, given.epochs // 5)),
        ):
            begun = sets(
                f"pretrained={start}", f"finetune.lr={lr}", f"final.finetune.epochs={epochs}"
            )
            run("tune", study, *DATA, *short, *begun)
            run("finalize", study, *DATA)
        run("evaluate", "--release", "releases/router", *DATA)
        run("evaluate", "--routed", *DATA)
        abnormal = min(Path("phantoms", "valid", FIRST).glob("*/*_positive"))
        views = [word for view in sorted(abnormal.iterdir()) for word in ("--image", view)]
        run("infer", "--area", "auto", *views)
    print(
        f"\n{(time.perf_counter() - started) / 60:.1f} minutes, "
        f"{(time.process_time() - cpu) / 60:.1f} of CPU time"
    )


def sets(*values: str) -> list[str]:
    return [word for value in values for word in ("--set", value)]


def run(*given: object) -> None:
    """A command of `mura`: itself, what it reports, and how long it took."""
    words = [str(word) for word in given]
    print(f"\n$ mura {shlex.join(words)}")
    started, said = time.perf_counter(), io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            console.run_command(mura, "mura", words)
    except SystemExit as end:
        if end.code:
            raise
    print(f"{said.getvalue().rstrip()}\n[{time.perf_counter() - started:.0f} s]")


if __name__ == "__main__":
    main()
