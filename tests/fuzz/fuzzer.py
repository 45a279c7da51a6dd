"""Spoilt values, search files, manifests, tables and answers, through the verbs that read them.

Whatever is read ends with 0 or 2; a refusal is one line; no line has an exception's name; nothing
hangs. Every case is made from a seed, its class and its number alone:

    python tests/fuzz/fuzzer.py --cases 20000             counts, and each failure with its number
    python tests/fuzz/fuzzer.py --only values --case 17   one case, with its input and its answer
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import mutations
import numpy as np
import yaml
from PIL import Image

from mura_tune import config, console
from mura_tune.cli import mura
from mura_tune.networks.factory import build_network
from mura_tune.release.release import current_preprocessing, save_release
from mura_tune.release_format.manifest import CARD, SCHEMA, parse_manifest

LIMIT = 5.0  # seconds of processor time a case may take; most take hundredths
LONGEST = 4_000  # characters of a line of a refusal
# What Python says, and a person should not have to read.
PYTHON = re.compile(
    r"Traceback|\b[A-Z]\w*(Error|Exception|Warning)\b|NoneType|<class|object has no attribute|"
    r"not subscriptable|unhashable|invalid literal|could not convert|codec can't|MURA_DEBUG|"
    r"out of memory"
)
# Lines that a verb promises beside its answer, and before a refusal.
PROMISED = re.compile(
    r"left out |warning: |.*: no answer: |.*no longer there|.*when pictures were read otherwise"
)
# Paths that a study has not.
NO_PATHS = (
    *("", "task", "base", "search", "final", "budget", "head", "x.y.z", "search.", "search.low"),
    *(
        "recipe.recipe",
        "finetune.lrr",
        "search.lrr",
        "budget.pruner",
        "budget.trials.x",
        "final.size",
    ),
)
PARTS = (".low", ".high", ".log", ".step", ".choices", ".high.low")


@dataclass(frozen=True)
class Case:
    """A command, and what it was made from."""

    arguments: tuple[str, ...]
    input: str


@dataclass(frozen=True)
class Verdict:
    """How a case ended; `fault` is empty where it ended as it must."""

    fault: str
    code: int | None
    out: str
    err: str
    seconds: float


class Hang(BaseException):
    """More processor time than a case may take; no verb catches it."""


class World:
    """A folder with a release, three pictures and the files that cases are made from."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.studies = root / "studies"
        self.release = root / "releases" / "XR_TEST"
        self.out = root / "out"
        self.no_data = f"--data={root / 'nowhere'}"  # where `tune` ends, after its checks
        shutil.copytree(config.studies_folder(), self.studies)
        self.texts = {path.name: path.read_text() for path in self.studies.iterdir()}
        ramp = np.add.outer(np.arange(48), np.arange(48) * 2).astype(np.uint8)
        (root / "images").mkdir()
        for number in range(3):
            Image.fromarray(np.roll(ramp, 7 * number, axis=0)).save(root / f"images/{number}.png")
        self._make_release()
        self.usual = dict(_leaves(config.config_to_dict(config.load_config("XR_WRIST"))))
        self.manifest = json.loads((self.release / "bundle.json").read_text())
        self.table = "patient,study,path\n" + "".join(
            f"p{n},study{n % 2},images/{n}.png\n" for n in range(3)
        )

    def _make_release(self) -> None:
        points = {"max_youden": {"threshold": 0.5, "chosen": "by nobody"}}
        manifest = {
            "schema": SCHEMA,
            "area": "XR_TEST",
            "arch": "cnn",
            "outputs": 1,
            "recipe_digest": "0" * 12,
            "preprocessing": current_preprocessing(32).to_json(),
            "calibration": {
                "temperature": 0.5,
                "offset": 0.01,
                "aggregation": "sigmoid of the mean logit",
            },
            "operating_points": points,
            "recommended": "max_youden",
            "abstain": {
                "low": 0.4,
                "high": 0.6,
                "share": 0.1,
                "error": 0.1,
                "error_without": 0.1,
                "bound": 0.2,
            },
        }
        save_release(
            self.release,
            build_network("cnn", size=32, seed=3),
            parse_manifest(manifest, "the fuzzer's manifest"),
            {CARD: "# T\n"},
        )

    def write_manifest(self, content: bytes) -> None:
        """Put a manifest into the release, with sums that vouch for it."""
        (self.release / "bundle.json").write_bytes(content)
        files = sorted(path for path in self.release.iterdir() if path.name != "SHA256SUMS")
        lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in files]
        (self.release / "SHA256SUMS").write_text("".join(lines))

    def clean(self) -> None:
        """As it was before the last case."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        for name, text in self.texts.items():
            (self.studies / name).write_text(text)


def values(random: Random, world: World) -> Case:
    """`--set` values, through `show`, and now and then through the check of networks."""
    sets = [_setting(random, world.usual) for _ in range(random.choice((1, 1, 2, 3)))]
    verb = ["show", random.choice(("XR_WRIST", "XR_MIXED", "multitask", "router"))]
    if random.random() < 0.3:
        verb.append("--json")
    if random.random() < 0.05:
        small = ("arch=cnn", "pretrained=none", "size=32")
        verb = ["tune", "XR_WRIST", world.no_data, *(f"--set={one}" for one in small)]
    return Case((*verb, *sets), "\n".join(sets))


def study_files(random: Random, world: World) -> Case:
    """A search file, and sometimes default.yaml below it."""
    name = random.choice(("XR_WRIST.yaml", "default.yaml", "multitask.yaml", "router.yaml"))
    text = world.texts[name]
    if random.random() < 0.5:
        document = mutations.spoiled(random, yaml.safe_load(text))
        with contextlib.suppress(yaml.YAMLError, RecursionError):
            text = yaml.dump(document, sort_keys=False, allow_unicode=random.random() < 0.5)
        content = text.encode("utf-8", "surrogatepass")
    else:
        content = mutations.spoiled_text(random, text)
    (world.studies / name).write_bytes(content)
    area = {"default.yaml": "XR_NEW"}.get(name, name.removesuffix(".yaml"))
    return Case(("show", area), repr(content))


def manifests(random: Random, world: World) -> Case:
    """The bundle.json of a release whose sums are right."""
    if random.random() < 0.8:
        text = mutations.as_json(mutations.spoiled(random, world.manifest))
        content = text.encode()
    else:
        content = mutations.spoiled_text(random, mutations.as_json(world.manifest))
    world.write_manifest(content)
    image = f"--image={world.root / 'images/0.png'}"
    release = f"--release={world.release}"
    started = ("arch=cnn", "size=32", f"pretrained={world.release}")
    verbs = (
        ("verify", str(world.release)),
        ("infer", release, image),
        ("infer", release, image, "--json"),
        ("infer", release, str(world.root / "images"), f"--out={world.out / 'answers.csv'}"),
        ("tune", "XR_WRIST", world.no_data, *(f"--set={one}" for one in started)),
    )
    return Case(random.choice(verbs), repr(content))


def tables(random: Random, world: World) -> Case:
    """A table of images, to be answered or checked as a dataset."""
    text = world.table
    if random.random() < 0.4:
        text = "area,patient,study,path,label,split\n" + "".join(
            f"XR_TEST,p{n},s{n},images/{n}.png,{n % 2},{split}\n"
            for n, split in enumerate(("train", "train", "valid"))
        )
    content = mutations.spoiled_text(random, _cells_changed(random, text))
    table = world.root / "table.csv"
    table.write_bytes(content)
    verbs = (
        ("check", f"--data={table}", "--index-only"),
        ("check", f"--data={table}"),
        ("infer", str(table), f"--release={world.release}", f"--out={world.out / 'answers.csv'}"),
    )
    return Case(random.choice(verbs), repr(content))


def answers(random: Random, world: World) -> Case:
    """A table of answers that a second call goes on with."""
    rows = "".join(f"study{n},images/{n}.png\n" for n in range(3))
    (world.root / "table.csv").write_text(f"study,path\n{rows}")
    out = world.out / random.choice(("answers.csv", "answers.json"))
    again = ("infer", str(world.root / "table.csv"), f"--release={world.release}", f"--out={out}")
    _quietly(again)
    if out.suffix == ".json" and random.random() < 0.7:
        document = mutations.spoiled(random, json.loads(out.read_text()))
        content = mutations.as_json(document).encode()
    else:
        content = mutations.spoiled_text(random, _cells_changed(random, out.read_text()))
    out.write_bytes(content)
    return Case(again, repr(content))


CLASSES: dict[str, tuple[Callable[[Random, World], Case], int]] = {
    # how to make a case, and how many of twenty are of its kind
    "values": (values, 8),
    "search-files": (study_files, 3),
    "manifests": (manifests, 4),
    "tables": (tables, 3),
    "answers": (answers, 2),
}


def run_case(world: World, seed: int, name: str, number: int) -> tuple[Case, Verdict]:
    """Make a case and run it, in this process."""
    world.clean()
    world.write_manifest(mutations.as_json(world.manifest).encode())
    make, _ = CLASSES[name]
    case = make(Random(f"{seed} {name} {number}"), world)
    return case, judged(case)


def judged(case: Case) -> Verdict:
    """Run a case's command and say what is wrong with how it ended."""
    out, err = io.StringIO(), io.StringIO()
    code, fault = None, ""
    begin = time.process_time()
    try:
        with _limited(LIMIT), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            console.run_command(mura, "mura", case.arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else None
    except Hang:
        fault = f"more than {LIMIT:.0f} s"
    except BaseException as error:
        fault = f"{type(error).__name__} got out"
    seconds = time.process_time() - begin
    fault = fault or _fault(case, code, out.getvalue(), err.getvalue())
    return Verdict(fault, code, out.getvalue(), err.getvalue(), seconds)


def _fault(case: Case, code: int | None, out: str, err: str) -> str:
    lines = [line for line in err.splitlines() if not PROMISED.match(line)]
    if code not in (0, 2):
        return f"exit {code}"
    if match := PYTHON.search(err):
        return f"Python's words: {match[0]}"
    if code == 2 and len(lines) != 1:
        return f"{len(lines)} lines"
    if code == 0 and lines:
        return "a line that nobody promised"
    if any(len(line) > LONGEST or not line.isprintable() for line in err.splitlines()):
        return "a line too long, or not printable"
    if code == 0 and "--json" in case.arguments:
        try:
            json.loads(out, parse_constant=_refuse)
        except ValueError:
            return "not JSON"
    return ""


def _refuse(text: str) -> None:
    raise ValueError(text)


@contextlib.contextmanager
def world_in(root: Path) -> Iterator[World]:
    """A world, and the environment in which its cases run."""
    own = {"MURA_RUNS": "runs", "MURA_RELEASES": "releases", "XDG_CONFIG_HOME": "config"}
    before, folder = dict(os.environ), config.studies_folder
    os.environ.update({name: str(root / place) for name, place in own.items()})
    try:
        world = World(root)
        config.studies_folder = lambda: world.studies
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # else a second line, unasked
            yield world
    finally:
        config.studies_folder = folder
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise `Hang` after so much processor time; other clocks and signals are left alone."""

    def end(number: int, frame: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _quietly(arguments: tuple[str, ...]) -> None:
    nowhere = io.StringIO()
    with (
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
        contextlib.suppress(SystemExit),
    ):
        console.run_command(mura, "mura", arguments)


def _setting(random: Random, usual: Mapping[str, Any]) -> str:
    """A path and a value; there may be no such path, and the value be none that it can have."""
    path = random.choice(tuple(usual))
    text = mutations.alike(random, usual[path])
    if random.random() < 0.3:
        path = random.choice(("final.", "search.")) + path.removeprefix("recipe.")
        text = random.choice((text, random.choice(mutations.AXES)))
    if random.random() < 0.1:
        path = random.choice((*NO_PATHS, path + random.choice(PARTS)))
    if random.random() < 0.03:
        path = mutations.splice(random, path, mutations.literal(random))
    if random.random() < 0.6:
        text = mutations.literal(random)
    return f"--set={path}={text}".replace("\x00", "")  # no argument holds a null byte


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, leaf in tree.items():
        if isinstance(leaf, Mapping):
            yield from _leaves(leaf, f"{above}{key}.")
        else:
            yield f"{above}{key}", leaf


def _cells_changed(random: Random, text: str) -> str:
    """A table with some of its cells changed; the same one in half of the cases."""
    if random.random() < 0.5:
        return text
    rows = list(csv.reader(io.StringIO(text)))
    for _ in range(random.choice((1, 1, 3))):
        row = random.choice(rows)
        if row:
            row[random.randrange(len(row))] = mutations.literal(random)
    written = io.StringIO()
    csv.writer(written).writerows(rows)
    return written.getvalue()


def main() -> None:
    """Run cases, print how each class ended and every failure with its number."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=20_000, help="of all classes together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=CLASSES, help="one class")
    parser.add_argument("--case", type=int, help="one case of it, shown")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root, world_in(Path(root)) as world:
        if options.case is not None:
            case, verdict = run_case(world, options.seed, options.only or "values", options.case)
            print(*case.arguments, case.input, verdict, sep="\n")
            sys.exit(bool(verdict.fault))
        failures = 0
        for name, (_, share) in CLASSES.items():
            if options.only in (None, name):
                cases = options.cases if options.only else options.cases * share // 20
                failures += _campaign(world, options.seed, name, cases)
    sys.exit(bool(failures))


def _campaign(world: World, seed: int, name: str, cases: int) -> int:
    faults: Counter[str] = Counter()
    codes: Counter[int | None] = Counter()
    slowest = 0.0
    for number in range(cases):
        case, verdict = run_case(world, seed, name, number)
        codes[verdict.code] += 1
        slowest = max(slowest, verdict.seconds)
        if verdict.fault:
            faults[verdict.fault] += 1
            last = (verdict.err.splitlines() or [""])[-1]
            print(
                f"{name} {number} (seed {seed}): {verdict.fault}: {case.arguments[0]} "
                f"{case.input[:120]!r}: {last[:200]}"
            )
    ends = ", ".join(f"{count} ended with {code}" for code, count in codes.most_common())
    print(f"{name}: {cases} cases, {sum(faults.values())} failed; {ends}; slowest {slowest:.2f} s")
    for fault, count in faults.most_common():
        print(f"  {count} {fault}")
    sys.stdout.flush()
    return sum(faults.values())


if __name__ == "__main__":
    main()
