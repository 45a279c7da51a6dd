"""One arm as a table of bones, seen through seven windows: what a phantom radiograph shows.

Lengths are centimetres of a right arm that hangs with the palm to the front, seen from the front:
x grows towards the body, y downwards, depth to the front. A bone is its two outlines about a
straight axis.
"""

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]
Rows = tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Shape:
    """Outlines: rows of (share of the length, left edge, right edge), edges in half-widths."""

    front: Rows
    side: Rows = ()  # seen from the side; empty: as from the front
    caps: Point = (0.5, 0.5)  # how round head and tail are: 0 cut off, 1 a half circle


def _even(*rows: Point) -> Rows:
    return tuple((s, -half, half) for s, half in rows)


SHAPES: Mapping[str, Shape] = {
    "humerus": Shape(
        ((0, -0.9, 2.3), (0.04, -1.7, 2.7), (0.08, -2.0, 2.6), (0.115, -1.6, 1.6),
         (0.17, -1.15, 1.05), (0.3, -1, 0.95), (0.7, -0.95, 0.95), (0.82, -1.3, 1.3),
         (0.9, -1.9, 2.1), (0.935, -2.3, 2.9), (0.96, -2.2, 2.2), (1, -1.9, 2.0)),
        ((0, -2.0, 1.4), (0.05, -2.3, 1.8), (0.1, -1.7, 1.5), (0.17, -1.05, 1.05),
         (0.7, -0.85, 0.85), (0.88, -0.7, 0.7), (0.94, -0.8, 1.1), (0.98, -0.8, 1.3),
         (1, -0.6, 1.1)), caps=(1.25, 0.35)),
    "radius": Shape(
        ((0, -1.45, 1.45), (0.03, -1.45, 1.45), (0.055, -0.95, 0.95), (0.1, -0.9, 1.35),
         (0.16, -0.9, 0.9), (0.75, -1, 1), (0.87, -1.5, 1.4), (0.94, -2.1, 1.9),
         (0.98, -2.25, 2.0), (1, -2.2, 1.7)),
        _even((0, 1.4), (0.03, 1.4), (0.055, 0.95), (0.75, 0.95), (0.9, 1.25), (0.97, 1.5),
              (1, 1.3)), caps=(0.2, 0.3)),
    "ulna": Shape(  # from the side the notch that holds the humerus
        ((0, -1.4, 1.4), (0.05, -1.6, 1.6), (0.1, -1.7, 1.6), (0.16, -1.15, 1.1), (0.3, -1, 1),
         (0.6, -0.85, 0.85), (0.85, -0.7, 0.7), (0.95, -0.9, 0.9), (0.975, -1.15, 1.15),
         (1, -1, 1)),
        ((0, -1.4, 1.2), (0.03, -1.6, 1.7), (0.06, -1.6, -0.1), (0.09, -1.5, 0),
         (0.115, -1.3, 2.0), (0.15, -1.2, 1.3), (0.3, -1, 1), (0.85, -0.7, 0.7), (0.96, -1, 1),
         (1, -0.9, 0.9)), caps=(0.6, 0.6)),
    "metacarpal": Shape(
        _even((0, 1.35), (0.12, 1.25), (0.3, 0.85), (0.5, 0.75), (0.7, 0.85), (0.88, 1.25),
              (1, 1.2)), caps=(0.25, 0.9)),
    "phalanx": Shape(
        _even((0, 1.35), (0.12, 1.2), (0.4, 0.78), (0.7, 0.72), (0.88, 1.0), (1, 0.95)),
        caps=(0.25, 0.5)),
    "tip": Shape(
        _even((0, 1.3), (0.15, 1.05), (0.5, 0.55), (0.78, 0.55), (0.9, 0.85), (1, 0.7)),
        caps=(0.25, 0.8)),
    "carpal": Shape(_even((0, 0.9), (0.5, 1), (1, 0.85)), caps=(0.75, 0.75)),
    "socket": Shape(_even((0, 1), (0.25, 0.75), (0.5, 0.6), (1, 0.7)), caps=(0.15, 0.9)),
    "bar": Shape(_even((0, 1), (0.2, 0.8), (0.8, 0.85), (1, 1.1)), caps=(0.9, 0.9)),
    "blade": Shape(
        ((0, -0.3, 0.9), (0.15, -0.45, 1), (0.5, -0.3, 0.8), (0.85, -0.25, 0.45), (1, -0.2, 0.25)),
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
    plates: tuple[float, ...] = ()  # shares of the length with a growth plate in the young


# name, where its metacarpal begins, degrees from straight down, lengths, half-width, flex
_FINGERS: tuple[tuple[str, Point, float, tuple[float, ...], float, float], ...] = (
    ("thumb", (-2.0, 60.5), 33, (4.4, 3.0, 2.3), 0.52, 6),
    ("index", (-0.6, 60.9), 10, (6.5, 4.0, 2.4, 1.8), 0.46, 5),
    ("middle", (0.7, 61.1), 1, (6.4, 4.4, 2.8, 1.9), 0.48, 10),
    ("ring", (1.75, 61.0), -9, (5.7, 4.1, 2.6, 1.9), 0.44, 16),
    ("little", (2.7, 60.7), -19, (5.2, 3.2, 1.9, 1.7), 0.40, 22),
)
_CARPALS: tuple[tuple[str, Point, Point, float], ...] = (
    ("scaphoid", (0.1, 57.4), (-1.5, 59.3), 0.8),
    ("lunate", (1.0, 57.2), (1.0, 58.8), 0.86),
    ("triquetrum", (2.1, 57.6), (2.6, 59.1), 0.72),
    ("pisiform", (2.5, 58.1), (2.6, 59.3), 0.5),
    ("trapezium", (-1.7, 59.1), (-1.8, 60.5), 0.82),
    ("trapezoid", (-0.5, 59.4), (-0.5, 60.8), 0.66),
    ("hamate", (2.0, 58.9), (2.2, 60.9), 0.82),
)


def _fingers() -> Iterator[Bone]:
    """Chains from the wrist outwards: index0 is a metacarpal, index1 to index3 are phalanges."""
    for finger, start, direction, lengths, half, flex in _FINGERS:
        parent, head, thumb = "capitate", start, finger == "thumb"
        x, y = -math.sin(math.radians(direction)), math.cos(math.radians(direction))
        forward = 0.8 if thumb else 0.0
        for i, length in enumerate(lengths):
            name = f"{finger}{i + (thumb and i == 2)}"  # the thumb lacks the middle phalanx
            tail = (head[0] + x * length, head[1] + y * length)
            yield Bone(
                name, head, tail, half * (1, 1.02, 0.9, 0.82)[i],
                "metacarpal" if i == 0 else "tip" if i == len(lengths) - 1 else "phalanx",
                parent, (1.45, 1.3) if i == 0 else (1.04 - 0.08 * i, 0.96 - 0.09 * i),
                (forward * (i + 1), forward * (i + 2)), flex=flex * (i + 1) ** 0.5,
                plates=(0.88,) if i == 0 and not thumb else (0.13,),
            )  # fmt: skip
            gap = 0.16 if i else 0.2
            parent, head = name, (tail[0] + x * gap, tail[1] + y * gap)


def _ribs() -> Iterator[Bone]:
    for i in range(7):
        y, side = -1.0 + 2.7 * i, 6.6 - 0.25 * i
        back, front = f"rib{i}", f"front{i}"
        yield Bone(back, (19, y - 2.5), (side, y + 2.2), 0.52, "bar", bow=1.2, dense=0.4)
        yield Bone(front, (side, y + 2.4), (14, y + 6.5), 0.48, "bar", bow=1.0, dense=0.22)


BONES: tuple[Bone, ...] = (  # a bone stands after the one it moves with
    Bone("chest", (14, 1), (13, 30), 0, flesh=(9.0, 9.5), dense=0.4),
    Bone("neck", (8, -3), (18, -10), 0, flesh=(3.2, 5.0)),
    *_ribs(),
    Bone("scapula", (5.2, -0.8), (6.2, 14.5), 4.6, "blade", dense=0.3),
    Bone("glenoid", (3.35, 1.3), (7.0, 2.2), 1.9, "socket", dense=0.4),
    Bone("spine", (10, 1.5), (3.2, -2.2), 0.55, "bar", dense=0.5),
    Bone("acromion", (4.2, -2.1), (-0.9, -2.4), 0.85, "bar", dense=0.55),
    Bone("coracoid", (4.6, -0.6), (2.7, 0.9), 0.65, "bar", dense=0.5, depth=(0.5, 2.5)),
    Bone("clavicle", (17, -2.6), (1.6, -3.3), 0.62, "bar", flesh=(1.8, 1.6), depth=(3, 0.5),
         bow=-0.6),
    Bone("humerus", (0, -0.6), (0.6, 31.4), 1.15, "humerus", flesh=(4.6, 3.9), plates=(0.1,)),
    Bone("ulna", (1.5, 29.9), (2.5, 56.7), 0.68, "ulna", "humerus", (3.6, 2.1), (-0.9, 0),
         bow=0.2, flex=78, pivot=(0.6, 31.2), plates=(0.95,)),
    Bone("radius", (-0.55, 31.9), (-0.1, 57.2), 0.74, "radius", "ulna", (3.6, 2.3), (0.2, 0),
         bow=-0.5, plates=(0.93,)),
    Bone("capitate", (0.7, 58.6), (0.7, 61.0), 0.76, "carpal", "radius", (2.8, 2.6),
         pivot=(0.8, 57.2)),
    *(Bone(name, head, tail, half, "carpal", "capitate", (2.0, 1.9), dense=0.8)
      for name, head, tail, half in _CARPALS),
    *_fingers(),
)  # fmt: skip
BY_NAME: Mapping[str, Bone] = {bone.name: bone for bone in BONES}


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


def _each(names: str, start: float, stop: float) -> tuple[Site, ...]:
    return tuple(Site(name, start, stop) for name in names.split())


WINDOWS: Mapping[str, Window] = {
    "XR_ELBOW": Window("humerus", (0.8, 31.5), 21, (0.6, 1.15), (
        Site("humerus", 0.8, 0.9), Site("radius", 0.05, 0.17), Site("ulna", 0.12, 0.25))),
    "XR_FINGER": Window("", (0, 0), 11.5, (0.45, 0.75), (
        *_each("index1 middle1 ring1 little1 thumb1", 0.25, 0.75),
        *_each("index2 middle2 ring2 little2", 0.3, 0.7)), 180, views=(0, 80, 40)),
    "XR_FOREARM": Window("ulna", (1.2, 44), 33, (0.42, 0.7), _each("radius ulna", 0.3, 0.85)),
    "XR_HAND": Window("radius", (0.2, 66.3), 23.5, (0.7, 0.95), (
        *_each("index0 middle0 ring0 little0 thumb0", 0.25, 0.8),
        *_each("index1 middle1 ring1 little1", 0.25, 0.75)), 180, views=(0, 40, 75)),
    "XR_HUMERUS": Window("humerus", (0.8, 15.5), 38, (0.42, 0.7), _each("humerus", 0.15, 0.8),
                         trunk=True, views=(0, 70, 35)),
    "XR_SHOULDER": Window("humerus", (3.2, 3.6), 22, (0.9, 1.3), (
        *_each("humerus humerus", 0.1, 0.24), Site("clavicle", 0.55, 0.88)),
        trunk=True, views=(0, 25, -25)),
    "XR_WRIST": Window("radius", (0.8, 57.6), 15.5, (0.55, 0.85), (
        *_each("radius radius radius", 0.82, 0.94), Site("ulna", 0.84, 0.93),
        Site("scaphoid", 0.4, 0.6)), 180),
}  # fmt: skip
AREAS: tuple[str, ...] = tuple(WINDOWS)


Floats = NDArray[np.float32]
Rng = np.random.Generator
Matrix = NDArray[np.float64]  # 3x3: turns, scales, mirrors and shifts points of the plane
Size = tuple[int, int]  # width and height, pixels
SAMPLES = 512  # steps along a bone's axis; a long bone has about as many pixels


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

    @property
    def widest(self) -> float:
        return float(self.half.max())

    def breadth(self, share: float) -> tuple[float, float]:
        """Middle and half-width at a share of the length."""
        i = int(share * (SAMPLES - 1))
        return float(self.middle[i]), float(self.half[i])

    def points(self, s: Any, v: Any) -> Floats:
        """(N, 2) points, `s` pixels along the axis and `v` to its right."""
        s, v = np.atleast_1d(s)[:, None], np.atleast_1d(v)[:, None]
        return np.asarray(self.head + s * self.along + v * self.across, np.float32)

    def point(self, s: float, v: float) -> Floats:
        return self.points(s, v).reshape(2)

    def moved(self, matrix: Matrix) -> "Placed":
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
    bones: Mapping[str, Placed]
    site: str  # the bone the study looks at
    share: float  # and where on it, as share of its length
    side: int  # 1 as in the tables, -1 mirrored
    young: bool  # growth plates are open
    fat: float  # factor on the flesh

    @property
    def broken(self) -> Placed:
        return self.bones[self.site]

    @property
    def point(self) -> Floats:
        """The site in the image."""
        bone = self.broken
        return bone.point(self.share * bone.length, bone.breadth(self.share)[0])


def pose(area: str, size: int, view: int, body: Rng, exam: Rng, shot: Rng) -> Scene:
    """The patient (drawn from `body`) in one view (`shot`) of a study (`exam`).

    The anchor stands upright, then all is turned, mirrored and shifted. Normal studies look at a
    site too: framing must not tell the label.
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
    turn = turning(window.turn + tilt, np.zeros(2, np.float32))
    steps = (np.diag([side * scale, scale, 1]), turn, _moving(-x, -y), np.linalg.inv(upright))
    to_pixels = _moving(*centre)
    for step in steps:
        to_pixels = to_pixels @ step

    def put(bone: Bone) -> Placed:
        return _place(bone, to_pixels @ matrices[bone.name], angle, scale * stout)

    scene = Scene((width, height), scale, angle, {site.bone: put(BY_NAME[site.bone])}, site.bone,
                  share, side, young, fat)  # fmt: skip
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
    """Whether `bone` hangs on `leader`, and so moves with its far fragment."""
    return bool(bone.parent) and (bone.parent == leader or follows(BY_NAME[bone.parent], leader))


def turning(degrees: float, pivot: Floats, shift: Floats | None = None) -> Matrix:
    """A turn about `pivot`, then a shift."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = pivot.tolist()
    dx, dy = (0.0, 0.0) if shift is None else shift.tolist()
    return np.array(
        [[cos, -sin, x - cos * x + sin * y + dx], [sin, cos, y - sin * x - cos * y + dy], [0, 0, 1]]
    )


def _moving(x: float, y: float) -> Matrix:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], float)


def _project(point: Point, depth: float, angle: float) -> Floats:
    return np.array([point[0] * math.cos(angle) + depth * math.sin(angle), point[1]], np.float32)


def _bend(angle: float, bends: NDArray[np.float64]) -> dict[str, Matrix]:
    """Each bone's matrix in centimetres; `bends` are degrees, on top of a side view's flex."""
    matrices = {"": np.eye(3)}
    for bone, bend in zip(BONES, bends.tolist(), strict=True):
        pivot = _project(bone.pivot or bone.head, 0 if bone.pivot else bone.depth[0], angle)
        own = turning(bend - bone.flex * math.sin(angle) ** 2, pivot)
        matrices[bone.name] = matrices[bone.parent] @ own
    return matrices


def _is_shown(bone: Bone, window: Window, site: Site, angle: float) -> bool:
    if not (bone.parent or bone.name == "humerus" or window.trunk):
        return False
    # from the side the fingers that are not meant are folded away
    folded = not window.anchor and abs(math.sin(angle)) > 0.5 and bone.name[-1].isdigit()
    return not folded or bone.name[:-1] == site.bone[:-1]


def _is_near(bone: Bone, matrix: Matrix, angle: float, scale: float, size: Size) -> bool:
    """Whether any of a bone or its flesh may lie in the frame."""
    reach = 1.4 * scale * max(3 * bone.half + abs(bone.bow), *bone.flesh)
    ends = np.array(_ends(bone, matrix, angle))
    return bool(np.all(ends.max(0) > -reach) and np.all(ends.min(0) < np.array(size) + reach))


def _ends(bone: Bone, matrix: Matrix, angle: float) -> tuple[Floats, Floats]:
    flat = (
        _project(xy, z, angle) for xy, z in zip((bone.head, bone.tail), bone.depth, strict=True)
    )
    head, tail = ((matrix[:2, :2] @ end + matrix[:2, 2]).astype(np.float32) for end in flat)
    return head, tail


@functools.cache
def _outline(shape: str) -> Floats:
    """(4, SAMPLES): middle and half-width from the front, then from the side, without caps."""
    s, kernel = np.linspace(0, 1, SAMPLES), np.hanning(25) / np.hanning(25).sum()
    lines = []
    for table in (SHAPES[shape].front, SHAPES[shape].side or SHAPES[shape].front):
        rows = np.array(table)
        raw = (np.interp(s, rows[:, 0], rows[:, i]) for i in (1, 2))
        # rounds the table's corners
        left, right = (np.convolve(np.pad(e, 12, mode="edge"), kernel, "valid") for e in raw)
        lines += [(left + right) / 2, (right - left) / 2]
    return np.array(lines, np.float32)


def _place(bone: Bone, matrix: Matrix, angle: float, scale: float) -> Placed:
    """`bone` seen from `angle`, brought to pixels by `matrix`; `scale` is pixels across a cm."""
    cos, sin = math.cos(angle), math.sin(angle)
    head, tail = _ends(bone, matrix, angle)
    length = max(float(np.hypot(*(tail - head))), 1.0)
    along = (tail - head) / np.float32(length)
    mirrored = np.float32(np.sign(np.linalg.det(matrix[:2, :2])))
    across = np.array([along[1], -along[0]], np.float32) * mirrored
    s = np.linspace(0, 1, SAMPLES, dtype=np.float32)
    if not bone.shape:
        return Placed(bone, head, tail, along, across, length, s * 0, s * 0, s * 0)
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
    return Placed(bone, head, tail, along, across, length, *floats)
