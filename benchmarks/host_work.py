"""How many operations does Python launch for a step of training, and how often does it wait?

DenseNet-121 on noise, all of it training, in this checkout and in `--commit`: an epoch of two steps
with its evaluation, and what each further step adds. Counted on the CPU, with views warped at once
as on a GPU. An operation is what torch dispatches below autograd and is not a view: one kernel or
more on a GPU. What `fit` hands to `graphs.captured` is one launch there, with a copy of each of its
inputs and one of its output; here it runs as it is, and its operations are counted apart. A wait is
a number that Python reads from a tensor before it goes on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from against import Checkout, checkouts
from measure import arguments, opened

MORE = 4  # steps of the longer epoch beside those of the shorter one
COUNT = """
import json, sys
sys.path.insert(0, "benchmarks")
import epoch, torch
from torch.utils._python_dispatch import TorchDispatchMode

BATCH, STEPS = 32, int(sys.argv[1])
counts = {"python": 0, "graph": 0, "launches": 0, "waits": 0}
place = ["python"]

class Count(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        counts["waits"] += function is torch.ops.aten._local_scalar_dense.default
        counts[place[-1]] += not function.is_view
        return function(*args, **(kwargs or {}))

def captured(function, device):
    def call(*inputs):
        place.append("graph")
        counts["launches"] += len(inputs) + 2
        try:
            return function(*inputs)
        finally:
            place.pop()
    return call

try:
    from mura_tune.training import augment, fit, steps
    fit.captured = steps.captured = captured
except ImportError:
    from mura_tune.learning import augment
augment.IMAGES_IN_CACHE = augment.IN_CACHE = BATCH
build = getattr(epoch, "build_network", None) or epoch.build
task = getattr(epoch, "ABNORMALITY_TASK", None) or epoch.ABNORMALITY
device = torch.device("cpu")
train, dev = (epoch.split(n, 64, device) for n in (BATCH * STEPS, BATCH))
wanted = epoch.recipe("densenet121", 64, BATCH, 99, 1)
net = build("densenet121")
with Count():
    epoch.fit(net, train, dev, wanted, task)
print(json.dumps(counts))
"""


def count(checkout: Checkout, steps: int) -> dict[str, int]:
    """Of an epoch: operations by Python alone, in graphs, what launches these, and waits."""
    environment = checkout.environment | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", COUNT, str(steps)]
    ran = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=checkout.code, env=environment
    )
    counts: dict[str, int] = json.loads(ran.stdout.splitlines()[-1])
    return counts


def describe(counts: Mapping[str, float]) -> str:
    return (
        f"{counts['python'] + counts['graph']:.0f} operations, {counts['graph']:.0f} of them in "
        f"graphs: Python launches {counts['python'] + counts['launches']:.0f}, and waits "
        f"{counts['waits']:.0f} times"
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--commit", default="cff93a7", help="what it is held against")
    given = opened(parser)
    with tempfile.TemporaryDirectory() as name, checkouts(given.commit, Path(name)) as both:
        for checkout, who in zip(both, ("now", given.commit), strict=True):
            short, long = count(checkout, 2), count(checkout, 2 + MORE)
            step = {name: (long[name] - short[name]) / MORE for name in short}
            print(f"{who}, a step: {describe(step)}")
            print(f"{who}, an epoch of 2 steps, evaluated: {describe(short)}")


if __name__ == "__main__":
    main()
