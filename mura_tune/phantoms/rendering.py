"""One phantom radiograph: the length of the beam's path through bone and flesh, turned into grey.

A bone is a tube of dense cortex around a softer core. The beam meets most cortex at the tube's
edges, so the edges are bright, as in a real radiograph.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mura_tune.areas import AREAS
from mura_tune.phantoms.anatomy import BONES, Point2d
from mura_tune.phantoms.lesions import (
    LESION_KINDS,
    LESION_SHARES,
    Box,
    Fracture,
    draw_fracture,
    draw_hardware,
    draw_stroke,
    fracture_box,
)
from mura_tune.phantoms.posing import (
    SAMPLES,
    Floats,
    PlacedBone,
    Rng,
    Scene,
    Size,
    follows,
    pose_scene,
)

Weighting = Callable[[Floats, Floats, float], Floats]
AXIS_SHARES = np.linspace(0, 1, SAMPLES, dtype=np.float32)
Grain = Mapping[str, NDArray[np.int64]]  # where each bone begins in the texture


@dataclass(frozen=True)
class PhantomStudy:
    """One study of a phantom dataset: `number` counts the patient's studies, from 1."""

    split: str
    area: str
    patient: int
    number: int
    abnormal: bool
    views: int

    @property
    def folder(self) -> str:
        """Return the study's folder below the dataset's, named as MURA names it."""
        label = "positive" if self.abnormal else "negative"
        return f"{self.split}/{self.area}/patient{self.patient:05d}/study{self.number}_{label}"


def draw_view(
    study: PhantomStudy, view: int, *, seed: int = 0, size: int = 512, lesion: bool = True
) -> tuple[NDArray[np.uint8], str, Box | None]:
    """Draw one view of a study.

    Args:
        view: its number in the study, from 1.
        size: of the longer side, in pixels.
        lesion: False draws the same patient in the same position without the lesion.

    Returns:
        The grey image (H, W), the lesion's kind, and the lesion's box. A view without a lesion has
        "" and None.
    """
    key = seed, AREAS.index(study.area), study.patient

    def stream(use: int, number: int = 0, shot: int = 0) -> Rng:
        return np.random.default_rng([*key, number, shot, use, 1])

    body, exam = stream(0), stream(1, study.number)
    shot, film = stream(2, study.number, view), stream(3, study.number, view)
    scene = pose_scene(study.area, size, view, body, exam, shot)
    grain = dict(zip((b.name for b in BONES), body.integers(0, 256, (len(BONES), 2)), strict=True))
    bones, kind, box, cut, metal = dict(scene.bones), "", None, None, None
    if lesion and study.abnormal:
        # streams of their own: a lesion changes nothing else
        common, own = stream(4, study.number), stream(5, study.number, view)
        kind, plain = str(common.choice(LESION_KINDS, p=LESION_SHARES)), common.random() ** 0.5
        if kind == "hardware":
            metal, box = draw_hardware(scene, plain, common, own)
        else:
            cut = draw_fracture(scene, kind == "displacement", plain, common, own)
            box = fracture_box(scene, cut)
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
    """Return how thick the cortex is along the axis (SAMPLES,), 0 to 1: a shaft has most."""
    most = 1.0 if is_long else 0.1
    return np.asarray(most * np.abs(np.sin(np.pi * AXIS_SHARES)) ** 0.8, np.float32)


@cache
def _texture() -> Floats:
    """Return a texture of spongy bone (256, 256) of mean 1, long in axis 0; its edges fit."""
    noise = np.fft.fft2(np.random.default_rng(7).standard_normal((256, 256)))
    f2 = np.fft.fftfreq(256) ** 2
    tile = np.ones((256, 256))
    for sd, along, across in ((0.22, 0.07, 0.22), (0.08, 0.02, 0.03)):
        part = np.fft.ifft2(noise * np.exp(-f2[:, None] / along**2 - f2[None, :] / across**2)).real
        tile += sd * part / part.std()
    return tile.astype(np.float32)


def _bone(
    bones: Mapping[str, PlacedBone],
    scene: Scene,
    grain: Grain,
    cut: Fracture | None = None,
    step: int = 1,
) -> Floats:
    """Return the beam's path through bone at every `step`-th pixel (H, W), in cm of cortex."""
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
    bone: PlacedBone,
    scene: Scene,
    grain: NDArray[np.int64],
    keep: Weighting | None = None,
    step: int = 1,
) -> None:
    """Add one bone's path to `flat` in place.

    `keep` gives the share of bone that is left at each point, as `Fracture.keep` does.
    """
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
        d = np.abs(AXIS_SHARES - plate) * np.float32(bone.length / max(scene.scale * 0.06, 1))
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


def _flesh(bones: Iterable[PlacedBone], scene: Scene, muscle: Floats) -> Floats:
    """Return the beam's path through soft tissue at every fourth pixel, in centimetres."""
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
    """Return `field` at another size (width, height), bicubic."""
    return np.asarray(Image.fromarray(field).resize(size, Image.Resampling.BICUBIC), np.float32)


def _develop(
    flat: Floats,
    soft: Floats,
    metal: Floats | None,
    exposed: tuple[Floats, Floats],
    scene: Scene,
    rng: Rng,
) -> NDArray[np.uint8]:
    """Turn beam paths into grey levels (H, W).

    Exposure, a fold of skin, metal, noise, markers and collimation are added in that order.

    Args:
        flat: path through bone (H, W), in centimetres of cortex.
        soft: path through soft tissue, in centimetres, at every fourth pixel.
        metal: how much metal covers each pixel (H, W), 0 to 1.
        exposed: coarser `flat` and `soft`, by which the level of white is set.
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
    """Return (H, W): 1 where the collimator lets the beam through, 0.03 elsewhere."""
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
    """Return how bright marks are at each pixel (H, W), 0 to 1, all away from the site.

    The marks are the lead letter L or R, and in some images a ring or a cord. `k` is the image's
    longer side over 512.
    """
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
            draw_stroke(pen, places[0] + (np.array(line) - 0.5) @ turn.T, 0.17 * height, brightness)
    radius, ring, cord = rng.uniform(7, 13) * k, rng.random(), rng.random()
    if ring < 0.12:
        x, y = places[1]
        ends = (x - radius, y - radius, x + radius, y + 1.3 * radius)
        pen.ellipse(ends, outline=230, width=max(1, round(4 * k)))
    if cord < 0.12:
        t = np.linspace(-1, 1, 17)
        wave = np.column_stack([0.16 * width * t, 9 * k * np.sin(4 * t)])
        draw_stroke(pen, places[2] + wave, 3 * k, 170)
    return np.asarray(page, np.float32) / np.float32(255)


# strokes in a unit square: the arm in the tables is a right one
LETTERS: Mapping[int, list[list[Point2d]]] = {
    -1: [[(0, 0), (0, 1), (0.6, 1)]],
    1: [
        [(0, 1), (0, 0), (0.45, 0.05), (0.6, 0.25), (0.45, 0.47), (0, 0.5)],
        [(0.3, 0.5), (0.62, 1)],
    ],
}
