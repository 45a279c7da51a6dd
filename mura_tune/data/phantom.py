"""Synthetic radiographs in MURA's layout: a dataset for the demo and the tests, with a box for every lesion.

A bone is a tube of cortex around a softer core; an image sums the path of the beam through tubes and flesh, so
cortex shows bright at the edges as it does on film. What an image shows depends on (seed, area, patient, study,
view) alone: asking for more patients leaves the others as they were.
"""

import functools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mura_tune.data.anatomy import (
    AREAS,
    BONES,
    BY_NAME,
    SAMPLES,
    WINDOWS,
    Floats,
    Placed,
    Site,
    chain,
    follows,
    place,
    pose,
    turning,
)
from mura_tune.errors import InputError

Box = tuple[int, int, int, int]
Rng = np.random.Generator
KINDS = ("line", "displacement", "hardware")
SHARES = (0.45, 0.25, 0.30)

# MURA v1.1: share of abnormal studies in (train, valid)
ABNORMAL = {
    "XR_ELBOW": (660 / 1754, 66 / 158),
    "XR_FINGER": (655 / 1935, 83 / 175),
    "XR_FOREARM": (287 / 877, 64 / 133),
    "XR_HAND": (521 / 2018, 66 / 167),
    "XR_HUMERUS": (271 / 592, 67 / 135),
    "XR_SHOULDER": (1457 / 2821, 95 / 194),
    "XR_WRIST": (1326 / 3460, 97 / 237),
}


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


@dataclass(frozen=True)
class Lesion:
    kind: str
    plain: float  # 0 hard to see, 1 obvious


@dataclass(frozen=True)
class Cut:
    """A fracture through a bone: where it runs, how deep it shows, where the far fragment went."""

    at: float  # pixels along the axis
    slope: float
    rough: Floats  # pixels, over the bone's width
    gap: float  # pixels
    contrast: float
    motion: Floats  # 2x3, of the far fragment

    def run(self, v: Floats, half: float) -> Floats:
        """Pixels along the axis where the fracture crosses, `v` pixels beside the axis."""
        index = np.clip((v / (2.2 * half) + 0.5) * len(self.rough), 0, len(self.rough) - 1)
        return self.at + self.slope * v + self.rough[index.astype(np.intp)]


def draw(study: Study, view: int, *, seed: int = 0, size: int = 512, lesion: bool = True) -> tuple[NDArray[np.uint8], str, Box | None]:
    """One view (counted from 1) of a study: grey image, the lesion's kind ("" if none) and its box.

    With `lesion=False` the same patient is drawn in the same position, unharmed.
    """
    area = AREAS.index(study.area)

    def stream(number: int, study_: int, view_: int) -> Rng:
        return np.random.default_rng([seed, area, study.patient, study_, view_, number, 1])

    body, exam, shot = stream(0, 0, 0), stream(1, study.number, 0), stream(2, study.number, view)
    window = WINDOWS[study.area]
    # the same for normal and abnormal studies, so that framing tells nothing
    site = window.sites[int(exam.integers(len(window.sites)))]
    share = float(exam.uniform(site.start, site.stop))
    first = int(exam.integers(3)) if exam.random() < 0.25 else 0
    degrees = window.views[(first + view - 1) % 3] + shot.uniform(-9, 9)
    angle = math.radians(degrees)

    # the patient: build, pose, side, age
    grown, stout, fat = body.uniform(0.9, 1.1), body.uniform(0.87, 1.13), body.uniform(0.85, 1.25)
    side, young = (-1 if body.random() < 0.5 else 1), body.random() < 0.25
    bends = body.normal(0, 2.0, len(BONES)) + shot.normal(0, 1.2, len(BONES))
    matrices = pose(angle, bends.astype(np.float32))

    # the frame: anchor upright, focus in the middle, then turned, scaled, mirrored and shifted
    aspect = shot.uniform(*window.aspect)
    if shot.random() < 0.12:
        aspect = 1 / aspect
    width, height = (size * min(1.0, aspect), size * min(1.0, 1 / aspect))
    least = min(1.0, size / 512)
    width, height = max(int(width), math.ceil(89 * least)), max(int(height), math.ceil(132 * least))
    anchor = BY_NAME[window.anchor or site.bone]
    scale = size / window.span * shot.uniform(0.88, 1.14) * grown
    tilt = shot.normal(0, 7) if shot.random() < 0.85 else shot.uniform(-35, 35)
    upright = matrices[anchor.name]
    inverse = np.linalg.inv(upright[:, :2])
    focus = np.array(window.focus) if window.anchor else (np.array(anchor.tail) * 0.6 + np.array(anchor.head) * 0.4)
    depth = sum(anchor.depth) / 2
    focus[0] = focus[0] * math.cos(angle) + depth * math.sin(angle)
    if not window.anchor:  # the finger's own direction
        away = np.array(anchor.tail) - np.array(anchor.head)
        tilt += math.degrees(math.atan2(away[0] * math.cos(angle), away[1]))
    turn = turning(window.turn + tilt, np.zeros(2, np.float32))[:, :2] @ inverse
    turn = np.diag([side, 1.0]) @ turn * scale
    centre = np.array([width, height]) * (0.5 + shot.uniform(-0.06, 0.06, 2))
    moved = upright[:, :2] @ focus + upright[:, 2]
    to_pixels = np.column_stack([turn, centre - turn @ moved]).astype(np.float32)
    shown = {n: m for n, m in matrices.items()}

    def all_bones() -> dict[str, Placed]:
        return {b.name: place(b, chain(to_pixels, shown[b.name]), angle, scale * stout) for b in BONES if _shown(b, window.anchor, site, angle)}

    placed = all_bones()
    # what the study looks at lies well inside
    point = placed[site.bone].at(share)
    margin = np.array([width, height]) * 0.24
    shift = np.clip(point, margin, np.array([width, height]) - margin) - point
    to_pixels[:, 2] += shift
    step = np.column_stack([np.eye(2), shift]).astype(np.float32)
    placed = {n: p.moved(step) for n, p in placed.items()}
    point = point + shift

    cut, found, metal = None, "", None
    box: Box | None = None
    if lesion and study.abnormal:
        found = str(stream(3, study.number, 0).choice(KINDS, p=SHARES))
        plain = float(stream(4, study.number, 0).uniform(0, 1))
        harm = stream(5, study.number, view)
        common = stream(6, study.number, 0)
        broken = placed[site.bone]
        if found == "hardware":
            metal, box = _hardware(broken, share, plain, common, harm, (width, height), size / 512, math.radians(degrees), scale)
        else:
            cut = _cut(broken, share, found, plain, common, harm, size / 512)
            box = _cut_box(broken, share, cut, (width, height), size / 512)
            placed = {n: (p.moved(cut.motion) if follows(p.bone, site.bone) else p) for n, p in placed.items()}

    beam = _flesh(placed, width, height, scale, fat, shot)
    flat = np.zeros((height, width), np.float32)
    for i, bone in enumerate(placed.values()):
        if not bone.bone.shape:
            continue
        grain = stream(7, i, 0).integers(0, 256, 2)
        if cut is not None and bone.bone.name == site.bone:
            _tube(flat, bone, scale, young, grain, cut, far=False)
            _tube(flat, bone.moved(cut.motion), scale, young, grain, cut, far=True)
        else:
            _tube(flat, bone, scale, young, grain)
    image = _develop(flat, beam, metal, point, side, size / 512, shot)
    return image, found, box


def _shown(bone: object, anchor: str, site: Site, angle: float) -> bool:
    # from the side the other fingers are folded away
    name = bone.name
    if anchor or abs(math.sin(angle)) < 0.5:
        return True
    finger = site.bone[:-1]
    return name.startswith(finger) or not name[-1].isdigit()


@functools.cache
def _tile() -> Floats:
    """Trabecular texture, 256 x 256, mean 1, drawn out along the bone (axis 0)."""
    noise = np.random.default_rng(7).standard_normal((256, 256))
    f = np.fft.fftfreq(256)
    fine = np.exp(-((f[:, None] / 0.06) ** 2) - ((f[None, :] / 0.22) ** 2))
    coarse = np.exp(-((f[:, None] / 0.02) ** 2) - ((f[None, :] / 0.03) ** 2))
    out = np.ones((256, 256))
    for weight, band in ((0.2, fine), (0.14, coarse)):
        part = np.fft.ifft2(np.fft.fft2(noise) * band).real
        out += weight * part / part.std()
    return out.astype(np.float32)


def _tube(flat: Floats, bone: Placed, scale: float, young: bool, grain: NDArray[np.int64], cut: Cut | None = None, far: bool = False) -> None:
    """Adds the beam's path through one bone, in centimetres of cortex."""
    wide = float(bone.half.max())
    ends = np.array([bone.head, bone.tail])
    swell = wide + float(np.abs(bone.middle).max()) + 2
    x0, y0 = np.maximum(np.floor(ends.min(0) - swell), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(ends.max(0) + swell), flat.shape[::-1]).astype(int)
    if x1 <= x0 or y1 <= y0:
        return
    x, y = np.arange(x0, x1, dtype=np.float32) - bone.head[0], np.arange(y0, y1, dtype=np.float32) - bone.head[1]
    s = (x * bone.along[0])[None, :] + (y * bone.along[1])[:, None]
    v = (x * bone.across[0])[None, :] + (y * bone.across[1])[:, None]
    index = np.clip(s * np.float32(SAMPLES / bone.length), 0, SAMPLES - 1).astype(np.int32)

    share = np.linspace(0, 1, SAMPLES, dtype=np.float32)
    shaft = np.sin(np.pi * share) ** 0.7 if bone.length > 4 * wide else 0.15 * np.sin(np.pi * share)
    middle = float(np.median(bone.half))
    cortex = np.maximum(middle * (0.1 + 0.32 * shaft), 1.0)
    reach = max(1, int(cortex[2] / bone.length * SAMPLES))
    inner = np.minimum(np.roll(bone.half, reach), np.roll(bone.half, -reach)) - cortex
    inner[:reach] = inner[-reach:] = -1
    outer2 = np.where(bone.half > 0.5, bone.half**2, -1).astype(np.float32)
    inner2 = np.where(inner > 0, inner**2, -1).astype(np.float32)
    weight = bone.thick * bone.bone.dense / scale
    if young:
        for at in bone.bone.plates:
            d = np.abs(share - at) * bone.length / max(scale * 0.07, 1.0)
            weight = weight * (1 - 0.7 * np.exp(-(d**2)) + 0.25 * np.exp(-((d - 2.4) ** 2)))
    core = (0.34 - 0.14 * shaft).astype(np.float32)

    beside = (v - bone.middle[index]) ** 2
    outer = np.sqrt(np.maximum(outer2[index] - beside, 0))
    hollow = np.sqrt(np.maximum(inner2[index] - beside, 0))
    fine = np.float32(256 / 5.0 / max(scale, 1))  # a tile is about five centimetres
    texture = _tile()[(s * fine + grain[0]).astype(np.int32) & 255, (v * fine + grain[1]).astype(np.int32) & 255]
    path = (outer - hollow + core[index] * hollow * texture) * weight.astype(np.float32)[index]
    if cut is not None:
        past = s - cut.run(v, wide)
        past = -past if far else past
        # fades to the fracture, ends behind it
        path *= np.clip(0.5 - past, 0, 1) * (1 - cut.contrast * np.exp(-((past / cut.gap) ** 2)))
    flat[y0:y1, x0:x1] += path


def _flesh(placed: dict[str, Placed], width: int, height: int, scale: float, fat: float, rng: Rng) -> Floats:
    """The beam's path through soft tissue, in centimetres; a quarter of the resolution is enough."""
    w, h = -(-width // 4), -(-height // 4)
    x, y = (np.arange(w, dtype=np.float32) * 4 + 1.5)[None, :], (np.arange(h, dtype=np.float32) * 4 + 1.5)[:, None]
    soft = np.zeros((h, w), np.float32)
    for bone in placed.values():
        start, stop = (np.float32(r * scale * fat) for r in bone.bone.flesh)
        if not start:
            continue
        dx, dy = x - bone.head[0], y - bone.head[1]
        t = np.clip((dx * bone.along[0] + dy * bone.along[1]) / np.float32(bone.length), 0, 1)
        run = t * np.float32(bone.length)
        d2 = (dx - run * bone.along[0]) ** 2 + (dy - run * bone.along[1]) ** 2
        dense = np.float32(2 / scale * bone.bone.dense)
        soft = np.maximum(soft, np.sqrt(np.maximum((start + t * (stop - start)) ** 2 - d2, 0)) * dense)
    for axis in (0, 1, 0, 1):
        soft = (np.roll(soft, 1, axis) + 2 * soft + np.roll(soft, -1, axis)) / 4
    soft *= _clouds(rng, w, h, 9, 0.05)
    return np.asarray(Image.fromarray(soft).resize((width, height), Image.Resampling.BICUBIC)).clip(0)


def _clouds(rng: Rng, width: int, height: int, cells: int, sd: float) -> Floats:
    coarse = rng.normal(1, sd, (cells, cells)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _develop(flat: Floats, soft: Floats, metal: Floats | None, point: Floats, side: int, k: float, rng: Rng) -> NDArray[np.uint8]:
    """From beam paths to grey: exposure, scatter, collimation, marker, noise. `k`: size / 512."""
    height, width = flat.shape
    tissue = rng.uniform(0.20, 0.30) * soft**0.7
    path = tissue + rng.uniform(0.75, 0.95) * flat
    white = float(np.percentile(tissue[::8, ::8], 95)) + rng.uniform(0.65, 1.0)
    x, y = np.linspace(-1, 1, width, dtype=np.float32)[None, :], np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    heel, fold = rng.normal(0, 0.04, 2), rng.uniform(-1, 1, 4)
    if rng.random() < 0.5:  # a skin fold
        d = (x * math.cos(3 * fold[0]) + y * math.sin(3 * fold[0]) + 0.5 * fold[1] + 0.3 * fold[2] * x * y) / 0.02
        path += np.float32(0.05 * fold[3]) * np.exp(-(d**2)) * (soft > 0)
    grey = np.clip(path / np.float32(white), 0, 1.15) ** np.float32(rng.uniform(0.75, 1.15))
    grey = rng.uniform(0.02, 0.09) + grey * (rng.uniform(0.72, 0.92) + heel[0] * x + heel[1] * y)
    if metal is not None:
        grey += (np.float32(1.0) - grey) * metal
    sigma = rng.uniform(0.008, 0.022)
    noise = rng.standard_normal((height, width), dtype=np.float32)
    noise[1:] += 0.5 * noise[:-1]
    grey += noise * (np.float32(sigma) * (1.1 - 0.7 * np.minimum(grey, 1)))
    return np.clip(grey * 250, 0, 255).astype(np.uint8)
