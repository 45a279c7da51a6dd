"""Synthetic radiographs in MURA's layout: a dataset for the demo and the tests.

Every lesion has a box in lesions.csv. What an image shows depends on (seed, area, patient, study,
view) alone: asking for more patients leaves the others as they were.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mura_tune.data.anatomy import (
    AREAS,
    BONES,
    SAMPLES,
    Floats,
    Matrix,
    Placed,
    Point,
    Rng,
    Scene,
    Size,
    follows,
    pose,
    turning,
)
from mura_tune.errors import InputError

__all__ = ["ABNORMAL", "AREAS", "KINDS", "Study", "contact_sheet", "draw", "studies", "write"]

Box = tuple[int, int, int, int]  # x0, y0, x1, y1, pixels
Stroke = tuple[float, float, float, float, float]  # (s, v) to (s, v) about a bone's axis; width

KINDS = ("line", "displacement", "hardware")
SHARES = (0.45, 0.25, 0.30)
# form of the hardware in long bones and in others
FORMS = {"plate": (0.5, 0.0), "wires": (0.3, 0.4), "nail": (0.15, 0.0), "screw": (0.05, 0.6)}


@dataclass(frozen=True)
class Cut:
    """A fracture: where it crosses the bone, how deep it shows, where the far fragment went."""

    at: float  # pixels along the axis
    slope: float
    rough: Floats  # pixels along the axis, over the bone's width
    gap: float  # pixels
    contrast: float
    motion: Matrix  # of the far fragment

    def run(self, v: Floats, widest: float) -> Floats:
        """Pixels along the axis at which it passes, `v` pixels to the right."""
        steps = len(self.rough)
        i = np.clip((v / np.float32(2.4 * widest) + np.float32(0.5)) * steps, 0, steps - 1)
        rough: Floats = self.rough[i.astype(np.int32)]
        return rough + np.float32(self.slope) * v + np.float32(self.at)

    def keep(self, s: Floats, v: Floats, widest: float, far: bool) -> Floats:
        """How much of the bone is left at (s, v) of one fragment: it ends at the fracture."""
        short = (s - self.run(v, widest)) if far else (self.run(v, widest) - s)
        away = short / np.float32(self.gap)
        rim = 0.4 * np.exp(-((away - 2.2) ** 2))  # crushed trabeculae beside the gap
        depth = np.float32(self.contrast) * (np.exp(-(away**2)) - rim)
        left: Floats = np.clip(short + 0.5, 0, 1) * (1 - depth)
        return left


def fracture(scene: Scene, apart: bool, plain: float, common: Rng, own: Rng) -> Cut:
    """A fracture at the site; `apart` moves the fragments, else at most a step shows.

    `plain` runs from 0, hard to see, to 1. `common` is the study's, `own` the view's.
    """
    bone, k = scene.broken, max(scene.size) / 512
    middle, half = bone.breadth(scene.share)
    at = scene.share * bone.length
    slope = common.uniform(-0.7, 0.7) + own.uniform(-0.15, 0.15)
    walk = np.cumsum(own.normal(0, 1, 24))
    walk = (walk - np.linspace(walk[0], walk[-1], 24)) * (0.05 + 0.06 * plain) * half
    rough = np.interp(np.linspace(0, 23, 192), np.arange(24), walk).astype(np.float32)
    sense = 1 if common.random() < 0.5 else -1
    if apart:
        apart_by = max((0.5 + 0.8 * plain) * half, (7 + 6 * plain) * k)
        beside, shorter = sense * apart_by, own.uniform(0, 0.35) * half
        degrees, gap, contrast = sense * common.uniform(6, 14 + 16 * plain), 2 * k, 0.95
    else:
        step = common.uniform(0, 0.25) * plain if common.random() < 0.4 else 0.0
        beside, shorter, degrees = sense * step * half, 0.0, 0.0
        gap, contrast = (4 + 6.5 * plain) * k, 0.65 + 0.33 * plain
        gap = min(gap, 0.3 * half + 4 * k)  # a thin bone would look sawn through
    shift = bone.across * np.float32(beside) - bone.along * np.float32(shorter)
    motion = turning(degrees, bone.point(at, middle), shift)
    return Cut(at, slope, rough, max(gap, 0.6), contrast, motion)


def box_of(scene: Scene, cut: Cut) -> Box:
    bone, pad = scene.broken, 2 * cut.gap + 6 * max(scene.size) / 512
    middle, half = bone.breadth(scene.share)
    v = (middle + half * np.linspace(-1.05, 1.05, 17)).astype(np.float32)
    edges = [b.points(cut.run(v, bone.widest), v) for b in (bone, bone.moved(cut.motion))]
    points = np.concatenate(edges)
    x0, y0 = np.maximum(points.min(0) - pad, 0).astype(int).tolist()
    x1, y1 = np.minimum(np.ceil(points.max(0) + pad), scene.size).astype(int).tolist()
    return x0, y0, x1, y1


def hardware(scene: Scene, plain: float, common: Rng, own: Rng) -> tuple[Floats, Box]:
    """How much metal covers each pixel (0 to 1), and the box around it."""
    bone = scene.broken
    mask = Image.new("L", (2 * scene.size[0], 2 * scene.size[1]))
    pen = ImageDraw.Draw(mask)
    for s0, v0, s1, v1, width in _implant(scene, plain, common):
        stroke(pen, 2 * bone.points([s0, s1], [v0, v1]), max(2.4, 2 * width))
    cover = mask.resize(scene.size, Image.Resampling.BOX)
    opacity = own.uniform(0.65, 0.75) + 0.25 * plain
    x0, y0, x1, y1 = cover.getbbox() or (0, 0, *scene.size)
    return np.asarray(cover, np.float32) * np.float32(opacity / 255), (x0, y0, x1, y1)


def _implant(scene: Scene, plain: float, rng: Rng) -> list[Stroke]:
    """A plate with screws, wires, a nail or one screw; the study decides where about the bone."""
    bone = scene.broken
    at, (middle, half) = scene.share * bone.length, bone.breadth(scene.share)
    unit = half * min(1.0, 0.5 + 0.4 * scene.scale / half)  # small bones get small implants
    is_long = math.dist(bone.bone.head, bone.bone.tail) > 5 * bone.bone.half  # in every view
    odds = [of_long if is_long else of_short for of_long, of_short in FORMS.values()]
    form = str(rng.choice(list(FORMS), p=odds))
    facing = rng.uniform(0, 2 * math.pi) - scene.angle
    beside, face = math.cos(facing), abs(math.sin(facing))

    def held(reach: float) -> tuple[float, float]:
        """An implant's ends along the axis: it does not leave the bone."""
        return max(at - reach, 0.03 * bone.length), min(at + reach, 0.97 * bone.length)

    if form == "plate":
        s0, s1 = held(half * (2 + 2 * plain))
        thick, wide = 0.22 * unit, (0.55 + 0.35 * plain) * unit
        v, head = middle + beside * (half + thick / 2), 0.14 * unit
        strokes = [(s0, v, s1, v, abs(beside) * thick + face * wide)]
        for s in np.linspace(s0, s1, 2 * int(rng.integers(4, 7)) + 1)[1::2].tolist():
            middle_here, half_here = bone.breadth(s / bone.length)
            tip = middle_here - beside * min(half_here, 1.6 * half)
            strokes += [(s, v + 0.1 * unit * beside, s, tip, 0.17 * unit)]
            strokes += [(s - head, v, s + head, v, 0.34 * unit * (abs(beside) + 0.9))]
        return strokes
    if form == "nail":
        s0, s1 = held(half * (4 + 5 * plain))
        bolt = s0 + 0.9 * (s1 - s0)
        return [(s0, middle, s1, middle, 0.55 * unit),
                (bolt, middle - half, bolt, middle + half, 0.2 * unit)]  # fmt: skip
    strokes = []
    for _ in range(int(rng.integers(1, 4)) if form == "wires" else 1):
        lean = rng.uniform(0.15, 0.5) * (1 if rng.random() < 0.5 else -1)
        reach, v = half * rng.uniform(1.6, 3.0), middle + rng.uniform(-0.3, 0.3) * half
        rise = lean * (0.4 + 0.6 * abs(beside)) * reach
        width = 0.16 + 0.18 * plain if form == "wires" else 0.3 + 0.1 * plain
        wire = max(width * unit, 3.5 * max(scene.size) / 512)
        strokes += [(at - reach, v - rise, at + reach, v + rise, wire)]
    return strokes


def stroke(pen: ImageDraw.ImageDraw, points: Any, width: float, fill: int = 255) -> None:
    """A line through `points` (N, 2) with round ends."""
    xy = [(float(x), float(y)) for x, y in points]
    pen.line(xy, fill=fill, width=max(1, round(width)), joint="curve")
    for x, y in (xy[0], xy[-1]):
        pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=fill)


Keep = Callable[[Floats, Floats, float], Floats]
SHARE = np.linspace(0, 1, SAMPLES, dtype=np.float32)
Grain = Mapping[str, NDArray[np.int64]]  # where each bone begins in the texture


@dataclass(frozen=True)
class Study:
    split: str
    area: str
    patient: int
    number: int
    abnormal: bool
    views: int

    @property
    def folder(self) -> str:
        label = "positive" if self.abnormal else "negative"
        return f"{self.split}/{self.area}/patient{self.patient:05d}/study{self.number}_{label}"


def draw(
    study: Study, view: int, *, seed: int = 0, size: int = 512, lesion: bool = True
) -> tuple[NDArray[np.uint8], str, Box | None]:
    """One view (from 1) of a study: grey image (H, W), the lesion's kind and its box.

    Kind and box are "" and None if unharmed. `lesion=False` draws the same patient in the same
    position without the lesion.
    """
    key = seed, AREAS.index(study.area), study.patient

    def stream(use: int, number: int = 0, shot: int = 0) -> Rng:
        return np.random.default_rng([*key, number, shot, use, 1])

    body, exam = stream(0), stream(1, study.number)
    shot, film = stream(2, study.number, view), stream(3, study.number, view)
    scene = pose(study.area, size, view, body, exam, shot)
    grain = dict(zip((b.name for b in BONES), body.integers(0, 256, (len(BONES), 2)), strict=True))
    bones, kind, box, cut, metal = dict(scene.bones), "", None, None, None
    if lesion and study.abnormal:
        # streams of their own: a lesion changes nothing else
        common, own = stream(4, study.number), stream(5, study.number, view)
        kind, plain = str(common.choice(KINDS, p=SHARES)), common.random() ** 0.5
        if kind == "hardware":
            metal, box = hardware(scene, plain, common, own)
        else:
            cut = fracture(scene, kind == "displacement", plain, common, own)
            box = box_of(scene, cut)
            for name, bone in scene.bones.items():
                if kind == "displacement" and follows(bone.bone, scene.site):
                    bones[name] = bone.moved(cut.motion)

    muscle = film.normal(1, 0.05, (9, 9)).astype(np.float32)
    flat, soft = _bone(bones, scene, grain, cut), _flesh(bones.values(), scene, muscle)
    exposed = flat[::8, ::8], soft[::2, ::2]
    if cut:  # exposed for the bone as it was, lest brightness tell
        whole = _flesh(scene.bones.values(), scene, muscle)
        exposed = _bone(scene.bones, scene, grain, step=8), whole[::2, ::2]
    return _develop(flat, soft, metal, exposed, scene, film), kind, box


@cache
def _shaft(is_long: bool) -> Floats:
    """How much a bone is shaft along its axis, 0 to 1: there the cortex is thick."""
    most = 1.0 if is_long else 0.1
    return np.asarray(most * np.abs(np.sin(np.pi * SHARE)) ** 0.8, np.float32)


@cache
def _texture() -> Floats:
    """Trabeculae, 256 x 256, mean 1, drawn out along the bone (axis 0); it tiles."""
    noise = np.fft.fft2(np.random.default_rng(7).standard_normal((256, 256)))
    f2 = np.fft.fftfreq(256) ** 2
    tile = np.ones((256, 256))
    for sd, along, across in ((0.22, 0.07, 0.22), (0.08, 0.02, 0.03)):
        part = np.fft.ifft2(noise * np.exp(-f2[:, None] / along**2 - f2[None, :] / across**2)).real
        tile += sd * part / part.std()
    return tile.astype(np.float32)


def _bone(
    bones: Mapping[str, Placed], scene: Scene, grain: Grain, cut: Cut | None = None, step: int = 1
) -> Floats:
    """The beam's path through bone, in centimetres of cortex, at every `step`-th pixel."""
    width, height = (-(-n // step) for n in scene.size)
    flat = np.zeros((height, width), np.float32)
    for name, bone in bones.items():
        if cut is None or name != scene.site:
            _add(flat, bone, scene, grain[name], step=step)
            continue
        _add(flat, bone, scene, grain[name], partial(cut.keep, far=False))
        _add(flat, bone.moved(cut.motion), scene, grain[name], partial(cut.keep, far=True))
    return flat


def _add(
    flat: Floats,
    bone: Placed,
    scene: Scene,
    grain: NDArray[np.int64],
    keep: Keep | None = None,
    step: int = 1,
) -> None:
    """Adds one bone to `flat`; `keep` weighs its parts."""
    if not bone.bone.shape:
        return
    reach = bone.widest + float(np.abs(bone.middle).max()) + 2
    tips = np.array([bone.head, bone.tail])
    x0, y0 = np.maximum((tips.min(0) - reach) // step, 0).astype(int).tolist()
    x1, y1 = np.minimum((tips.max(0) + reach) // step + 1, flat.shape[::-1]).astype(int).tolist()
    if x1 <= x0 or y1 <= y0:
        return
    x = np.arange(x0, x1, dtype=np.float32)[None, :] * step - bone.head[0]
    y = np.arange(y0, y1, dtype=np.float32)[:, None] * step - bone.head[1]
    s, v = x * bone.along[0] + y * bone.along[1], x * bone.across[0] + y * bone.across[1]
    hit = (s > 0) & (s < bone.length) & (np.abs(v) < reach)
    s, v = s[hit], v[hit]

    shaft = _shaft(bone.length > 4 * bone.widest)
    cortex = np.maximum((0.09 + 0.3 * shaft) * bone.breadth(0.5)[1], 1)
    spongy = 0.36 - 0.18 * shaft  # the core is denser at the ends
    steps = max(1, int(cortex[2] / bone.length * SAMPLES))
    core = np.zeros_like(bone.half)
    inset = np.minimum(bone.half[: -2 * steps], bone.half[2 * steps :])
    core[steps:-steps] = np.maximum(inset - cortex[steps:-steps], 0)
    weight = bone.thick * np.float32(bone.bone.dense / scene.scale)
    for plate in bone.bone.plates if scene.young else ():
        d = np.abs(SHARE - plate) * np.float32(bone.length / max(scene.scale * 0.06, 1))
        weight *= 1 - 0.7 * np.exp(-(d**2)) + 0.3 * np.exp(-((d - 2.4) ** 2))

    index = (s * np.float32(SAMPLES / bone.length)).astype(np.int32).clip(0, SAMPLES - 1)
    beside = (v - bone.middle[index]) ** 2
    outer = np.sqrt(np.maximum((bone.half**2)[index] - beside, 0))
    inner = np.sqrt(np.maximum((core**2)[index] - beside, 0))
    fine = np.float32(64 / scene.scale)  # the texture's 256 steps are four centimetres
    row, column = (
        (w * fine + n).astype(np.int32) & 255 for w, n in zip((s, v), grain, strict=True)
    )
    path = weight[index] * (outer - inner + spongy[index] * inner * _texture()[row, column])
    flat[y0:y1, x0:x1][hit] += path if keep is None else path * keep(s, v, bone.widest)


def _flesh(bones: Iterable[Placed], scene: Scene, muscle: Floats) -> Floats:
    """The beam's path through soft tissue in centimetres, at every fourth pixel."""
    w, h = (-(-n // 4) for n in scene.size)
    soft = np.zeros((h, w), np.float32)
    for bone in bones:
        start, stop = (np.float32(radius * scene.scale * scene.fat) for radius in bone.bone.flesh)
        if not start:
            continue
        x = np.arange(w, dtype=np.float32)[None, :] * 4 + 1.5 - bone.head[0]
        y = np.arange(h, dtype=np.float32)[:, None] * 4 + 1.5 - bone.head[1]
        run = np.clip(x * bone.along[0] + y * bone.along[1], 0, np.float32(bone.length))
        d2 = (x - run * bone.along[0]) ** 2 + (y - run * bone.along[1]) ** 2
        radius = start + run * ((stop - start) / np.float32(bone.length))
        depth = np.sqrt(np.maximum(radius**2 - d2, 0)) * np.float32(2 * bone.bone.dense)
        soft = np.maximum(soft, depth / np.float32(scene.scale))
    soft = np.pad(soft, 2, mode="edge")
    for axis in (0, 1, 0, 1):
        soft += (np.roll(soft, 1, axis) + np.roll(soft, -1, axis)) / 2
        soft /= 2
    return soft[2:-2, 2:-2] * _zoomed(muscle, (w, h))


def _zoomed(field: Floats, size: Size) -> Floats:
    return np.asarray(Image.fromarray(field).resize(size, Image.Resampling.BICUBIC), np.float32)


def _develop(
    flat: Floats,
    soft: Floats,
    metal: Floats | None,
    exposed: tuple[Floats, Floats],
    scene: Scene,
    rng: Rng,
) -> NDArray[np.uint8]:
    """From beam paths to grey levels: exposure, skin fold, noise, marker, collimation.

    White is set by `exposed`, a coarser `flat` and `soft`.
    """
    width, height = scene.size
    soft = np.maximum(_zoomed(soft, scene.size), 0)
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    of_soft, of_bone = (np.float32(rng.uniform(*r)) for r in ((0.16, 0.24), (0.55, 0.7)))
    brightest = np.percentile(np.sqrt(exposed[1]) * of_soft + exposed[0] * of_bone, 99)
    white = np.float32(brightest * rng.uniform(0.95, 1.25))
    path = np.sqrt(soft) * of_soft + flat * of_bone
    turn, off, bend, deep = rng.uniform(-1, 1, 4)
    if rng.random() < 0.5:
        d = x * math.cos(3 * turn) + y * math.sin(3 * turn) + 0.5 * off + 0.4 * bend * x * y
        path += np.float32(0.06 * deep) * np.exp(-((d * 50) ** 2)) * (soft > 0)
    grey = np.clip(path / white, 0, 1.2)
    grey *= 1 + np.float32(rng.uniform(-0.3, 0.45)) * (1 - grey)  # a gamma at a tenth of its cost
    level, (heel_x, heel_y) = np.float32(rng.uniform(0.74, 0.92)), rng.normal(0, 0.03, 2).tolist()
    grey = np.float32(rng.uniform(0.02, 0.08)) + grey * (level + heel_x * x + heel_y * y)
    if metal is not None:
        grey += np.maximum(0.97 - grey, 0) * metal
    noise = rng.standard_normal((height, width), dtype=np.float32)
    noise[1:] += 0.4 * noise[:-1]
    grey += noise * (np.float32(rng.uniform(0.008, 0.02)) * (1.2 - np.minimum(grey, 1)))
    field = _field(scene.size, rng)
    grey += np.maximum(0.96 - grey, 0) * _marks(soft, scene, max(scene.size) / 512, rng)
    shades: NDArray[np.uint8] = np.clip(grey * field * 250 + 2, 0, 255).astype(np.uint8)
    return shades


def _field(size: Size, rng: Rng) -> Floats:
    """1 where the collimator lets the beam through, 0.03 where not."""
    width, height = size
    left, right, top, bottom = np.where(rng.random(4) < 0.5, rng.uniform(-0.1, 0.12, 4), -0.3)
    lean = math.radians(rng.normal(0, 2.5)) if rng.random() < 0.6 else 0.0
    cos, sin = np.float32(math.cos(lean)), np.float32(math.sin(lean))
    x = (np.arange(width, dtype=np.float32) - width / 2)[None, :]
    y = (np.arange(height, dtype=np.float32) - height / 2)[:, None]
    u, v = x * cos + y * sin, y * cos - x * sin
    inside_x = np.minimum(
        u + np.float32(width * (0.5 - left)), np.float32(width * (0.5 - right)) - u
    )
    inside_y = np.minimum(
        v + np.float32(height * (0.5 - top)), np.float32(height * (0.5 - bottom)) - v
    )
    return np.clip(np.minimum(inside_x, inside_y) + 0.5, 0.03, 1)


def _marks(soft: Floats, scene: Scene, k: float, rng: Rng) -> Floats:
    """The lead letter L or R, now and then a ring or a cord, all away from the site; 0 to 1."""
    page, width = Image.new("L", scene.size), scene.size[0]
    pen, extent = ImageDraw.Draw(page), np.array(scene.size)
    corners = np.array([(x, y) for x in (0.2, 0.8) for y in (0.17, 0.83)]) * extent
    x, y = (corners - scene.point).T
    far = corners[np.argsort(x**2 + y**2)[1:]]
    bare = far[np.argsort([float(soft[int(y), int(x)]) for x, y in far], kind="stable")]
    places = np.roll(bare, -int(rng.random() < 0.2), axis=0)  # mostly beside the flesh
    places = places + rng.uniform(-0.05, 0.05, (3, 2)) * extent
    height, brightness = rng.uniform(20, 34) * k, int(rng.uniform(150, 255))
    lean = rng.normal(0, 0.25)
    turn = np.array([[math.cos(lean), -math.sin(lean)], [math.sin(lean), math.cos(lean)]]) * height
    if rng.random() < 0.1:  # the film lies the wrong way up
        turn = turn @ np.diag([-1, 1])
    if rng.random() < 0.85:
        for line in LETTERS[scene.side]:
            stroke(pen, places[0] + (np.array(line) - 0.5) @ turn.T, 0.17 * height, brightness)
    radius, ring, cord = rng.uniform(7, 13) * k, rng.random(), rng.random()
    if ring < 0.12:
        x, y = places[1]
        ends = (x - radius, y - radius, x + radius, y + 1.3 * radius)
        pen.ellipse(ends, outline=230, width=max(1, round(4 * k)))
    if cord < 0.12:
        t = np.linspace(-1, 1, 17)
        wave = np.column_stack([0.16 * width * t, 9 * k * np.sin(4 * t)])
        stroke(pen, places[2] + wave, 3 * k, 170)
    return np.asarray(page, np.float32) / np.float32(255)


# strokes in a unit square: the arm in the tables is a right one
LETTERS: Mapping[int, list[list[Point]]] = {
    -1: [[(0, 0), (0, 1), (0.6, 1)]],
    1: [
        [(0, 1), (0, 0), (0.45, 0.05), (0.6, 0.25), (0.45, 0.47), (0, 0.5)],
        [(0.3, 0.5), (0.62, 1)],
    ],
}


LOOK = 1  # raise it when the same arguments give other pixels: old phantoms must not pass for new
ABNORMAL = {  # MURA v1.1: share of abnormal studies in train and in valid
    "XR_ELBOW": {"train": 660 / 1754, "valid": 66 / 158},
    "XR_FINGER": {"train": 655 / 1935, "valid": 83 / 175},
    "XR_FOREARM": {"train": 287 / 877, "valid": 64 / 133},
    "XR_HAND": {"train": 521 / 2018, "valid": 66 / 167},
    "XR_HUMERUS": {"train": 271 / 592, "valid": 67 / 135},
    "XR_SHOULDER": {"train": 1457 / 2821, "valid": 95 / 194},
    "XR_WRIST": {"train": 1326 / 3460, "valid": 97 / 237},
}
VIEWS = (0.2, 0.4, 0.4)  # shares of studies with one, two and three views
BLOCK, TWICE = 10, 2  # of ten patients in a row two come twice; one is also in the area before
VALID_FROM = 50_001  # the first patient number of the valid split
MOST = (VALID_FROM - 1) // len(AREAS)


def write(
    root: Path,
    *,
    areas: Sequence[str] = AREAS,
    patients: int = 60,
    seed: int = 0,
    size: int = 512,
    progress: Callable[[Sequence[Study]], Iterable[Study]] = iter,
) -> None:
    """Writes images, MURA's four CSVs and lesions.csv under `root`; returns if they are there.

    `patients` counts an area's training patients; valid has a quarter as many, at least twelve.
    `size` is the longer side in pixels. `progress` wraps the list of studies, as tqdm does.
    Raises InputError if `root` holds something else.
    """
    if unknown := [area for area in areas if area not in AREAS]:
        raise InputError(f"phantom: no area {unknown[0]!r}; there are {', '.join(AREAS)}")
    if not (areas and 1 <= patients <= MOST and 64 <= size <= 2048 and seed >= 0):
        raise InputError(
            f"phantom: areas={list(areas)} (at least one), {patients=} (1 to {MOST}), "
            f"{size=} (64 to 2048), {seed=} (0 or more)"
        )
    chosen = [area for area in AREAS if area in areas]
    counts = {"train": patients, "valid": max(12, patients // 4)}
    plan = [
        s for split, n in counts.items() for area in chosen for s in studies(split, area, n, seed)
    ]
    name = root.resolve().name
    tables = _tables(name, plan)
    arguments = {"areas": chosen, "patients": patients, "seed": seed, "size": size, "look": LOOK}
    if _is_complete(root, arguments, tables, plan):
        return

    root.mkdir(parents=True, exist_ok=True)
    _replace(root / "phantom.json", json.dumps(arguments) + "\n")
    lesions = ["path,kind,x0,y0,x1,y1"]
    pool = ThreadPoolExecutor(max_workers=2)
    try:
        drawn = pool.map(partial(_save, root, seed=seed, size=size), plan)
        for _, rows in zip(progress(plan), drawn, strict=True):
            lesions += [f"{name}/{row}" for row in rows]
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the rest
    # the tables come last: where they are, the images are
    for file, lines in {"lesions.csv": lesions, **tables}.items():
        _replace(root / file, "".join(f"{line}\n" for line in lines))


def studies(split: str, area: str, patients: int, seed: int) -> Iterator[Study]:
    """Who comes with what; dealt block by block, so any number of patients has MURA's balance."""
    deal, share = BLOCK + TWICE, ABNORMAL[area][split]
    for block in range(-(-patients // BLOCK)):
        rng = _stream(split, area, block, seed, use=1)
        abnormal = round((block + 1) * deal * share) - round(block * deal * share)
        labels = iter((rng.permutation(deal) < abnormal).tolist())
        views = iter(rng.choice((1, 2, 3), deal, p=VIEWS).tolist())
        twice = rng.choice(BLOCK, TWICE, replace=False)
        for i in range(BLOCK):
            patient = _patient(split, area, block, i, seed)
            for number in (1, 2) if i in twice else (1,):
                study = Study(split, area, patient, number, next(labels), next(views))
                if block * BLOCK + i < patients:
                    yield study


def _patient(split: str, area: str, block: int, i: int, seed: int) -> int:
    """A patient's number; one in a block is the patient of the same place in the area before."""

    def is_shared(at: int) -> bool:
        return at > 0 and i == int(_stream(split, AREAS[at], block, seed, use=2).integers(BLOCK))

    at = AREAS.index(area)
    if is_shared(at) and not is_shared(at - 1):
        at -= 1
    return (block * BLOCK + i) * len(AREAS) + at + (VALID_FROM if split == "valid" else 1)


def _stream(split: str, area: str, block: int, seed: int, *, use: int) -> np.random.Generator:
    return np.random.default_rng([seed, AREAS.index(area), int(split == "valid"), block, use, 2])


def _tables(name: str, plan: list[Study]) -> dict[str, list[str]]:
    tables: dict[str, list[str]] = {
        f"{split}_{kind}.csv": []
        for split in ("train", "valid")
        for kind in ("image_paths", "labeled_studies")
    }
    for s in plan:
        tables[f"{s.split}_labeled_studies.csv"] += [f"{name}/{s.folder}/,{int(s.abnormal)}"]
        paths = [f"{name}/{s.folder}/image{view}.png" for view in range(1, s.views + 1)]
        tables[f"{s.split}_image_paths.csv"] += paths
    return tables


def _is_complete(
    root: Path, arguments: dict[str, Any], tables: dict[str, list[str]], plan: list[Study]
) -> bool:
    """Whether this very phantom is there; raises if `root` holds another dataset."""
    note, there = root / "phantom.json", [file for file in tables if (root / file).exists()]
    if note.exists():
        try:
            other = json.loads(note.read_text())
        except ValueError:
            other = "unreadable arguments"
        if other != arguments:
            raise InputError(f"{note}: made with {other}, not {arguments}; choose another folder")
    elif there:
        raise InputError(f"{root / there[0]}: not made by the phantom; choose another folder")
    for file in there:
        if (root / file).read_text().splitlines() != tables[file]:
            raise InputError(
                f"{root / file}: changed since it was made; delete {root} to remake it"
            )
    images = (root / s.folder / f"image{view}.png" for s in plan for view in range(1, s.views + 1))
    tables_there = len(there) == len(tables) and (root / "lesions.csv").exists()
    return tables_there and all(image.exists() for image in images)


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _save(root: Path, study: Study, *, seed: int, size: int) -> list[str]:
    """Writes a study's views; returns their rows of lesions.csv."""
    (root / study.folder).mkdir(parents=True, exist_ok=True)
    rows = []
    for view in range(1, study.views + 1):
        image, kind, box = draw(study, view, seed=seed, size=size)
        path = f"{study.folder}/image{view}.png"
        Image.fromarray(image).save(root / path, compress_level=1)
        if box:
            rows.append(",".join(map(str, (path, kind, *box))))
    return rows


def contact_sheet(root: Path, out: Path, per_area: int = 6) -> None:
    """One picture of a phantom: a row per area, normal left, abnormal right, lesions boxed."""
    lesions = [line.split(",") for line in (root / "lesions.csv").read_text().splitlines()[1:]]
    boxes = {path: (kind, [int(n) for n in box]) for path, kind, *box in lesions}
    paths = (root / "train_image_paths.csv").read_text().splitlines()
    paths = [path for path in paths if path.endswith("image1.png")]
    areas = list(dict.fromkeys(path.split("/")[2] for path in paths))
    pitch, top, left, normals = 182, 40, 108, per_area // 2
    sheet = Image.new("RGB", (left + per_area * pitch, top + len(areas) * pitch), (12, 12, 12))
    pen, large, small = (
        ImageDraw.Draw(sheet),
        ImageFont.load_default(15),
        ImageFont.load_default(12),
    )
    pen.text((left, 12), "normal", (150, 200, 150), large)
    pen.text((left + normals * pitch, 12), "abnormal", (255, 170, 80), large)
    for row, area in enumerate(areas):
        y = top + row * pitch
        pen.text((14, y + pitch // 2 - 10), area[3:].lower(), (230, 230, 230), large)
        mine = [path for path in paths if path.split("/")[2] == area]
        by_kind = [[p for p in mine if p in boxes and boxes[p][0] == kind] for kind in KINDS]
        in_turn = [p for rank in zip_longest(*by_kind) for p in rank if p]
        plain = [path for path in mine if path not in boxes]
        places = [*enumerate(plain[:normals]), *enumerate(in_turn[: per_area - normals], normals)]
        for column, path in places:
            x = left + column * pitch
            with Image.open(root.joinpath(*path.split("/")[1:])) as image:
                factor = (pitch - 6) / max(image.size)
                view = image.resize(
                    [round(n * factor) for n in image.size], Image.Resampling.LANCZOS
                )
            x0, y0 = x + (pitch - view.width) // 2, y + (pitch - view.height) // 2
            sheet.paste(view, (x0, y0))
            if path in boxes:
                kind, box = boxes[path]
                corners = [round(n * factor) + (x0, y0)[i % 2] for i, n in enumerate(box)]
                pen.rectangle(corners, outline=(255, 150, 40))
                pen.text((x + 4, y + 3), kind, (255, 170, 80), small, stroke_width=2, stroke_fill=0)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
