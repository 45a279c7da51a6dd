"""One arm as a table of bones, seen through seven windows: what a phantom radiograph shows, and where.

Lengths are centimetres of a right arm that hangs with the palm to the front, seen from the front: x grows
towards the body, y downwards, depth to the front. A bone is its two outlines about a straight axis.
"""

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Point = tuple[float, float]
Rows = tuple[tuple[float, float, float], ...]
SAMPLES = 512  # steps along a bone's axis


@dataclass(frozen=True)
class Shape:
    """Outlines of a bone: rows of (share of the length, left edge, right edge), edges in half-widths."""

    front: Rows
    side: Rows = ()  # seen from the side; empty: as from the front
    caps: Point = (0.5, 0.5)  # how round head and tail are: 0 cut off, 1 a half circle


def _even(*rows: Point) -> Rows:
    return tuple((s, -half, half) for s, half in rows)


SHAPES: Mapping[str, Shape] = {
    "humerus": Shape(
        ((0, -0.9, 2.3), (0.04, -1.7, 2.7), (0.08, -2.0, 2.6), (0.115, -1.6, 1.6), (0.17, -1.15, 1.05),
         (0.3, -1, 0.95), (0.7, -0.95, 0.95), (0.82, -1.3, 1.3), (0.9, -1.9, 2.1), (0.935, -2.3, 2.9),
         (0.96, -2.2, 2.2), (1, -1.9, 2.0)),
        ((0, -2.0, 1.4), (0.05, -2.3, 1.8), (0.1, -1.7, 1.5), (0.17, -1.05, 1.05), (0.7, -0.85, 0.85),
         (0.88, -0.7, 0.7), (0.94, -0.8, 1.1), (0.98, -0.8, 1.3), (1, -0.6, 1.1)), caps=(1.25, 0.35)),
    "radius": Shape(
        ((0, -1.45, 1.45), (0.03, -1.45, 1.45), (0.055, -0.95, 0.95), (0.1, -0.9, 1.35), (0.16, -0.9, 0.9),
         (0.75, -1, 1), (0.87, -1.5, 1.4), (0.94, -2.1, 1.9), (0.98, -2.25, 2.0), (1, -2.2, 1.7)),
        _even((0, 1.4), (0.03, 1.4), (0.055, 0.95), (0.75, 0.95), (0.9, 1.25), (0.97, 1.5), (1, 1.3)),
        caps=(0.2, 0.3)),
    "ulna": Shape(
        ((0, -1.4, 1.4), (0.05, -1.6, 1.6), (0.1, -1.7, 1.6), (0.16, -1.15, 1.1), (0.3, -1, 1),
         (0.6, -0.85, 0.85), (0.85, -0.7, 0.7), (0.95, -0.9, 0.9), (0.975, -1.15, 1.15), (1, -1, 1)),
        ((0, -1.4, 1.2), (0.03, -1.6, 1.7), (0.06, -1.6, -0.1), (0.09, -1.5, 0), (0.115, -1.3, 2.0),
         (0.15, -1.2, 1.3), (0.3, -1, 1), (0.85, -0.7, 0.7), (0.96, -1, 1), (1, -0.9, 0.9)), caps=(0.6, 0.6)),
    "long": Shape(_even((0, 1.35), (0.12, 1.25), (0.3, 0.85), (0.5, 0.75), (0.7, 0.85), (0.88, 1.25), (1, 1.2)),
                  caps=(0.25, 0.9)),
    "phalanx": Shape(_even((0, 1.35), (0.12, 1.2), (0.4, 0.78), (0.7, 0.72), (0.88, 1.0), (1, 0.95)),
                     caps=(0.25, 0.5)),
    "tuft": Shape(_even((0, 1.3), (0.15, 1.05), (0.5, 0.55), (0.78, 0.55), (0.9, 0.85), (1, 0.7)), caps=(0.25, 0.8)),
    "carpal": Shape(_even((0, 0.9), (0.5, 1), (1, 0.85)), caps=(0.75, 0.75)),
    "socket": Shape(_even((0, 1), (0.25, 0.75), (0.5, 0.6), (1, 0.7)), caps=(0.15, 0.9)),
    "bar": Shape(_even((0, 1), (0.2, 0.8), (0.8, 0.85), (1, 1.1)), caps=(0.9, 0.9)),
    "blade": Shape(((0, -0.3, 0.9), (0.15, -0.45, 1), (0.5, -0.3, 0.8), (0.85, -0.25, 0.45), (1, -0.2, 0.25)),
                   _even((0, 0.15), (1, 0.1)), caps=(0.15, 0.5)),
}  # fmt: skip


@dataclass(frozen=True)
class Bone:
    name: str
    head: Point
    tail: Point
    half: float  # half-width where an outline reads 1
    shape: str = ""  # empty: flesh without bone
    parent: str = ""  # the bone it moves with; empty: the trunk
    flesh: Point = (0.0, 0.0)  # radius of the soft tissue at head and tail
    depth: Point = (0.0, 0.0)  # of head and tail
    bow: float = 0.0  # how far the middle lies to the right of the axis
    dense: float = 1.0
    flex: float = 0.0  # degrees bent to the front in a view from the side
    pivot: Point | None = None  # where it turns; its head if None
    plates: tuple[
        float, ...
    ] = ()  # where a growing bone has its growth plates, as share of the length


# name, where its metacarpal begins, direction in degrees from straight down, lengths, half-width, bend
_FINGERS: tuple[tuple[str, Point, float, tuple[float, ...], float, float], ...] = (
    ("thumb", (-2.0, 60.5), 33, (4.4, 3.0, 2.3), 0.52, 6),
    ("index", (-0.6, 60.9), 10, (6.5, 4.0, 2.4, 1.8), 0.46, 5),
    ("middle", (0.7, 61.1), 1, (6.4, 4.4, 2.8, 1.9), 0.48, 10),
    ("ring", (1.75, 61.0), -9, (5.7, 4.1, 2.6, 1.9), 0.44, 16),
    ("little", (2.7, 60.7), -19, (5.2, 3.2, 1.9, 1.7), 0.40, 22),
)
_CARPALS: tuple[tuple[str, Point, Point, float], ...] = (
    ("scaphoid", (0.1, 57.4), (-1.5, 59.3), 0.8), ("lunate", (1.0, 57.2), (1.0, 58.8), 0.86),
    ("triquetrum", (2.1, 57.6), (2.6, 59.1), 0.72), ("pisiform", (2.5, 58.1), (2.6, 59.3), 0.5),
    ("trapezium", (-1.7, 59.1), (-1.8, 60.5), 0.82), ("trapezoid", (-0.5, 59.4), (-0.5, 60.8), 0.66),
    ("capitate", (0.7, 58.6), (0.7, 61.0), 0.76), ("hamate", (2.0, 58.9), (2.2, 60.9), 0.82),
)  # fmt: skip


def _fingers() -> Iterator[Bone]:
    for finger, start, direction, lengths, half, flex in _FINGERS:
        parent, head, bones = "capitate", start, len(lengths)
        along = (-math.sin(math.radians(direction)), math.cos(math.radians(direction)))
        depth = 0.8 if finger == "thumb" else 0.0
        for i, length in enumerate(lengths):
            name = f"{finger}{i if bones == 4 else i + (i > 1)}"  # the thumb has no middle phalanx
            tail = (head[0] + along[0] * length, head[1] + along[1] * length)
            shape, last = ("long" if i == 0 else "phalanx"), i == bones - 1
            flesh = (1.45, 1.3) if i == 0 else (1.04 - 0.08 * i, 0.96 - 0.09 * i)
            width = half * (1, 1.02, 0.9, 0.82)[i]
            yield Bone(name, head, tail, width, "tuft" if last else shape, parent, flesh,
                       (depth * (i + 1), depth * (i + 2)), flex=flex * (i + 1) ** 0.5,
                       plates=(0.88,) if i == 0 and bones == 4 else (0.13,))  # fmt: skip
            gap = 0.16 if i else 0.2
            parent, head = name, (tail[0] + along[0] * gap, tail[1] + along[1] * gap)


def _ribs() -> Iterator[Bone]:
    for i in range(7):
        y = -1.0 + 2.7 * i
        yield Bone(
            f"rib{i}", (19, y - 2.5), (6.6 - 0.25 * i, y + 2.2), 0.52, "bar", bow=1.2, dense=0.4
        )
        yield Bone(
            f"front{i}", (6.6 - 0.25 * i, y + 2.4), (14, y + 6.5), 0.48, "bar", bow=1.0, dense=0.22
        )


BONES: tuple[Bone, ...] = (  # a bone stands after the one it moves with
    Bone("chest", (14, 1), (13, 30), 0, flesh=(9.0, 9.5), dense=0.4),
    Bone("neck", (8, -3), (18, -10), 0, flesh=(3.2, 5.0)),
    *_ribs(),
    Bone("scapula", (5.2, -0.8), (6.2, 14.5), 4.6, "blade", dense=0.3),
    Bone("glenoid", (3.35, 1.3), (7.0, 2.2), 1.9, "socket", dense=0.4),
    Bone("spine", (10, 1.5), (3.2, -2.2), 0.55, "bar", dense=0.5),
    Bone("acromion", (4.2, -2.1), (-0.9, -2.4), 0.85, "bar", dense=0.55),
    Bone("coracoid", (4.6, -0.6), (2.7, 0.9), 0.65, "bar", dense=0.5, depth=(0.5, 2.5)),
    Bone("clavicle", (17, -2.6), (1.6, -3.3), 0.62, "bar", bow=-0.6, flesh=(1.8, 1.6), depth=(3, 0.5)),
    Bone("humerus", (0, -0.6), (0.6, 31.4), 1.15, "humerus", flesh=(4.6, 3.9), plates=(0.1,)),
    Bone("ulna", (1.5, 29.9), (2.5, 56.7), 0.68, "ulna", "humerus", (3.6, 2.1), (-0.9, 0), 0.2,
         flex=78, pivot=(0.6, 31.2), plates=(0.95,)),
    Bone("radius", (-0.55, 31.9), (-0.1, 57.2), 0.74, "radius", "ulna", (3.6, 2.3), (0.2, 0), -0.5, plates=(0.93,)),
    Bone("capitate", (0.7, 58.6), (0.7, 61.0), 0.76, "carpal", "radius", (2.8, 2.6), pivot=(0.8, 57.2)),
    *(Bone(name, head, tail, half, "carpal", "capitate", (2.0, 1.9), dense=0.8)
      for name, head, tail, half in _CARPALS if name != "capitate"),
    *_fingers(),
)  # fmt: skip


@dataclass(frozen=True)
class Site:
    """Where a study looks, and where a lesion would be: a stretch of one bone."""

    bone: str
    start: float
    stop: float


@dataclass(frozen=True)
class Window:
    anchor: str  # the bone that stays upright; empty: the one the study looks at
    focus: Point
    span: float  # centimetres along the longer side
    aspect: Point  # width / height, least and most
    sites: tuple[Site, ...]
    turn: float = 0.0  # degrees; hands are shown with the fingers up
    trunk: bool = False  # whether chest and shoulder blade are in the beam
    views: tuple[float, ...] = (0, 88, 45)  # degrees about the arm's axis: front, side, oblique


def _each(bones: tuple[str, ...], start: float, stop: float) -> tuple[Site, ...]:
    return tuple(Site(bone, start, stop) for bone in bones)


_LONG = ("index", "middle", "ring", "little")
WINDOWS: Mapping[str, Window] = {
    "XR_ELBOW": Window("humerus", (0.8, 31.5), 21, (0.6, 1.15),
                       (Site("humerus", 0.8, 0.9), Site("radius", 0.05, 0.17), Site("ulna", 0.12, 0.25))),
    "XR_FINGER": Window("", (0, 0.5), 11.5, (0.45, 0.75),
                        (*_each(tuple(f"{f}1" for f in (*_LONG, "thumb")), 0.25, 0.75),
                         *_each(tuple(f"{f}2" for f in _LONG), 0.3, 0.7)), 180, (0, 80, 40)),
    "XR_FOREARM": Window("ulna", (1.2, 44), 33, (0.42, 0.7),
                         (Site("radius", 0.3, 0.85), Site("ulna", 0.3, 0.85))),
    "XR_HAND": Window("radius", (0.2, 66.3), 23.5, (0.7, 0.95),
                      (*_each(tuple(f"{f}0" for f in (*_LONG, "thumb")), 0.25, 0.8),
                       *_each(tuple(f"{f}1" for f in _LONG), 0.25, 0.75)), 180, (0, 40, 75)),
    "XR_HUMERUS": Window("humerus", (0.8, 15.5), 38, (0.42, 0.7), (Site("humerus", 0.15, 0.8),), trunk=True, views=(0, 70, 35)),
    "XR_SHOULDER": Window("humerus", (3.2, 3.6), 22, (0.9, 1.3),
                          (*_each(("humerus",) * 2, 0.1, 0.24), Site("clavicle", 0.55, 0.88)), trunk=True, views=(0, 25, -25)),
    "XR_WRIST": Window("radius", (0.8, 57.6), 15.5, (0.55, 0.85),
                       (*_each(("radius",) * 3, 0.82, 0.94), Site("ulna", 0.84, 0.93), Site("scaphoid", 0.4, 0.6)), 180),
}  # fmt: skip
AREAS: tuple[str, ...] = tuple(WINDOWS)


@functools.cache
def _outline(shape: str, side: bool) -> tuple[Floats, Floats]:
    """Middle line and half-width along the axis, in half-widths, without caps."""
    rows = np.array(SHAPES[shape].side if side and SHAPES[shape].side else SHAPES[shape].front)
    s = np.linspace(0, 1, SAMPLES)
    left, right = (np.interp(s, rows[:, 0], rows[:, i]) for i in (1, 2))
    kernel = np.hanning(25) / np.hanning(25).sum()  # rounds the table's corners
    left, right = (
        np.convolve(np.pad(edge, 12, mode="edge"), kernel, "valid") for edge in (left, right)
    )
    return ((left + right) / 2).astype(np.float32), ((right - left) / 2).astype(np.float32)


@dataclass(frozen=True)
class Placed:
    """A bone in one view, in pixels; `middle`, `half` and `thick` run along its axis."""

    bone: Bone
    head: Floats
    tail: Floats
    along: Floats  # unit vector from head to tail
    across: Floats  # unit vector to the outline's right
    length: float
    middle: Floats  # of the outline, to the right of the axis
    half: Floats  # half-width across the view
    thick: Floats  # half-thickness along the beam / half-width

    def at(self, s: float, v: float = 0.0) -> Floats:
        """The point at `s` of the length, `v` half-widths to the right of the middle."""
        i = min(max(int(s * SAMPLES), 0), SAMPLES - 1)
        beside = float(self.middle[i] + v * self.half[i])
        return (
            self.head + self.along * np.float32(s * self.length) + self.across * np.float32(beside)
        )

    def moved(self, matrix: Floats) -> "Placed":
        turn = matrix[:, :2]
        head, tail = (turn @ end + matrix[:, 2] for end in (self.head, self.tail))
        return replace(
            self, head=head, tail=tail, along=turn @ self.along, across=turn @ self.across
        )


def ends(bone: Bone, matrix: Floats, angle: float) -> tuple[Floats, Floats]:
    """Head and tail, seen from `angle` radians about the arm's axis, in pixels by the 2x3 `matrix`."""
    at = (_project(xy, z, angle) for xy, z in zip((bone.head, bone.tail), bone.depth, strict=True))
    head, tail = (matrix[:, :2] @ end + matrix[:, 2] for end in at)
    return head, tail


def place(bone: Bone, matrix: Floats, angle: float, scale: float) -> Placed:
    """`bone` seen from `angle` radians about the arm's axis, brought to pixels by the 2x3 `matrix`.

    `scale` is the pixels of one centimetre across the bone.
    """
    cos, sin = math.cos(angle), math.sin(angle)
    head, tail = ends(bone, matrix, angle)
    length = max(float(np.hypot(*(tail - head))), 1.0)
    along = (tail - head) / np.float32(length)
    mirrored = np.sign(np.linalg.det(matrix[:, :2]))
    across = (np.array([along[1], -along[0]]) * mirrored).astype(np.float32)
    s = np.linspace(0, 1, SAMPLES, dtype=np.float32)
    if not bone.shape:
        return Placed(bone, head, tail, along, across, length, s * 0, s * 0, s * 0)
    (middle, half), (middle_side, half_side) = (
        _outline(bone.shape, side) for side in (False, True)
    )
    seen, deep = np.hypot(half * cos, half_side * sin), np.hypot(half * sin, half_side * cos)
    cap = np.ones_like(s)
    for end, distance, round_ in zip((0, -1), (s, 1 - s), SHAPES[bone.shape].caps, strict=True):
        reach = min(max(round_ * float(seen[end]) * bone.half * scale / length, 0.01), 0.5)
        cap *= np.sqrt(np.clip(1 - np.clip(1 - distance / reach, 0, 1) ** 2, 0, 1))
    bow = bone.bow * cos * 4 * s * (1 - s)
    middle_seen = ((middle * cos + middle_side * sin) * bone.half + bow) * scale
    return Placed(bone, head, tail, along, across, length, middle_seen.astype(np.float32),
                  (seen * cap * bone.half * scale).astype(np.float32), (deep / seen).astype(np.float32))  # fmt: skip


def _project(point: Point, depth: float, angle: float) -> Floats:
    return np.array([point[0] * math.cos(angle) + depth * math.sin(angle), point[1]], np.float32)


def turning(degrees: float, pivot: Floats, shift: Floats | None = None) -> Floats:
    """The 2x3 matrix of a turn about `pivot`, then a shift."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.array([[cos, -sin], [sin, cos]])
    offset = pivot - turn @ pivot + (0 if shift is None else shift)
    return np.column_stack([turn, offset]).astype(np.float32)


def chain(outer: Floats, inner: Floats) -> Floats:
    """First `inner`, then `outer`."""
    turn = outer[:, :2]
    return np.column_stack([turn @ inner[:, :2], turn @ inner[:, 2] + outer[:, 2]])


def pose(angle: float, bends: Floats) -> dict[str, Floats]:
    """The 2x3 matrix, in centimetres, that each joint's bend gives each bone seen from `angle`.

    `bends` are degrees per bone of BONES, on top of the bend that a view from the side has.
    """
    matrices: dict[str, Floats] = {"": turning(0, np.zeros(2, np.float32))}
    for bone, bend in zip(BONES, bends.tolist(), strict=True):
        pivot = _project(bone.pivot or bone.head, 0 if bone.pivot else bone.depth[0], angle)
        own = turning(bend - bone.flex * math.sin(angle) ** 2, pivot)
        matrices[bone.name] = chain(matrices[bone.parent], own)
    return matrices


def follows(bone: Bone, leader: str) -> bool:
    """Whether `bone` hangs on `leader` and so moves with its far fragment."""
    return bool(bone.parent) and (bone.parent == leader or follows(BY_NAME[bone.parent], leader))


BY_NAME: Mapping[str, Bone] = {bone.name: bone for bone in BONES}
