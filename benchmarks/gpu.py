"""What does a GPU make of it? What matters most first, a line each as it comes, until `--minutes`.

1. `fit` on a resident split, dev evaluated, at depth all and batch 32: images/s by compiled passes,
   by captured steps, and launched one by one, against bare steps on random batches of each kind;
   and how long compiling takes.
2. The share of an epoch in which the device is busy, compiled and not.
3. `mura tune` of eight trials at depth all, compiled, with 1 and 4 workers on the one card, with
   NVIDIA's MPS too; the same trials by an earlier commit (`--before DIR`, its tree) and by the
   peer's loop with a loader process a core.
4. `fit` at depths 2, 1 and the head, from pixels, and from features: read, held in memory, or
   computed and written.
5. Processes that share the card, each with a network of its own, with and without MPS.
7. The cache of 2,000 PNGs with one thread a core, and with 1.

Without a GPU toy sizes on the CPU show that the script runs; nothing is compiled there. What is
compiled is kept in the temporary folder, so that a second run finds it, as a second search does.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from unittest import mock

import numpy as np
import optuna
import peer
import torch
from epoch import recipe, split, wait
from measure import arguments, interleaved, opened, ratio, spread
from PIL import Image

from mura_tune.config import load_config
from mura_tune.data.cache import open_cache
from mura_tune.data.prepare import open_dataset, prepare
from mura_tune.networks.device import choose_device
from mura_tune.networks.factory import build_network
from mura_tune.training import fit as training
from mura_tune.training import steps
from mura_tune.training.batches import Split
from mura_tune.training.compiling import Compiler, Inductor, leave_uncompiled
from mura_tune.training.feature_cache import FeatureCache, FeatureMemory, FeatureStore
from mura_tune.training.feeds import FeatureSource, Source, pixel_feed
from mura_tune.training.fit import fit
from mura_tune.training.graphs import captured
from mura_tune.training.tasks import ABNORMALITY_TASK

PARTS = ("rates", "busy", "searches", "large", "depths", "sharing", "cache")
COMPILED = Path(tempfile.gettempdir(), "mura-tune-compiled")
DEPTHS = {99: "all", 2: "2", 1: "1", 0: "head"}
FEATURES = 2 * 10**10  # bytes of features that are held


def say(line: str) -> None:
    print(line, flush=True)


def bare(
    arch: str,
    size: int,
    batch: int,
    n: int,
    depth: int,
    device: torch.device,
    compiler: Compiler = leave_uncompiled,
) -> float:
    """Images/s of captured steps on four resident random batches: no data path, no evaluation."""
    net = build_network(arch).to(device)
    net.set_depth(depth)
    wanted, noise = recipe(arch, size, batch, depth, 1), split(8, size, device)
    trained = [p for p in net.parameters() if p.requires_grad]
    cuda = device.type == "cuda"
    optimiser = torch.optim.AdamW(trained, lr=torch.tensor(1e-4), fused=True, capturable=cuda)
    loss_of = ABNORMALITY_TASK.loss(noise, wanted)
    stock = [torch.rand(batch, 1, size, size, device=device) for _ in range(4)]
    labels = torch.arange(batch, device=device) % 2
    net.train()
    forward = compiler(net, (batch, 1, size, size))

    def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        loss = loss_of(forward(x), y).mean()
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        return loss.detach()

    run = captured(step, device)
    for number in range(6):
        run(stock[number % 4], labels)
    wait(device)
    steps, started = max(2, n // batch), time.perf_counter()
    for number in range(steps):
        run(stock[number % 4], labels)
    wait(device)
    return steps * batch / (time.perf_counter() - started)


def one_by_one() -> contextlib.AbstractContextManager[object]:
    """Inside, `fit` launches every kernel by itself."""
    inside = contextlib.ExitStack()
    for module in (training, steps):
        inside.enter_context(
            mock.patch.object(module, "captured", lambda function, device: function)
        )
    return inside


def fitted(
    arch: str,
    train: Split,
    dev: Split,
    batch: int,
    depth: int,
    source: Source = pixel_feed,
    compiler: Compiler = leave_uncompiled,
) -> float:
    """Images/s of the second epoch of a run: the first one captures. Features of a store that
    begins empty are computed and written in both."""
    wanted = recipe(arch, train.pixels.shape[1], batch, depth, 2)
    device = train.labels.device
    result = fit(
        build_network(arch).to(device),
        *(train, dev, wanted, ABNORMALITY_TASK),
        source=source,
        compiler=compiler,
    )
    wait(device)
    return len(train) / result.epochs[1].seconds


def rates(
    arch: str,
    size: int,
    n: int,
    device: torch.device,
    rounds: int,
    until: float,
    depths: Sequence[int],
    batches: Sequence[int],
    compiler: Compiler,
) -> None:
    train, dev = split(n, size, device), split(max(8, n // 8), size, device, 1)
    for depth, batch in itertools.product(depths, batches):
        if time.monotonic() > until:
            return
        case = f"{arch}, {size} px, batch {batch}, depth {DEPTHS[depth]}"
        if depth == 99:
            started = time.perf_counter()
            net = build_network(arch).to(device)
            net.set_depth(depth)
            compiler(net, (batch, 1, size, size))
            seconds = time.perf_counter() - started
            say(f"{case}: compiled, or found compiled, in {seconds:.1f} s")
        with tempfile.TemporaryDirectory() as folder:
            ways = ways_to_fit(arch, train, dev, batch, depth, compiler, Path(folder))
            seen = interleaved(rounds, ways)
        for name, rate in seen.items():
            base = "bare compiled" if name == "compiled" else "bare captured"
            say(
                f"{case}, {name}: {spread(rate, '.0f')} images/s; "
                f"this / {base} {ratio(rate, seen[base])}"
            )


def ways_to_fit(
    arch: str,
    train: Split,
    dev: Split,
    batch: int,
    depth: int,
    compiler: Compiler,
    folder: Path,
) -> dict[str, Callable[[], float]]:
    """What is compared at a depth and a batch size, each in images/s; features lie in `folder`."""
    size, n, device = train.pixels.shape[1], len(train), train.labels.device

    def of_features(store: FeatureCache) -> float:
        return fitted(arch, train, dev, batch, depth, FeatureSource(store))

    def eagerly() -> float:
        with one_by_one():
            return fitted(arch, train, dev, batch, depth)

    ways: dict[str, Callable[[], float]] = {
        "captured": lambda: fitted(arch, train, dev, batch, depth),
        "one by one": eagerly,
        "bare captured": lambda: bare(arch, size, batch, n, depth, device),
    }
    if depth == 99:
        ways["compiled"] = lambda: fitted(arch, train, dev, batch, depth, compiler=compiler)
        ways["bare compiled"] = lambda: bare(arch, size, batch, n, depth, device, compiler)
    if depth < 2:
        files = FeatureStore(folder / "read")
        memory = FeatureMemory(files, FEATURES)
        ways["features"] = lambda: of_features(files)
        ways["held features"] = lambda: of_features(memory)
        for name in ("features", "held features"):
            ways[name]()  # computes what is read from then on
        ways["features filled"] = lambda: of_features(FeatureStore(Path(mkdtemp(dir=folder))))
    return ways


def busy(
    arch: str,
    size: int,
    batch: int,
    n: int,
    device: torch.device,
    compiler: Compiler = leave_uncompiled,
) -> None:
    """The share of an epoch's time in which a kernel runs."""
    train, dev = split(n, size, device), split(max(8, n // 8), size, device, 1)
    wanted = recipe(arch, size, batch, 99, 3)
    begun: list[float] = []
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:

        def mark(epoch: training.Epoch) -> None:
            wait(device)
            begun.append(time.time_ns() / 1000)

        result = fit(
            build_network(arch).to(device),
            *(train, dev, wanted, ABNORMALITY_TASK),
            on_epoch=mark,
            compiler=compiler,
        )
    start, end = begun[1], begun[2]
    spans = sorted(
        (e.time_range.start, e.time_range.end)
        for e in profile.events() or []
        if e.device_type.name == "CUDA"
    )
    seconds = result.epochs[2].seconds
    kind = "captured" if compiler is leave_uncompiled else "compiled"
    last = spans[-1][1]  # kernels of the last epoch: those of its length before the last
    total, reach = 0.0, last - seconds * 1e6
    for low, high in spans:
        total += max(0.0, high - max(low, reach))
        reach = max(reach, high)
    say(
        f"{arch}, {size} px, batch {batch}, {kind}: "
        f"device busy {total / (seconds * 1e6):.1%} of an epoch of {seconds:.2f} s "
        f"({(end - start) / 1e6:.2f} s by the clock)"
    )


def busy_both(arch: str, size: int, n: int, device: torch.device, compiler: Compiler) -> None:
    for kind in (compiler, leave_uncompiled):
        busy(arch, size, 32, n, device, kind)


@contextlib.contextmanager
def mps() -> Iterator[dict[str, str] | None]:
    """NVIDIA's multi-process service, started by this user; None where that fails."""
    control = shutil.which("nvidia-cuda-mps-control")
    if control is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        own = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        started = subprocess.run([control, "-d"], env=os.environ | own, capture_output=True)
        try:
            yield own if started.returncode == 0 else None
        finally:
            subprocess.run([control], input=b"quit\n", env=os.environ | own, capture_output=True)


def together(
    arch: str, size: int, batch: int, n: int, device: torch.device, count: int, env: dict[str, str]
) -> float:
    """Images/s of so many processes side by side, each with its own network and pixels."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from gpu import *\n"
        f"device = torch.device({str(device)!r}); train = split({n}, {size}, device)\n"
        f"dev = split(64, {size}, device, 1); wanted = recipe({arch!r}, {size}, {batch}, 99, 4)\n"
        "marks = []\n"
        "def mark(epoch):\n"
        "    wait(device); marks.append(time.time())\n"
        "    if len(marks) == 1: print('ready', flush=True); sys.stdin.readline()\n"
        "    if len(marks) == 1: marks[0] = time.time()\n"
        f"net = build_network({arch!r}).to(device)\n"
        "fit(net, train, dev, wanted, ABNORMALITY_TASK, on_epoch=mark)\n"
        "print(json.dumps(marks), flush=True)\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | env,
        )
        for _ in range(count)
    ]
    try:
        for process in running:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("a process ended early")
        for process in running:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        marks: list[list[float]] = [json.loads(process.communicate()[0]) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    seconds = max(m[3] for m in marks) - min(m[0] for m in marks)
    return count * 3 * n / seconds


def sharing(
    arch: str,
    size: int,
    batch: int,
    n: int,
    device: torch.device,
    until: float,
    counts: Sequence[int],
) -> None:
    alone = together(arch, size, batch, n, device, 1, {})
    say(f"{arch}, {size} px, batch {batch}, 1 process: {alone:.0f} images/s")
    for count in counts:
        if time.monotonic() > until:
            return
        rate = together(arch, size, batch, n, device, count, {})
        say(
            f"{arch}, batch {batch}, {count} processes: {rate:.0f} images/s, "
            f"{rate / alone:.2f} x one"
        )
    with mps() as env:
        if env is None:
            say("MPS: cannot be started here")
            return
        for count in (1, *counts):
            if time.monotonic() > until:
                return
            rate = together(arch, size, batch, n, device, count, env)
            say(
                f"{arch}, batch {batch}, {count} processes under MPS: {rate:.0f} images/s, "
                f"{rate / alone:.2f} x one without"
            )


def noise_data(root: Path, patients: int, side: int) -> Path:
    """Noise in MURA's layout: what training costs does not depend on what a picture shows."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[str]] = {"train": [], "valid": []}
    for number in range(patients):
        part = "valid" if number % 8 == 0 else "train"
        label = "positive" if (number + number // 8) % 2 else "negative"
        study = root / part / "XR_WRIST" / f"patient{number:05d}" / f"study1_{label}"
        study.mkdir(parents=True)
        for view in (1, 2):
            low = rng.integers(0, 200, (side // 8, side // 8), np.uint8)
            image = Image.fromarray(low).resize((side, side))
            image.save(study / f"image{view}.png", compress_level=1)
            rows[part].append(f"{root.name}/{(study / f'image{view}.png').relative_to(root)}")
    for part, paths in rows.items():
        (root / f"{part}_image_paths.csv").write_text("".join(f"{p}\n" for p in paths))
        studies = sorted({p.rsplit("/", 1)[0] for p in paths})
        (root / f"{part}_labeled_studies.csv").write_text(
            "".join(f"{s}/,{int(s.endswith('positive'))}\n" for s in studies)
        )
    return root


LAUNCH = "from mura_tune.launch import mura; mura()"
LAUNCH_BEFORE = "from mura_tune.cli import mura; mura()"  # as commit cff93a7 has it


def searches(
    arch: str, size: int, patients: int, trials: int, until: float, before: Path | None
) -> None:
    """Whole searches at depth all, by the command, from files to the last trial; then the peer."""
    with tempfile.TemporaryDirectory() as name:
        root = noise_data(Path(name, "noise"), patients, size + 32)
        epochs, depth = 4, len(build_network(arch).stages)
        sets = {
            "arch": arch,
            "size": size,
            "pretrained": "none",
            "split.folds": 0,
            "head.epochs": 0,
            "finetune.epochs": epochs,
            "finetune.depth": depth,
            "search.finetune.depth.low": depth,
            "search.finetune.depth.high": depth,
            "budget.confirm.top": 0,
            "budget.pruner.name": "none",
        }

        def tune(
            kind: str, count: int, *more: object, env: Mapping[str, str] | None = None
        ) -> float:
            """Seconds a trial of one search, its start-up counted."""
            tree = before if kind == "before" and before else Path(__file__).parents[1]
            code = LAUNCH_BEFORE if kind == "before" else LAUNCH
            command = [sys.executable, "-c", code, "tune", "XR_WRIST", "--data", root]
            command += ["--runs", Path(name, kind), "--trials", count, *more]
            command += [w for key, value in sets.items() for w in ("--set", f"{key}={value}")]
            paths = os.pathsep.join([str(tree), os.environ.get("PYTHONPATH", "")])
            started = time.perf_counter()
            done = subprocess.run(
                [str(w) for w in command],
                capture_output=True,
                text=True,
                cwd=tree,
                env=os.environ | {"PYTHONPATH": paths} | dict(env or {}),
            )
            seconds = time.perf_counter() - started
            if done.returncode:
                raise SystemExit(f"search, {kind}:\n{done.stderr[-2000:]}")
            say(
                f"search, {arch}, {size} px, {2 * patients} images, depth all, {epochs} epochs a "
                f"trial, {kind}: {count} trials in {seconds:.1f} s, {seconds / count:.2f} s a trial"
            )
            return seconds / count

        compiled = ("--compile", "on" if COMPILED.is_dir() else "off")
        COMPILED.mkdir(exist_ok=True)
        shutil.copytree(COMPILED, Path(name, "1 worker", "compiled"), dirs_exist_ok=True)
        ours = tune("1 worker", trials, *compiled)
        if before and time.monotonic() < until:
            earlier = tune("before", max(2, trials // 4))
            say(f"a trial of the earlier commit / ours: {earlier / ours:.2f}x")
        if time.monotonic() < until:
            peers = peer_trial(arch, size, root, epochs, depth)
            say(f"a trial of the peer / ours: {peers / ours:.2f}x")
        if time.monotonic() < until:
            shutil.copytree(COMPILED, Path(name, "4 workers", "compiled"), dirs_exist_ok=True)
            four = tune("4 workers", trials, *compiled, "--workers", 4)
            say(f"one worker's seconds a trial / four workers': {ours / four:.2f}x")
        if time.monotonic() < until:
            tune("1 worker, not compiled", trials, "--compile", "off")
        if time.monotonic() < until:
            with mps() as env:
                if env is None:
                    say("MPS: cannot be started here")
                else:
                    folder = Path(name, "4 workers under MPS", "compiled")
                    shutil.copytree(COMPILED, folder, dirs_exist_ok=True)
                    tune("4 workers under MPS", trials, *compiled, "--workers", 4, env=env)


def peer_trial(arch: str, size: int, root: Path, epochs: int, depth: int) -> float:
    """Seconds of one trial of the peer's loop on the search's images, a loader process a core."""
    with tempfile.TemporaryDirectory() as cache:
        dataset = open_dataset(root)
        holdout = replace(load_config("default").split, folds=0)
        prepared = prepare(dataset, "XR_WRIST", size, holdout, Path(cache))
        parts = {
            name: peer.Part(
                [dataset.root / path for path in frame["path"]],
                frame["label"].tolist(),
                frame["study"].tolist(),
            )
            for name in ("train", "dev")
            for frame in [prepared.frame.iloc[prepared.rows(name)]]
        }
    started = time.perf_counter()
    peer.search(
        [recipe(arch, size, 32, depth, epochs)],
        *(parts["train"], parts["dev"]),
        workers=os.cpu_count() or 1,
        pruner=optuna.pruners.NopPruner(),
        device=choose_device("auto"),
    )
    seconds = time.perf_counter() - started
    say(f"search by the peer: 1 trial in {seconds:.1f} s, {len(parts['train'].files)} train images")
    return seconds


def cache(patients: int, side: int, threads: Sequence[int]) -> None:
    """Seconds to decode and resize an area, a thread a core and one."""
    with tempfile.TemporaryDirectory() as name:
        dataset = open_dataset(noise_data(Path(name, "noise"), patients, side))
        seconds: list[float] = []
        for count in threads:
            started = time.perf_counter()
            open_cache(dataset, 224, Path(name, str(count)), threads=count)
            seconds.append(time.perf_counter() - started)
            say(
                f"cache of {2 * patients} images of {side} px, {count} threads: {seconds[-1]:.1f} s"
            )
        say(f"{threads[0]} threads / {threads[-1]}: {seconds[-1] / seconds[0]:.1f} times as fast")


def main() -> None:
    parser = arguments(__doc__, rounds=2)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--only", choices=list(PARTS))
    parser.add_argument("--before", type=Path, help="tree of the commit to compare with")
    given = opened(parser)
    device = choose_device("auto")
    gpu = device.type == "cuda" and not given.quick
    if gpu:
        say(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}")
    else:
        say("no GPU here: toy sizes on the CPU show that the script runs")
    arch, size = ("densenet121", 224) if gpu else ("cnn", 32)
    small, large = ((32,), (128,)) if gpu else ((8,), ())
    n, rounds = (4096, given.rounds) if gpu else (32, 1)
    until = time.monotonic() + 60 * given.minutes
    compiler = Inductor(COMPILED, lambda seconds: True, say) if gpu else leave_uncompiled
    parts: dict[str, Callable[[], None]] = {
        "rates": lambda: rates(arch, size, n, device, rounds, until, (99,), small, compiler),
        "busy": lambda: busy_both(arch, size, n, device, compiler) if gpu else None,
        "searches": lambda: searches(
            *(arch, size, 2000 if gpu else 24, 8 if gpu else 2),
            until=until if gpu else 0.0,  # of a toy the first search alone
            before=given.before,
        ),
        "large": lambda: rates(arch, size, n, device, rounds, until, (99,), large, compiler),
        "depths": lambda: rates(
            arch, size, n, device, rounds, until, (2, 1, 0), (*small, *large), compiler
        ),
        "sharing": lambda: sharing(
            *(arch, size, 32 if gpu else 8, 2048 if gpu else 32, device, until),
            counts=(2, 4) if gpu else (2,),
        ),
        "cache": lambda: cache(1000 if gpu else 8, 512 if gpu else 64, (os.cpu_count() or 1, 1)),
    }
    for name in [given.only] if given.only else PARTS:
        if time.monotonic() < until:
            parts[name]()


if __name__ == "__main__":
    main()
