"""Lesions of a phantom's bone: a fracture line, displaced fragments, or metal hardware."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from mura_tune.phantoms.posing import Floats, Matrix, Rng, Scene, rotation_about

Box = tuple[int, int, int, int]  # x0, y0, x1, y1, pixels
Stroke = tuple[float, float, float, float, float]  # (s, v) to (s, v) about a bone's axis; width

LESION_KINDS = ("line", "displacement", "hardware")
LESION_SHARES = (0.45, 0.25, 0.30)
# form of the hardware in long bones and in others
HARDWARE_FORMS = {
    "plate": (0.5, 0.0),
    "wires": (0.3, 0.4),
    "nail": (0.15, 0.0),
    "screw": (0.05, 0.6),
}


@dataclass(frozen=True)
class Fracture:
    """A fracture: where it crosses the bone, how clearly it shows, and how the far fragment moved.

    `slope` is pixels along the axis for each pixel across it.
    """

    at: float  # pixels along the axis
    slope: float
    rough: Floats  # pixels along the axis, over the bone's width
    gap: float  # pixels
    contrast: float
    motion: Matrix  # of the far fragment

    def run(self, v: Floats, widest: float) -> Floats:
        """Return where along the axis, in pixels, the fracture passes `v` pixels to its right."""
        steps = len(self.rough)
        i = np.clip((v / np.float32(2.4 * widest) + np.float32(0.5)) * steps, 0, steps - 1)
        rough: Floats = self.rough[i.astype(np.int32)]
        return rough + np.float32(self.slope) * v + np.float32(self.at)

    def keep(self, s: Floats, v: Floats, widest: float, far: bool) -> Floats:
        """Return the share of bone, 0 to 1.4, that is left at (s, v) of one fragment.

        A fragment ends at the fracture. Beside the gap the share is above 1: the bone's inner
        structure is crushed there, and denser.
        """
        short = (s - self.run(v, widest)) if far else (self.run(v, widest) - s)
        away = short / np.float32(self.gap)
        rim = 0.4 * np.exp(-((away - 2.2) ** 2))  # crushed trabeculae beside the gap
        depth = np.float32(self.contrast) * (np.exp(-(away**2)) - rim)
        left: Floats = np.clip(short + 0.5, 0, 1) * (1 - depth)
        return left


def draw_fracture(scene: Scene, apart: bool, plain: float, common: Rng, own: Rng) -> Fracture:
    """Draw a fracture at the scene's site.

    Args:
        apart: whether the fragments move apart; otherwise they shift by a small step at most.
        plain: how easy the fracture is to see, from 0 to 1.
        common, own: random numbers of the study and of the view.
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
    motion = rotation_about(degrees, bone.point(at, middle), shift)
    return Fracture(at, slope, rough, max(gap, 0.6), contrast, motion)


def fracture_box(scene: Scene, cut: Fracture) -> Box:
    """Return the box around both edges of a fracture, inside the image."""
    bone, pad = scene.broken, 2 * cut.gap + 6 * max(scene.size) / 512
    middle, half = bone.breadth(scene.share)
    v = (middle + half * np.linspace(-1.05, 1.05, 17)).astype(np.float32)
    edges = [b.points(cut.run(v, bone.widest), v) for b in (bone, bone.moved(cut.motion))]
    points = np.concatenate(edges)
    x0, y0 = np.maximum(points.min(0) - pad, 0).astype(int).tolist()
    x1, y1 = np.minimum(np.ceil(points.max(0) + pad), scene.size).astype(int).tolist()
    return x0, y0, x1, y1


def draw_hardware(scene: Scene, plain: float, common: Rng, own: Rng) -> tuple[Floats, Box]:
    """Return how much metal covers each pixel (H, W), from 0 to 1, and the box around the metal."""
    bone = scene.broken
    mask = Image.new("L", (2 * scene.size[0], 2 * scene.size[1]))
    pen = ImageDraw.Draw(mask)
    for s0, v0, s1, v1, width in _implant(scene, plain, common):
        draw_stroke(pen, 2 * bone.points([s0, s1], [v0, v1]), max(2.4, 2 * width))
    cover = mask.resize(scene.size, Image.Resampling.BOX)
    opacity = own.uniform(0.65, 0.75) + 0.25 * plain
    x0, y0, x1, y1 = cover.getbbox() or (0, 0, *scene.size)
    return np.asarray(cover, np.float32) * np.float32(opacity / 255), (x0, y0, x1, y1)


def _implant(scene: Scene, plain: float, rng: Rng) -> list[Stroke]:
    """Return the strokes of a plate with screws, of wires, of a nail, or of one screw.

    The study's random numbers `rng` decide the form and the direction about the bone's axis, so
    that each view shows the same implant.
    """
    bone = scene.broken
    at, (middle, half) = scene.share * bone.length, bone.breadth(scene.share)
    unit = half * min(1.0, 0.5 + 0.4 * scene.scale / half)  # small bones get small implants
    is_long = math.dist(bone.bone.head, bone.bone.tail) > 5 * bone.bone.half  # in every view
    odds = [of_long if is_long else of_short for of_long, of_short in HARDWARE_FORMS.values()]
    form = str(rng.choice(list(HARDWARE_FORMS), p=odds))
    facing = rng.uniform(0, 2 * math.pi) - scene.angle
    beside, face = math.cos(facing), abs(math.sin(facing))

    def held(reach: float) -> tuple[float, float]:
        """Return an implant's ends in pixels along the axis, both inside the bone."""
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
        return [
            (s0, middle, s1, middle, 0.55 * unit),
            (bolt, middle - half, bolt, middle + half, 0.2 * unit),
        ]
    strokes = []
    for _ in range(int(rng.integers(1, 4)) if form == "wires" else 1):
        lean = rng.uniform(0.15, 0.5) * (1 if rng.random() < 0.5 else -1)
        reach, v = half * rng.uniform(1.6, 3.0), middle + rng.uniform(-0.3, 0.3) * half
        rise = lean * (0.4 + 0.6 * abs(beside)) * reach
        width = 0.16 + 0.18 * plain if form == "wires" else 0.3 + 0.1 * plain
        wire = max(width * unit, 3.5 * max(scene.size) / 512)
        strokes += [(at - reach, v - rise, at + reach, v + rise, wire)]
    return strokes


def draw_stroke(pen: ImageDraw.ImageDraw, points: Any, width: float, fill: int = 255) -> None:
    """Draw a line of `width` pixels with round ends through `points` (N, 2)."""
    xy = [(float(x), float(y)) for x, y in points]
    pen.line(xy, fill=fill, width=max(1, round(width)), joint="curve")
    for x, y in (xy[0], xy[-1]):
        pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=fill)
