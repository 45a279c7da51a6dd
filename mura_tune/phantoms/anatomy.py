"""The bones of one arm, and the window of each area: what a phantom radiograph shows.

Lengths are in centimetres. The tables describe a right arm that hangs down, its palm to the front,
as seen from the front: x grows towards the body, y grows downwards, and depth grows to the front. A
bone has a straight axis and two outlines about it, one seen from the front, one from the side.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

Point2d = tuple[float, float]
OutlineRows = tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Shape:
    """The outlines of a bone.

    A row is (share of the bone's length, left edge, right edge); edges are in half-widths of the
    bone (`Bone.half`) from its axis.
    """

    front: OutlineRows
    side: OutlineRows = ()  # seen from the side; empty: as from the front
    caps: Point2d = (0.5, 0.5)  # how round head and tail are: 0 cut off, 1 a half circle


def _even(*rows: Point2d) -> OutlineRows:
    return tuple((s, -half, half) for s, half in rows)


SHAPES: Mapping[str, Shape] = {
    "humerus": Shape(
        (
            (0, -0.9, 2.3),
            (0.04, -1.7, 2.7),
            (0.08, -2.0, 2.6),
            (0.115, -1.6, 1.6),
            (0.17, -1.15, 1.05),
            (0.3, -1, 0.95),
            (0.7, -0.95, 0.95),
            (0.82, -1.3, 1.3),
            (0.9, -1.9, 2.1),
            (0.935, -2.3, 2.9),
            (0.96, -2.2, 2.2),
            (1, -1.9, 2.0),
        ),
        (
            (0, -2.0, 1.4),
            (0.05, -2.3, 1.8),
            (0.1, -1.7, 1.5),
            (0.17, -1.05, 1.05),
            (0.7, -0.85, 0.85),
            (0.88, -0.7, 0.7),
            (0.94, -0.8, 1.1),
            (0.98, -0.8, 1.3),
            (1, -0.6, 1.1),
        ),
        caps=(1.25, 0.35),
    ),
    "radius": Shape(
        (
            (0, -1.45, 1.45),
            (0.03, -1.45, 1.45),
            (0.055, -0.95, 0.95),
            (0.1, -0.9, 1.35),
            (0.16, -0.9, 0.9),
            (0.75, -1, 1),
            (0.87, -1.5, 1.4),
            (0.94, -2.1, 1.9),
            (0.98, -2.25, 2.0),
            (1, -2.2, 1.7),
        ),
        _even(
            (0, 1.4), (0.03, 1.4), (0.055, 0.95), (0.75, 0.95), (0.9, 1.25), (0.97, 1.5), (1, 1.3)
        ),
        caps=(0.2, 0.3),
    ),
    "ulna": Shape(  # from the side the notch that holds the humerus
        (
            (0, -1.4, 1.4),
            (0.05, -1.6, 1.6),
            (0.1, -1.7, 1.6),
            (0.16, -1.15, 1.1),
            (0.3, -1, 1),
            (0.6, -0.85, 0.85),
            (0.85, -0.7, 0.7),
            (0.95, -0.9, 0.9),
            (0.975, -1.15, 1.15),
            (1, -1, 1),
        ),
        (
            (0, -1.4, 1.2),
            (0.03, -1.6, 1.7),
            (0.06, -1.6, -0.1),
            (0.09, -1.5, 0),
            (0.115, -1.3, 2.0),
            (0.15, -1.2, 1.3),
            (0.3, -1, 1),
            (0.85, -0.7, 0.7),
            (0.96, -1, 1),
            (1, -0.9, 0.9),
        ),
        caps=(0.6, 0.6),
    ),
    "metacarpal": Shape(
        _even(
            (0, 1.35), (0.12, 1.25), (0.3, 0.85), (0.5, 0.75), (0.7, 0.85), (0.88, 1.25), (1, 1.2)
        ),
        caps=(0.25, 0.9),
    ),
    "phalanx": Shape(
        _even((0, 1.35), (0.12, 1.2), (0.4, 0.78), (0.7, 0.72), (0.88, 1.0), (1, 0.95)),
        caps=(0.25, 0.5),
    ),
    "tip": Shape(
        _even((0, 1.3), (0.15, 1.05), (0.5, 0.55), (0.78, 0.55), (0.9, 0.85), (1, 0.7)),
        caps=(0.25, 0.8),
    ),
    "carpal": Shape(_even((0, 0.9), (0.5, 1), (1, 0.85)), caps=(0.75, 0.75)),
    "socket": Shape(_even((0, 1), (0.25, 0.75), (0.5, 0.6), (1, 0.7)), caps=(0.15, 0.9)),
    "bar": Shape(_even((0, 1), (0.2, 0.8), (0.8, 0.85), (1, 1.1)), caps=(0.9, 0.9)),
    "blade": Shape(
        ((0, -0.3, 0.9), (0.15, -0.45, 1), (0.5, -0.3, 0.8), (0.85, -0.25, 0.45), (1, -0.2, 0.25)),
        _even((0, 0.15), (1, 0.1)),
        caps=(0.15, 0.5),
    ),
}


@dataclass(frozen=True)
class Bone:
    """One bone of the arm, or flesh without bone. Points are (x, y) in centimetres."""

    name: str
    head: Point2d
    tail: Point2d
    half: float  # half-width where an outline reads 1
    shape: str = ""  # empty: flesh without bone
    parent: str = ""  # the bone it moves with; empty: the trunk
    flesh: Point2d = (0.0, 0.0)  # radius of the soft tissue at head and tail
    depth: Point2d = (0.0, 0.0)  # of head and tail
    bow: float = 0.0  # how far the middle lies to the right of the axis
    dense: float = 1.0
    flex: float = 0.0  # degrees bent to the front in a view from the side
    pivot: Point2d | None = None  # where it turns; its head if None
    plates: tuple[float, ...] = ()  # shares of the length with a growth plate in the young


# name, where its metacarpal begins, degrees from straight down, lengths, half-width, flex
_FINGERS: tuple[tuple[str, Point2d, float, tuple[float, ...], float, float], ...] = (
    ("thumb", (-2.0, 60.5), 33, (4.4, 3.0, 2.3), 0.52, 6),
    ("index", (-0.6, 60.9), 10, (6.5, 4.0, 2.4, 1.8), 0.46, 5),
    ("middle", (0.7, 61.1), 1, (6.4, 4.4, 2.8, 1.9), 0.48, 10),
    ("ring", (1.75, 61.0), -9, (5.7, 4.1, 2.6, 1.9), 0.44, 16),
    ("little", (2.7, 60.7), -19, (5.2, 3.2, 1.9, 1.7), 0.40, 22),
)
_CARPALS: tuple[tuple[str, Point2d, Point2d, float], ...] = (
    ("scaphoid", (0.1, 57.4), (-1.5, 59.3), 0.8),
    ("lunate", (1.0, 57.2), (1.0, 58.8), 0.86),
    ("triquetrum", (2.1, 57.6), (2.6, 59.1), 0.72),
    ("pisiform", (2.5, 58.1), (2.6, 59.3), 0.5),
    ("trapezium", (-1.7, 59.1), (-1.8, 60.5), 0.82),
    ("trapezoid", (-0.5, 59.4), (-0.5, 60.8), 0.66),
    ("hamate", (2.0, 58.9), (2.2, 60.9), 0.82),
)


def _fingers() -> Iterator[Bone]:
    """Yield each finger's bones from the wrist outwards.

    `index0` is the metacarpal, `index1` to `index3` are the phalanges.
    """
    for finger, start, direction, lengths, half, flex in _FINGERS:
        parent, head, thumb = "capitate", start, finger == "thumb"
        x, y = -math.sin(math.radians(direction)), math.cos(math.radians(direction))
        forward = 0.8 if thumb else 0.0
        for i, length in enumerate(lengths):
            name = f"{finger}{i + (thumb and i == 2)}"  # the thumb lacks the middle phalanx
            tail = (head[0] + x * length, head[1] + y * length)
            yield Bone(
                name,
                head,
                tail,
                half * (1, 1.02, 0.9, 0.82)[i],
                "metacarpal" if i == 0 else "tip" if i == len(lengths) - 1 else "phalanx",
                parent,
                (1.45, 1.3) if i == 0 else (1.04 - 0.08 * i, 0.96 - 0.09 * i),
                (forward * (i + 1), forward * (i + 2)),
                flex=flex * (i + 1) ** 0.5,
                plates=(0.88,) if i == 0 and not thumb else (0.13,),
            )
            gap = 0.16 if i else 0.2
            parent, head = name, (tail[0] + x * gap, tail[1] + y * gap)


def _ribs() -> Iterator[Bone]:
    """Yield the back and the front piece of seven ribs."""
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
    Bone(
        "clavicle", (17, -2.6), (1.6, -3.3), 0.62, "bar", flesh=(1.8, 1.6), depth=(3, 0.5), bow=-0.6
    ),
    Bone("humerus", (0, -0.6), (0.6, 31.4), 1.15, "humerus", flesh=(4.6, 3.9), plates=(0.1,)),
    Bone(
        "ulna",
        (1.5, 29.9),
        (2.5, 56.7),
        0.68,
        "ulna",
        "humerus",
        (3.6, 2.1),
        (-0.9, 0),
        bow=0.2,
        flex=78,
        pivot=(0.6, 31.2),
        plates=(0.95,),
    ),
    Bone(
        "radius",
        (-0.55, 31.9),
        (-0.1, 57.2),
        0.74,
        "radius",
        "ulna",
        (3.6, 2.3),
        (0.2, 0),
        bow=-0.5,
        plates=(0.93,),
    ),
    Bone(
        "capitate",
        (0.7, 58.6),
        (0.7, 61.0),
        0.76,
        "carpal",
        "radius",
        (2.8, 2.6),
        pivot=(0.8, 57.2),
    ),
    *(
        Bone(name, head, tail, half, "carpal", "capitate", (2.0, 1.9), dense=0.8)
        for name, head, tail, half in _CARPALS
    ),
    *_fingers(),
)
BY_NAME: Mapping[str, Bone] = {bone.name: bone for bone in BONES}


@dataclass(frozen=True)
class Site:
    """The stretch of one bone that a study looks at, and where a lesion would lie.

    `start` and `stop` are shares of the bone's length.
    """

    bone: str
    start: float
    stop: float


@dataclass(frozen=True)
class Window:
    """What the radiographs of one area show: the place, its size, and the views."""

    anchor: str  # the bone that stays upright; empty: the one the study looks at
    focus: Point2d
    span: float  # centimetres along the longer side
    aspect: Point2d  # width / height, least and most
    sites: tuple[Site, ...]
    turn: float = 0.0  # degrees; hands are shown with the fingers up
    trunk: bool = False  # whether chest and shoulder blade are in the beam
    views: tuple[float, ...] = (0, 88, 45)  # degrees about the arm's axis: front, side, oblique


def _each(names: str, start: float, stop: float) -> tuple[Site, ...]:
    return tuple(Site(name, start, stop) for name in names.split())


WINDOWS: Mapping[str, Window] = {
    "XR_ELBOW": Window(
        "humerus",
        (0.8, 31.5),
        21,
        (0.6, 1.15),
        (Site("humerus", 0.8, 0.9), Site("radius", 0.05, 0.17), Site("ulna", 0.12, 0.25)),
    ),
    "XR_FINGER": Window(
        "",
        (0, 0),
        11.5,
        (0.45, 0.75),
        (
            *_each("index1 middle1 ring1 little1 thumb1", 0.25, 0.75),
            *_each("index2 middle2 ring2 little2", 0.3, 0.7),
        ),
        180,
        views=(0, 80, 40),
    ),
    "XR_FOREARM": Window("ulna", (1.2, 44), 33, (0.42, 0.7), _each("radius ulna", 0.3, 0.85)),
    "XR_HAND": Window(
        "radius",
        (0.2, 66.3),
        23.5,
        (0.7, 0.95),
        (
            *_each("index0 middle0 ring0 little0 thumb0", 0.25, 0.8),
            *_each("index1 middle1 ring1 little1", 0.25, 0.75),
        ),
        180,
        views=(0, 40, 75),
    ),
    "XR_HUMERUS": Window(
        "humerus",
        (0.8, 15.5),
        38,
        (0.42, 0.7),
        _each("humerus", 0.15, 0.8),
        trunk=True,
        views=(0, 70, 35),
    ),
    "XR_SHOULDER": Window(
        "humerus",
        (3.2, 3.6),
        22,
        (0.9, 1.3),
        (*_each("humerus humerus", 0.1, 0.24), Site("clavicle", 0.55, 0.88)),
        trunk=True,
        views=(0, 25, -25),
    ),
    "XR_WRIST": Window(
        "radius",
        (0.8, 57.6),
        15.5,
        (0.55, 0.85),
        (
            *_each("radius radius radius", 0.82, 0.94),
            Site("ulna", 0.84, 0.93),
            Site("scaphoid", 0.4, 0.6),
        ),
        180,
    ),
}
