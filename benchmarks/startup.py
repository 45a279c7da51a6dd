"""How long until an answer: `mura --help`, a verb that is none, and `mura infer` on one image?

The first two against `python -c "import click"`, the third against importing torch and timm and one
forward of the same network (with and without reading the image). Whole processes, interleaved; the
release that infer reads is a network with drawn weights.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import arguments, interleaved, opened, ratio, spread

MURA = Path(sys.executable).with_name("mura")
FORWARD = """
import mura_tune, torch, timm
net = timm.create_model("resnet18", in_chans=1, num_classes=1).eval()
with torch.inference_mode():
    net(torch.zeros(1, 1, 224, 224))
"""
SMALL = [
    "arch=resnet18",
    "pretrained=none",
    "split.folds=0",
    "size=224",
    "head.epochs=0",
    "finetune.epochs=1",
    "final.head.epochs=0",
    "final.finetune.epochs=1",
    "search.finetune.depth.high=0",
    "finetune.depth=0",
]


def call(*words: object, code: int = 0) -> float:
    """Seconds of a whole process, which has to end with the exit code; its output is dropped."""
    command = [str(word) for word in words]
    started = time.perf_counter()
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if ran.returncode != code:
        raise SystemExit(f"{' '.join(command[1:3])}: exit code {ran.returncode}\n{ran.stderr}")
    return seconds


def released(root: Path) -> tuple[Path, Path]:
    """A release folder, and an image for it."""
    data, runs = root / "phantoms", root / "runs"
    call(MURA, "phantom", data, "--area", "XR_WRIST", "--patients", 12)
    sets = [word for item in SMALL for word in ("--set", item)]
    call(MURA, "tune", "XR_WRIST", "--trials", 1, "--data", data, "--runs", runs, *sets)
    call(MURA, "finalize", "XR_WRIST", "--data", data, "--runs", runs, "--releases", root / "rel")
    return root / "rel" / "XR_WRIST", next((data / "valid").rglob("*.png"))


def main() -> None:
    given = opened(arguments(__doc__, rounds=7))
    light = interleaved(
        given.rounds,
        {
            "import click": lambda: call(sys.executable, "-c", "import click"),
            "mura --help": lambda: call(MURA, "--help"),
            "mura nonsense": lambda: call(MURA, "nonsense", code=2),
        },
    )
    for name, values in light.items():
        print(
            f"{name}: {spread(values, '.3f')} s; this / import click "
            f"{ratio(values, light['import click'])}"
        )
    with tempfile.TemporaryDirectory() as folder:
        release, image = released(Path(folder))
        heavy = interleaved(
            given.rounds,
            {
                "torch, timm, one forward": lambda: call(sys.executable, "-c", FORWARD),
                "mura infer": lambda: call(MURA, "infer", "--release", release, "--image", image),
            },
        )
    for name, values in heavy.items():
        print(
            f"{name}: {spread(values)} s; this / forward "
            f"{ratio(values, heavy['torch, timm, one forward'])}"
        )


if __name__ == "__main__":
    main()
