"""What does a trial cost beside training: its network, its intervals, its pictures, the database?

Whole searches of this checkout and of `--commit`, in a checkout of its own, on the same phantoms
and seeds, interleaved, each in a process of its own by one worker. Seconds are a trial's, by the
clock and of this process's cores; the first trial, which reads the data, is left out.

- epochs: training and the scores of dev, which are not overhead
- network: from a recipe to a network with its first weights on the device
- phases: what `fit` does beside its epochs: depths, optimisers, digests of frozen stages
- interval: the bootstrap of the dev score
- pictures: charts, the table of scores and the note
- database: all else, nearly all of it Optuna's
- calls: how often a trial asks the database
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from measure import REPO, arguments, earlier_checkout, opened, ratio, spread

AREA = "XR_FOREARM"
# Network, pixels a side, stages that fine-tuning trains, patient folds, first weights.
CASES: dict[str, tuple[str, int, int, int, str]] = {
    "small CNN": ("cnn", 32, 2, 0, "none"),
    "ResNet-18 from a file": ("resnet18", 32, 2, 0, "file"),
    "DenseNet-121": ("densenet121", 32, 0, 0, "none"),
    "ResNet-18, three folds": ("resnet18", 32, 1, 3, "none"),
}
GPU_SIZE = 224
PARTS = ("epochs", "network", "phases", "interval", "pictures")


class Clock:
    """Seconds of nested parts, by the clock and of the cores, each part without those inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self._inside = [[0.0, 0.0]]

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        started = time.perf_counter(), time.process_time()
        self._inside.append([0.0, 0.0])
        try:
            yield
        finally:
            inner = self._inside.pop()
            now = time.perf_counter(), time.process_time()
            whole = [after - before for after, before in zip(now, started, strict=True)]
            for index, spent in enumerate(whole):
                self._inside[-1][index] += spent
                self.seconds.setdefault(name, [0.0, 0.0])[index] += spent - inner[index]

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            with self.part(name):
                return function(*args, **options)

        return call


def search(case: str, data: Path, folder: Path, device_name: str, trials: int) -> None:
    """Run one search and print, as JSON, what a trial after the first cost."""
    import torch

    from mura_tune.config import load_config
    from mura_tune.dashboard import artifacts
    from mura_tune.dashboard.artifacts import TrialArtifacts
    from mura_tune.data import index
    from mura_tune.data import prepare as preparing
    from mura_tune.database.outages import Patience
    from mura_tune.database.urls import url_of
    from mura_tune.networks.factory import build_network
    from mura_tune.search import search as searches
    from mura_tune.search import trial as trial_module
    from mura_tune.search import worker
    from mura_tune.search.search import SearchJob, TrialEnded, WorkerSettings
    from mura_tune.training import fit as fit_module
    from mura_tune.training import steps
    from mura_tune.training.tasks import Task

    device = torch.device(device_name)
    arch, size, depth, folds, start = CASES[case]
    size = GPU_SIZE if device.type == "cuda" else size
    if start == "file":
        from safetensors.torch import save_file

        weights = build_network(arch, seed=7).body.state_dict()
        start = str(folder / "start.safetensors")
        save_file({name: value.contiguous() for name, value in weights.items()}, start)
    sets = {
        "arch": arch,
        "size": size,
        "pretrained": start,
        "head.epochs": 1,
        "finetune.epochs": 2,
        "finetune.depth": depth,
        "search.finetune.depth": "null",
        "split.folds": folds,
        "budget.trials": trials,
        "budget.random": 3,
        "budget.pruner.name": "none",
        "budget.confirm.top": 0,
    }
    config = load_config(AREA, [f"{name}={value}" for name, value in sets.items()])
    # In `data.index` where the commit is older than DICOM folders.
    open_dataset = getattr(preparing, "open_dataset", None) or vars(index)["open_dataset"]
    prepared = preparing.prepare(
        open_dataset(data), AREA, size, config.split, data.parent / "cache"
    )
    pictures = folder / "artifacts"
    pictures.mkdir()
    # A folder where the commit is older than pictures in a database.
    store: Any = getattr(artifacts, "PictureStore", Path)(pictures)
    settings = WorkerSettings(
        url_of(str(folder / "studies.db")),
        warm_start="none",
        artifacts=TrialArtifacts(store),
        features=folder / "features",
    )
    job = SearchJob(AREA, config, prepared)
    since = searches.start_search(job, settings)
    clock, calls = Clock(), [0]
    marks: list[tuple[tuple[float, float], dict[str, list[float]], int]] = []

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def on_event(event: object) -> None:
        wait()
        if isinstance(event, TrialEnded):
            marks.append(
                (
                    (time.perf_counter(), time.process_time()),
                    {name: list(both) for name, both in clock.seconds.items()},
                    calls[0],
                )
            )

    plain_fit, plain_call = vars(trial_module)["fit"], Patience.call

    def fit(*args: Any, **options: Any) -> Any:
        with clock.part("phases"):
            result = plain_fit(*args, **options)
            wait()
        return result

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        calls[0] += 1
        return plain_call(self, *args, **options)

    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.object(trial_module, "fit", fit))
        patches.enter_context(mock.patch.object(Patience, "call", counted))
        for where, name, part in (
            (Task, "start", "network"),
            (trial_module, "average_folds", "interval"),
            (TrialArtifacts, "save", "pictures"),
            (steps.SteppedPhase, "train", "epochs"),
            (fit_module, "_logits", "epochs"),
            (Task, "score", "epochs"),
        ):
            timed = clock.timed(part, getattr(where, name))
            patches.enter_context(mock.patch.object(where, name, timed))
        worker.run_worker([job], since, settings, device, on_event, lambda: False)
    if len([*pictures.iterdir()]) < trials:
        raise SystemExit("pictures of trials were not stored")
    first, last = marks[0], marks[-1]
    found: dict[str, list[float]] = {}
    for name in PARTS:
        before = first[1].get(name, [0.0, 0.0])
        found[name] = [(last[1][name][i] - before[i]) / (trials - 1) for i in (0, 1)]
    whole = [(last[0][i] - first[0][i]) / (trials - 1) for i in (0, 1)]
    found["database"] = [whole[i] - sum(found[name][i] for name in PARTS) for i in (0, 1)]
    found["overhead"] = [whole[i] - found["epochs"][i] for i in (0, 1)]
    found["calls"] = [(last[2] - first[2]) / (trials - 1)] * 2
    print(json.dumps(found))


def run(code: Path, case: str, data: Path, device: str, trials: int) -> dict[str, list[float]]:
    """`search` in a process of its own, by the package of a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--one", case, "--data", data, "--folder", folder, "--device", device]
        command = [sys.executable, Path(__file__), *words, "--trials", trials]
        ran = subprocess.run(
            [str(word) for word in command],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(code)},
        )
    if ran.returncode:
        raise SystemExit(f"{code.name}, {case}:\n{ran.stderr[-2000:]}")
    found: dict[str, list[float]] = json.loads(ran.stdout.splitlines()[-1])
    return found


def compare(
    given: argparse.Namespace, codes: dict[str, Path], data: Path, trials: int, case: str
) -> None:
    """Both checkouts in turn, and a line for each part."""
    seen: dict[str, list[dict[str, list[float]]]] = {name: [] for name in codes}
    for _ in range(given.rounds):
        for name, code in codes.items():
            seen[name].append(run(code, case, data, given.device, trials))
    print(f"{case}: a trial, in seconds by the clock, and of the cores")
    for part in ("overhead", *PARTS[1:], "database", "epochs", "calls"):
        line = []
        for name in codes:
            clock, cores = ([one[part][i] for one in seen[name]] for i in (0, 1))
            if part == "calls":
                line.append(f"{name} {statistics.median(clock):.0f}")
            else:
                line.append(f"{name} {spread(clock, '.3f')}, {statistics.median(cores):.3f}")
        print(f"  {part}: {'; '.join(line)}")
    now, then = ([one["overhead"][1] for one in seen[name]] for name in codes)
    print(f"  overhead of the cores, {' / '.join(codes)}: {ratio(now, then)}")


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--commit", default="ddd5aee", help="what it is held against")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--one", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    if "--one" in sys.argv:
        one = parser.parse_args()
        search(one.one, one.data, one.folder, one.device, one.trials)
        return
    given = opened(parser)
    from mura_tune.phantoms.dataset import write_phantoms

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "phantoms"
        write_phantoms(data, areas=(AREA,), patients=12 if given.quick else 60, size=128)
        cases = [given.case] if given.case else list(CASES)[: 1 if given.quick else None]
        with earlier_checkout(given.commit, folder / "earlier") as earlier:
            for case in cases:
                codes = {"now": REPO, given.commit: earlier}
                compare(given, codes, data, 3 if given.quick else given.trials, case)


if __name__ == "__main__":
    main()
