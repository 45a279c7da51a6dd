"""How fast are near-copies found among many pictures, and are they those of an earlier commit?

Four parts. (1) The real radiographs at 224 px: the pairs of now and of `--commit`, which compares
all with all. (2) Sixty of them with a copy each, saved anew, turned, or cut: how many are found.
(3) Drawn pictures at 96 px, in which one of fifty is a cut and turned copy: seconds of both, pairs
that one has alone. (4) The same pictures, 5,000 to 40,000 of them: seconds of one thread, memory,
the share of all pairs that are candidates, and copies found.

Drawn pictures are blends of two real radiographs or phantoms of one area, bent, shifted and toned
anew: no two are one picture, and as many are alike at 16 pixels as of real ones (the share is
printed for both). `--pictures` keeps them for the next run.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measure import REAL, REPO, arguments, earlier_checkout, is_here, opened
from PIL import Image

from mura_tune.data.duplicates import CANDIDATE_CORRELATION, CANDIDATE_SIDE
from mura_tune.errors import MuraError
from mura_tune.imaging.candidates import find_candidates
from mura_tune.imaging.images import read_image, resize_to_square
from mura_tune.phantoms.dataset import write_phantoms

SIDE = 96  # of a drawn picture
COPIES = 50  # one of so many drawn pictures is a copy of another one
AREAS = ("XR_ELBOW", "XR_FINGER", "XR_HAND", "XR_SHOULDER", "XR_WRIST")
PROGRAM = """
import pickle, sys, time
import numpy as np
from mura_tune.data.duplicates import find_pairs
pictures = np.load(sys.argv[1], mmap_mode="r")
rows = np.arange(int(sys.argv[2]))
def peak_memory():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
before = peak_memory()
began = time.process_time()
pairs = [(pair.first, pair.second) for pair in find_pairs(pictures, rows)]
done = time.process_time() - began
sys.stdout.buffer.write(pickle.dumps((pairs, done, peak_memory() - before)))
"""

Picture = np.ndarray


def cut(picture: Picture, top: float, bottom: float, left: float, right: float) -> Picture:
    """Cut shares of the height and width off the four sides."""
    height, width = picture.shape
    rows = slice(round(top * height), height - round(bottom * height))
    return picture[rows, round(left * width) : width - round(right * width)]


def turn(picture: Picture, degrees: float) -> Picture:
    return np.asarray(Image.fromarray(picture).rotate(degrees, Image.Resampling.BILINEAR))


def shrink(picture: Picture) -> Picture:
    height, width = picture.shape
    return np.asarray(Image.fromarray(picture).resize((max(1, width // 2), max(1, height // 2))))


def cut_by(share: float, rng: np.random.Generator) -> Callable[[Picture], Picture]:
    """Cut at most `share` off each axis, at random between its two sides."""

    def make(picture: Picture) -> Picture:
        top, left = rng.uniform(0, share, 2)
        return cut(picture, top, share - top, left, share - left)

    return make


def kinds(rng: np.random.Generator) -> dict[str, Callable[[Picture], Picture]]:
    return {
        "halved, turned and mirrored": lambda p: np.rot90(shrink(p))[:, ::-1],
        "gamma 0.7": lambda p: (255 * (p / 255) ** 0.7).astype(np.uint8),
        "cut by 3 % of each axis": cut_by(0.03, rng),
        "cut by 6 % of each axis": cut_by(0.06, rng),
        "cut by 6 % of one corner": lambda p: cut(p, 0.06, 0, 0.06, 0),
        "turned by 3 degrees": lambda p: turn(p, 3),
    }


def squares(pictures: list[Picture], side: int) -> Picture:
    return np.stack([resize_to_square(np.ascontiguousarray(p), side) for p in pictures])


def radiographs(most: int | None) -> list[Picture]:
    """The real ones, the first of them where not all are wanted."""
    read: list[Picture] = []
    for path in sorted(REAL.rglob("*.png"))[:most]:
        try:
            read.append(read_image(path))
        except MuraError:  # planted damage
            continue
    return read


def phantoms(folder: Path, patients: int) -> list[tuple[str, Picture]]:
    write_phantoms(folder, areas=AREAS, patients=patients, size=128)
    paths = sorted(folder.rglob("*.png"))
    return [(next(a for a in AREAS if a in str(path)), read_image(path)) for path in paths]


class Bent:
    """Draws pictures from others: picture `number` is always the same."""

    def __init__(self, sources: list[tuple[str, Picture]]) -> None:
        self.sources = squares([picture for _, picture in sources], SIDE)
        areas = np.array([area for area, _ in sources])
        self.fellows = [np.flatnonzero(areas == area) for area in areas]
        middle = (np.arange(SIDE) + 0.5) / SIDE * 4 - 0.5
        rise = np.clip(1 - np.abs(middle[:, None] - np.arange(4)), 0, 1)
        self.rise = np.stack([np.convolve(w, np.ones(9) / 9, "same") for w in rise.T], axis=1)

    def draw(self, number: int) -> Picture:
        rng = np.random.default_rng((7, number))
        source = int(rng.integers(len(self.sources)))
        other = int(rng.choice(self.fellows[source]))
        share = rng.uniform(0.2, 0.45)
        moved = np.roll(self.sources[other], rng.integers(-6, 7, 2), (0, 1))
        blend = (1 - share) * self.sources[source] + share * moved
        angle, scale = rng.normal(0, 0.06), 1 + rng.normal(0, 0.05)
        y, x = np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 2, indexing="ij")
        along = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
        at = [
            scale * line
            + rng.normal(0, 0.05)
            + self.rise @ rng.normal(0, 0.09, (4, 4)) @ self.rise.T
            for line in along
        ]
        column, row = (np.clip((line + 1) * (SIDE - 1) / 2, 0, SIDE - 1.001) for line in at)
        left, top = column.astype(int), row.astype(int)
        right, low = column - left, row - top
        upper = blend[top, left] * (1 - right) + blend[top, left + 1] * right
        lower = blend[top + 1, left] * (1 - right) + blend[top + 1, left + 1] * right
        grey = 255 * ((upper * (1 - low) + lower * low) / 255) ** rng.uniform(0.7, 1.4)
        noisy = grey + rng.normal(0, 2, grey.shape)
        return np.asarray(np.clip(noisy, 0, 255).astype(np.uint8))

    def plant(self, number: int) -> Picture:
        """Draw a copy of picture `number`, cut by up to 4 % of each axis and held in any way."""
        rng = np.random.default_rng((8, number))
        copy = np.rot90(cut_by(0.04, rng)(self.draw(number)), int(rng.integers(4)))
        return np.asarray(squares([copy[:, ::-1] if rng.integers(2) else copy], SIDE)[0])


def draw_pictures(file: Path, count: int, sources: list[tuple[str, Picture]]) -> None:
    """Write the pictures to an npy file, unless it has them. Each COPIES-th is a copy."""
    if file.is_file() and np.load(file, mmap_mode="r").shape == (count, SIDE, SIDE):
        return
    bent, temporary = Bent(sources), file.with_suffix(".tmp")
    out = np.lib.format.open_memmap(temporary, "w+", np.uint8, (count, SIDE, SIDE))
    for number in range(count):
        is_copy = number % COPIES == COPIES - 1
        out[number] = bent.plant(number - COPIES // 2) if is_copy else bent.draw(number)
    out.flush()
    temporary.replace(file)


def planted(count: int) -> set[tuple[int, int]]:
    return {(n - COPIES // 2, n) for n in range(COPIES - 1, count, COPIES)}


def search(code: Path, file: Path, count: int) -> tuple[set[tuple[int, int]], float, float]:
    """The pairs that a process of one thread finds with the code, its seconds, and MB it takes."""
    environment = {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, file, str(count)],
        env=environment,
        cwd=code,
        stdout=subprocess.PIPE,
        check=True,
    )
    pairs, seconds, more = pickle.loads(ran.stdout)
    return set(pairs), seconds, more


def share_alike(pictures: Picture) -> float:
    """The share of all pairs that are candidates, if compared all with all."""
    small = squares(list(pictures[:1_500]), CANDIDATE_SIDE)
    alike = find_candidates(small, CANDIDATE_CORRELATION, len(small))
    return len(alike.rows) / (len(small) * (len(small) - 1) / 2)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--commit", default="ddd5aee", help="the commit that compares all with all")
    parser.add_argument("--pictures", type=Path, help="npy file of drawn pictures, made if absent")
    given = opened(parser)
    print("seconds are of one thread, of the processor: what else runs counts little")
    counts = (300, 600) if given.quick else (5_000, 10_000, 20_000, 40_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with earlier_checkout(given.commit, folder / "earlier") as code:
            real = radiographs(60 if given.quick else None) if is_here(REAL) else []
            if real:
                compare_real(real, code, folder, given.commit, 10 if given.quick else 60)
            sources = [("real", picture) for picture in real]
            sources += phantoms(folder / "phantoms", 4 if given.quick else 40)
            file = given.pictures or folder / "drawn.npy"
            draw_pictures(file, counts[-1], sources)
            compare_growth(file, counts, code, given.commit)


def compare_real(
    real: list[Picture], code: Path, folder: Path, commit: str, copied_each: int
) -> None:
    file, side = folder / "real.npy", 224
    stack = squares(real, side)
    np.save(file, stack)
    print(f"share of pairs that are candidates, real: {share_alike(stack):.6f}")
    (now, new, _), (then, old, _) = (search(one, file, len(real)) for one in (REPO, code))
    print(
        f"{len(real)} real radiographs at {side} px: {len(now)} pairs in {new:.2f} s, {commit} "
        f"{len(then)} in {old:.2f} s; {len(now - then)} of now alone, {len(then - now)} of {commit}"
    )
    rng = np.random.default_rng(0)
    copied = {second for _, second in now}
    alone = [row for row in range(len(real)) if row not in copied]
    chosen = rng.permutation(alone)[:copied_each]
    for kind, make in kinds(rng).items():
        copies = squares([make(real[row]) for row in chosen], side)
        np.save(file, np.concatenate([stack, copies]))
        truth = {(int(row), len(real) + n) for n, row in enumerate(chosen)}
        found = [len(truth & search(one, file, len(real) + len(chosen))[0]) for one in (REPO, code)]
        print(f"  {kind:<28} {found[0]} of {len(truth)} found, {commit} {found[1]}")


def compare_growth(file: Path, counts: tuple[int, ...], code: Path, commit: str) -> None:
    print(f"share of pairs that are candidates, drawn: {share_alike(np.load(file)):.6f}")
    last = None
    for count in counts:
        pairs, seconds, more = search(REPO, file, count)
        truth = planted(count)
        line = (
            f"{count:>6,} drawn pictures: {seconds:7.2f} s, {more:4.0f} MB more memory; copies "
            f"{len(pairs & truth)} of {len(truth)}, other pairs {len(pairs - truth)}"
        )
        if last is not None:
            line += f"; {seconds / last:.2f} times the line before"
        last = seconds
        if count <= 10_000:
            then, old, _ = search(code, file, count)
            line += (
                f"; {commit} {old:.2f} s, {len(pairs - then)} pairs of now alone, "
                f"{len(then - pairs)} of {commit}"
            )
        print(line)


if __name__ == "__main__":
    main()
