"""The arm in one view: which bones lie in the image, and where they lie in pixels."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mura_tune.phantoms.anatomy import BONES, BY_NAME, SHAPES, WINDOWS, Bone, Point2d, Site, Window

Floats = NDArray[np.float32]
Rng = np.random.Generator
Matrix = NDArray[np.float64]  # 3x3: turns, scales, mirrors and shifts points of the plane
Size = tuple[int, int]  # width and height, pixels
SAMPLES = 512  # steps along a bone's axis; a long bone has about as many pixels


@dataclass(frozen=True)
class PlacedBone:
    """A bone in one view. Lengths are in pixels, points are (x, y).

    `middle`, `half` and `thick` have one value for each of `SAMPLES` steps along the axis.
    """

    bone: Bone
    head: Floats
    tail: Floats
    along: Floats  # unit vector from head to tail
    across: Floats  # unit vector to the outline's right
    length: float
    middle: Floats  # of the outline, to the right of the axis
    half: Floats  # half-width across the view
    thick: Floats  # half-thickness along the beam / half-width

    @property
    def widest(self) -> float:
        return float(self.half.max())

    def breadth(self, share: float) -> tuple[float, float]:
        """Return the outline's middle and half-width, pixels, at a share of the length."""
        i = int(share * (SAMPLES - 1))
        return float(self.middle[i]), float(self.half[i])

    def points(self, s: Any, v: Any) -> Floats:
        """Return the points (N, 2) that lie `s` pixels along the axis and `v` to its right."""
        s, v = np.atleast_1d(s)[:, None], np.atleast_1d(v)[:, None]
        return np.asarray(self.head + s * self.along + v * self.across, np.float32)

    def point(self, s: float, v: float) -> Floats:
        """Return the point (2,) that lies `s` pixels along the axis and `v` to its right."""
        return self.points(s, v).reshape(2)

    def moved(self, matrix: Matrix) -> "PlacedBone":
        """Return this bone turned and shifted by `matrix`, which does not scale."""
        turn, shift = matrix[:2, :2].astype(np.float32), matrix[:2, 2].astype(np.float32)
        head, tail = turn @ self.head + shift, turn @ self.tail + shift
        along, across = turn @ self.along, turn @ self.across
        return replace(self, head=head, tail=tail, along=along, across=across)


@dataclass(frozen=True)
class Scene:
    """What one view shows, before any lesion."""

    size: Size
    scale: float  # pixels of a centimetre
    angle: float  # radians about the arm's axis, from the front
    bones: Mapping[str, PlacedBone]
    site: str  # the bone the study looks at
    share: float  # and where on it, as share of its length
    side: int  # 1 as in the tables, -1 mirrored
    young: bool  # growth plates are open
    fat: float  # factor on the flesh

    @property
    def broken(self) -> PlacedBone:
        return self.bones[self.site]

    @property
    def point(self) -> Floats:
        """Return the point (2,) of the image, in pixels, at which the study looks."""
        bone = self.broken
        return bone.point(self.share * bone.length, bone.breadth(self.share)[0])


def pose_scene(area: str, size: int, view: int, body: Rng, exam: Rng, shot: Rng) -> Scene:
    """Place the bones of one patient in one view of one study.

    The anchor bone stands upright; then the whole arm is turned, mirrored and shifted. A normal
    study looks at a site too, so that the framing does not tell the label.

    Args:
        size: of the image's longer side, in pixels.
        view: number of the view in its study, from 1.
        body, exam, shot: random numbers of the patient, of the study and of the view.
    """
    window = WINDOWS[area]
    site = window.sites[int(exam.integers(len(window.sites)))]
    share, order = exam.uniform(site.start, site.stop), exam.random()
    first = int(4 * order * 3) if order < 0.25 else 0  # mostly the front view comes first
    angle = math.radians(window.views[(first + view - 1) % 3] + shot.uniform(-8, 8))
    side, young, fat = (1, -1)[int(body.integers(2))], body.random() < 0.2, body.uniform(0.85, 1.25)
    stout, grown = body.uniform(0.87, 1.13), body.uniform(0.9, 1.1)
    bends = body.normal(0, 2, len(BONES)) + shot.normal(0, 1.2, len(BONES))
    matrices = _bend(angle, bends)

    aspect = shot.uniform(*window.aspect)
    aspect = 1 / aspect if shot.random() < 0.1 else aspect
    width = max(int(size * min(1, aspect)), min(size, 89))  # no MURA image is narrower
    height = max(int(size / max(1, aspect)), min(size, 132))  # or lower
    scale = size / window.span * grown * shot.uniform(0.93, 1.07)
    tilt = shot.normal(0, 7) if shot.random() < 0.85 else shot.uniform(-35, 35)
    anchor, focus = BY_NAME[window.anchor or site.bone], np.array(window.focus)
    if not window.anchor:
        (x0, y0), (x1, y1) = anchor.head, anchor.tail
        focus = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
        tilt += math.degrees(math.atan2((x1 - x0) * math.cos(angle), y1 - y0))
    upright = matrices[anchor.name]
    x, y = _project((focus[0], focus[1]), sum(anchor.depth) / 2, angle).tolist()
    centre = (shot.uniform(0.45, 0.55, 2) * (width, height)).tolist()
    turn = rotation_about(window.turn + tilt, np.zeros(2, np.float32))
    steps = (np.diag([side * scale, scale, 1]), turn, _moving(-x, -y), np.linalg.inv(upright))
    to_pixels = _moving(*centre)
    for step in steps:
        to_pixels = to_pixels @ step

    def put(bone: Bone) -> PlacedBone:
        return _place(bone, to_pixels @ matrices[bone.name], angle, scale * stout)

    scene = Scene(
        (width, height),
        scale,
        angle,
        {site.bone: put(BY_NAME[site.bone])},
        site.bone,
        share,
        side,
        young,
        fat,
    )
    inside = np.array([[0.26], [0.74]]) * scene.size
    to_pixels = _moving(*(np.clip(scene.point, *inside) - scene.point).tolist()) @ to_pixels
    near = (
        bone
        for bone in BONES
        if _is_shown(bone, window, site, angle)
        and _is_near(bone, to_pixels @ matrices[bone.name], angle, scale, scene.size)
    )
    return replace(scene, bones={bone.name: put(bone) for bone in near})


def follows(bone: Bone, leader: str) -> bool:
    """Whether `bone` hangs on `leader`, and so moves with the far fragment of `leader`."""
    return bool(bone.parent) and (bone.parent == leader or follows(BY_NAME[bone.parent], leader))


def rotation_about(degrees: float, pivot: Floats, shift: Floats | None = None) -> Matrix:
    """Return the matrix of a turn about the point `pivot`, followed by a shift (2,)."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = pivot.tolist()
    dx, dy = (0.0, 0.0) if shift is None else shift.tolist()
    return np.array(
        [[cos, -sin, x - cos * x + sin * y + dx], [sin, cos, y - sin * x - cos * y + dy], [0, 0, 1]]
    )


def _moving(x: float, y: float) -> Matrix:
    """Return the matrix of a shift."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], float)


def _project(point: Point2d, depth: float, angle: float) -> Floats:
    """Return the point (2,), centimetres, as it is seen from `angle` radians about the y axis."""
    return np.array([point[0] * math.cos(angle) + depth * math.sin(angle), point[1]], np.float32)


def _bend(angle: float, bends: NDArray[np.float64]) -> dict[str, Matrix]:
    """Return each bone's matrix by its name, in centimetres.

    `bends` are degrees, one for each bone, and are added to the flex of a view from the side.
    """
    matrices = {"": np.eye(3)}
    for bone, bend in zip(BONES, bends.tolist(), strict=True):
        pivot = _project(bone.pivot or bone.head, 0 if bone.pivot else bone.depth[0], angle)
        own = rotation_about(bend - bone.flex * math.sin(angle) ** 2, pivot)
        matrices[bone.name] = matrices[bone.parent] @ own
    return matrices


def _is_shown(bone: Bone, window: Window, site: Site, angle: float) -> bool:
    """Whether a bone may be in the view at all: the trunk and folded fingers may be left out."""
    if not (bone.parent or bone.name == "humerus" or window.trunk):
        return False
    # from the side the fingers that are not meant are folded away
    folded = not window.anchor and abs(math.sin(angle)) > 0.5 and bone.name[-1].isdigit()
    return not folded or bone.name[:-1] == site.bone[:-1]


def _is_near(bone: Bone, matrix: Matrix, angle: float, scale: float, size: Size) -> bool:
    """Whether some of a bone or of its flesh may lie in the image."""
    reach = 1.4 * scale * max(3 * bone.half + abs(bone.bow), *bone.flesh)
    ends = np.array(_ends(bone, matrix, angle))
    return bool(np.all(ends.max(0) > -reach) and np.all(ends.min(0) < np.array(size) + reach))


def _ends(bone: Bone, matrix: Matrix, angle: float) -> tuple[Floats, Floats]:
    """Return a bone's head and tail (2,) as seen from `angle`, after `matrix`."""
    flat = (
        _project(xy, z, angle) for xy, z in zip((bone.head, bone.tail), bone.depth, strict=True)
    )
    head, tail = ((matrix[:2, :2] @ end + matrix[:2, 2]).astype(np.float32) for end in flat)
    return head, tail


@functools.cache
def _outline(shape: str) -> Floats:
    """Return a shape's outlines (4, SAMPLES) in half-widths, without round ends.

    The rows are middle and half-width from the front, then middle and half-width from the side.
    """
    s, kernel = np.linspace(0, 1, SAMPLES), np.hanning(25) / np.hanning(25).sum()
    lines = []
    for table in (SHAPES[shape].front, SHAPES[shape].side or SHAPES[shape].front):
        rows = np.array(table)
        raw = (np.interp(s, rows[:, 0], rows[:, i]) for i in (1, 2))
        # rounds the table's corners
        left, right = (np.convolve(np.pad(e, 12, mode="edge"), kernel, "valid") for e in raw)
        lines += [(left + right) / 2, (right - left) / 2]
    return np.array(lines, np.float32)


def _place(bone: Bone, matrix: Matrix, angle: float, scale: float) -> PlacedBone:
    """Return `bone` as it is seen from `angle`, in radians.

    `matrix` brings centimetres to pixels. `scale` is the pixels of a centimetre across the bone.
    """
    cos, sin = math.cos(angle), math.sin(angle)
    head, tail = _ends(bone, matrix, angle)
    length = max(float(np.hypot(*(tail - head))), 1.0)
    along = (tail - head) / np.float32(length)
    mirrored = np.float32(np.sign(np.linalg.det(matrix[:2, :2])))
    across = np.array([along[1], -along[0]], np.float32) * mirrored
    s = np.linspace(0, 1, SAMPLES, dtype=np.float32)
    if not bone.shape:
        return PlacedBone(bone, head, tail, along, across, length, s * 0, s * 0, s * 0)
    middle, half, middle_side, half_side = _outline(bone.shape)
    seen, deep = np.hypot(half * cos, half_side * sin), np.hypot(half * sin, half_side * cos)
    cap = np.ones_like(s)
    for end, distance, roundness in zip((0, -1), (s, 1 - s), SHAPES[bone.shape].caps, strict=True):
        reach = min(max(roundness * float(seen[end]) * bone.half * scale / length, 0.01), 0.5)
        cap *= np.sqrt(np.clip(1 - np.clip(1 - distance / reach, 0, 1) ** 2, 0, 1))
    bow = bone.bow * cos * 4 * s * (1 - s)
    middle = ((middle * cos + middle_side * sin) * bone.half + bow) * scale
    half = seen * cap * np.float32(bone.half * scale)
    floats = (np.asarray(line, np.float32) for line in (middle, half, deep / seen))
    return PlacedBone(bone, head, tail, along, across, length, *floats)
