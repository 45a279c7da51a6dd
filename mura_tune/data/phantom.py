"""Synthetic radiographs in MURA's layout: a dataset for the demo and the tests, with a box for every lesion.

A bone is a tube of cortex around a softer core; an image sums the beam's path through tubes and flesh, so cortex
shows bright at the edges as it does on film. What an image shows depends on (seed, area, patient, study, view)
alone: asking for more patients leaves the others as they were.
"""

import functools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mura_tune.data.anatomy import (
    AREAS,
    BONES,
    BY_NAME,
    SAMPLES,
    WINDOWS,
    Bone,
    Floats,
    Placed,
    Site,
    Window,
    chain,
    ends,
    follows,
    place,
    pose,
    turning,
)
from mura_tune.errors import InputError

__all__ = ["AREAS", "Study", "contact_sheet", "draw", "studies", "write"]

Box = tuple[int, int, int, int]
Size = tuple[int, int]
Rng = np.random.Generator
Stroke = tuple[
    float, float, float, float, float
]  # from (s, v) to (s, v) and width, pixels about a bone's axis

LOOK = 1  # raise when the same arguments give other pixels, so that old phantoms are not taken for new ones
KINDS = ("line", "displacement", "hardware")
SHARES = (0.45, 0.25, 0.30)
ABNORMAL = {  # MURA v1.1's studies: share of abnormal ones in train and in valid
    "XR_ELBOW": {"train": 660 / 1754, "valid": 66 / 158},
    "XR_FINGER": {"train": 655 / 1935, "valid": 83 / 175},
    "XR_FOREARM": {"train": 287 / 877, "valid": 64 / 133},
    "XR_HAND": {"train": 521 / 2018, "valid": 66 / 167},
    "XR_HUMERUS": {"train": 271 / 592, "valid": 67 / 135},
    "XR_SHOULDER": {"train": 1457 / 2821, "valid": 95 / 194},
    "XR_WRIST": {"train": 1326 / 3460, "valid": 97 / 237},
}
BLOCK, TWICE = (
    10,
    2,
)  # of ten patients in a row two come twice, and one also belongs to the area before
VALID_FROM = 50_001  # the first patient number of the valid split
MOST = (VALID_FROM - 1) // len(AREAS)


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


def write(
    root: Path,
    *,
    areas: Sequence[str] = AREAS,
    patients: int = 60,
    seed: int = 0,
    size: int = 512,
    progress: Callable[[Sequence[Study]], Iterable[Study]] = iter,
) -> None:
    """Writes the images, MURA's four CSVs and `lesions.csv` under `root`; does nothing where they are already.

    `patients` counts an area's training patients; valid has a quarter as many, at least twelve. `size` is the
    longer side in pixels. `progress` wraps the list of studies, as tqdm does. Raises InputError if `root` holds
    something else.
    """
    if unknown := [area for area in areas if area not in AREAS]:
        raise InputError(f"{unknown[0]} is no area of the phantom; there are {', '.join(AREAS)}")
    if not (1 <= patients <= MOST and 64 <= size <= 2048 and seed >= 0):
        raise InputError(
            f"phantom: {patients=} (1 to {MOST}), {size=} (64 to 2048), {seed=} (0 or more)"
        )
    chosen = [area for area in AREAS if area in areas]
    counts = {"train": patients, "valid": max(12, patients // 4)}
    plan = [
        s for split, n in counts.items() for area in chosen for s in studies(split, area, n, seed)
    ]
    name = root.resolve().name
    tables = {
        f"{split}_{kind}.csv": "" for split in counts for kind in ("image_paths", "labeled_studies")
    }
    for study in plan:
        tables[f"{study.split}_labeled_studies.csv"] += (
            f"{name}/{study.folder}/,{int(study.abnormal)}\n"
        )
        for view in range(1, study.views + 1):
            tables[f"{study.split}_image_paths.csv"] += f"{name}/{study.folder}/image{view}.png\n"

    arguments = {"areas": chosen, "patients": patients, "seed": seed, "size": size, "look": LOOK}
    if _is_complete(root, arguments, tables, plan):
        return
    root.mkdir(parents=True, exist_ok=True)
    _replace(root / "phantom.json", json.dumps(arguments, indent=1) + "\n")
    lesions = "path,kind,x0,y0,x1,y1\n"
    with ThreadPoolExecutor(max_workers=2) as pool:
        save = functools.partial(_save, root, seed=seed, size=size)
        drawn = pool.map(save, plan)
        for _, rows in zip(progress(plan), drawn, strict=True):
            lesions += "".join(f"{name}/{row}\n" for row in rows)
    for file, text in {"lesions.csv": lesions, **tables}.items():
        _replace(root / file, text)


def _is_complete(
    root: Path, arguments: dict[str, Any], tables: dict[str, str], plan: list[Study]
) -> bool:
    """Whether this very phantom is there; raises if `root` holds another dataset."""
    note, there = root / "phantom.json", [file for file in tables if (root / file).exists()]
    if note.exists():
        try:
            other = json.loads(note.read_text())
        except ValueError:
            other = "unreadable"
        if other != arguments:
            raise InputError(
                f"{note}: made with {other}, asked for {arguments}; choose another folder"
            )
    elif there:
        raise InputError(f"{root / there[0]}: not made by the phantom; choose another folder")
    for file in there:
        if (root / file).read_text() != tables[file]:
            raise InputError(
                f"{root / file}: changed since the phantom was made; delete {root} to make it anew"
            )
    images = (root / s.folder / f"image{view}.png" for s in plan for view in range(1, s.views + 1))
    return (
        len(there) == len(tables)
        and (root / "lesions.csv").exists()
        and all(i.exists() for i in images)
    )


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


def studies(split: str, area: str, patients: int, seed: int) -> Iterator[Study]:
    """Who comes with what. Labels are dealt block by block, so any number of patients has MURA's balance."""
    key = [seed, AREAS.index(area), ("train", "valid").index(split)]
    deal, share = BLOCK + TWICE, ABNORMAL[area][split]
    for block in range(-(-patients // BLOCK)):
        rng = np.random.default_rng([*key, block, 0, 2])
        abnormal = round((block + 1) * deal * share) - round(block * deal * share)
        labels = iter(rng.permutation(deal) < abnormal)
        twice = rng.choice(BLOCK, TWICE, replace=False)
        for i in range(BLOCK):
            for number in range(1, 2 + (i in twice)):
                study = Study(
                    split,
                    area,
                    0,
                    number,
                    bool(next(labels)),
                    int(rng.choice((1, 2, 3), p=(0.2, 0.4, 0.4))),
                )
                if (slot := block * BLOCK + i) < patients:
                    yield Study(**{**asdict(study), "patient": _patient(split, area, slot, seed)})


def _patient(split: str, area: str, slot: int, seed: int) -> int:
    """The number of an area's n-th patient; one in ten is the patient of the same place in the area before."""
    at, where = AREAS.index(area), ("train", "valid").index(split)

    def borrowed(a: int) -> bool:
        rng = np.random.default_rng([seed, a, where, slot // BLOCK, 0, 3])
        return a > 0 and slot % BLOCK == int(rng.integers(BLOCK))

    if borrowed(at) and not borrowed(at - 1):
        at -= 1
    return slot * len(AREAS) + at + (VALID_FROM if split == "valid" else 1)


@dataclass(frozen=True)
class Cut:
    """A fracture: where it crosses the bone, how deep it shows, where the far fragment went."""

    at: float  # pixels along the axis
    slope: float
    rough: Floats  # pixels along the axis, over the bone's width
    gap: float  # pixels
    contrast: float
    motion: Floats  # 2x3 matrix of the far fragment

    def run(self, v: Floats, wide: float) -> Floats:
        """Pixels along the axis at which the fracture passes, `v` pixels beside the axis."""
        place_ = np.clip(
            (v / np.float32(2.4 * wide) + np.float32(0.5)) * len(self.rough), 0, len(self.rough) - 1
        )
        return (
            np.float32(self.at) + np.float32(self.slope) * v + self.rough[place_.astype(np.int32)]
        )


def draw(
    study: Study, view: int, *, seed: int = 0, size: int = 512, lesion: bool = True
) -> tuple[NDArray[np.uint8], str, Box | None]:
    """One view (from 1) of a study: grey image (H, W), the lesion's kind and its box, "" and None if unharmed.

    With `lesion=False` the same patient is drawn in the same position without it.
    """

    def stream(use: int, study_: int = 0, view_: int = 0) -> Rng:
        return np.random.default_rng(
            [seed, AREAS.index(study.area), study.patient, study_, view_, use, 1]
        )

    exam, shot = stream(1, study.number), stream(2, study.number, view)
    window = WINDOWS[study.area]
    # normal studies look at a site too: framing must not tell the label
    site, share = window.sites[int(exam.integers(len(window.sites)))], exam.random()
    share = site.start + share * (site.stop - site.start)
    first = int(exam.integers(3)) if exam.random() < 0.25 else 0
    angle = math.radians(window.views[(first + view - 1) % 3] + shot.uniform(-8, 8))
    body = stream(0)
    stout, fat, young = body.uniform(0.87, 1.13), body.uniform(0.85, 1.25), body.random() < 0.2
    side, scale = (-1 if body.random() < 0.5 else 1), body.uniform(0.9, 1.1) * size / window.span
    shape, placed = _frame(study.area, site, share, angle, scale, stout, side, size, body, shot)
    broken = placed[site.bone]
    point, grain = broken.at(share), body.integers(0, 256, (len(BONES), 2))

    kind, box, cut, metal = "", None, None, None
    if lesion and study.abnormal:
        kind, plain = (
            str(stream(3, study.number).choice(KINDS, p=SHARES)),
            stream(4, study.number).random() ** 0.5,
        )
        common, own = stream(5, study.number), stream(6, study.number, view)
        if kind == "hardware":
            strokes = _hardware(broken, share, plain, angle, scale, common)
            metal, box = _metal(broken, strokes, shape, own.uniform(0.65, 0.75) + 0.25 * plain)
        else:
            cut = _cut(broken, share, kind == "displacement", plain, size / 512, common, own)
            box = _box_of(broken, share, cut, shape, size / 512)
            placed = {
                n: p.moved(cut.motion) if follows(p.bone, site.bone) else p
                for n, p in placed.items()
            }

    flat = np.zeros(shape[::-1], np.float32)
    for i, bone in enumerate(placed.values()):
        if cut is None or bone is not broken:
            _add(flat, bone, scale, young, grain[i])
            continue
        _add(flat, bone, scale, young, grain[i], functools.partial(_fragment, cut, 1.0))
        _add(
            flat,
            bone.moved(cut.motion),
            scale,
            young,
            grain[i],
            functools.partial(_fragment, cut, -1.0),
        )
    soft = _flesh(placed, shape, scale, fat, shot)
    return _develop(flat, soft, metal, point, side, size / 512, shot), kind, box


def _frame(
    area: str, site: Site, share: float, angle: float, scale: float, stout: float, side: int, size: int,
    body: Rng, shot: Rng,
) -> tuple[Size, dict[str, Placed]]:  # fmt: skip
    """Width and height, and the bones in pixels: anchor upright, then turned, mirrored and shifted."""
    window, anchor = WINDOWS[area], BY_NAME[WINDOWS[area].anchor or site.bone]
    aspect = shot.uniform(*window.aspect)
    aspect = 1 / aspect if shot.random() < 0.1 else aspect
    width = max(int(size * min(1, aspect)), min(size, 89))  # no MURA image is narrower or lower
    height = max(int(size / max(1, aspect)), min(size, 132))
    matrices = pose(
        angle, (body.normal(0, 2, len(BONES)) + shot.normal(0, 1.2, len(BONES))).astype(np.float32)
    )
    tilt = shot.normal(0, 7) if shot.random() < 0.85 else shot.uniform(-35, 35)
    focus = np.array(window.focus)
    if not window.anchor:
        (x0, y0), (x1, y1) = anchor.head, anchor.tail
        focus = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
        tilt += math.degrees(math.atan2((x1 - x0) * math.cos(angle), y1 - y0))
    focus[0] = focus[0] * math.cos(angle) + sum(anchor.depth) / 2 * math.sin(angle)
    upright = matrices[anchor.name]
    zoom = scale * shot.uniform(0.93, 1.07)
    turn = turning(window.turn + tilt, np.zeros(2, np.float32))[:, :2] @ np.linalg.inv(
        upright[:, :2]
    )
    turn = np.diag([side, 1.0]) @ turn * zoom
    centre = np.array([width, height]) * (0.5 + shot.uniform(-0.05, 0.05, 2))
    to_pixels = np.column_stack(
        [turn, centre - turn @ (upright[:, :2] @ focus + upright[:, 2])]
    ).astype(np.float32)

    def put(name: str) -> Placed:
        return place(BY_NAME[name], chain(to_pixels, matrices[name]), angle, zoom * stout)

    point, frame = put(site.bone).at(share), np.array([width, height])
    to_pixels[:, 2] += np.clip(point, 0.26 * frame, 0.74 * frame) - point
    near = (
        bone.name
        for bone in BONES
        if _is_shown(bone, window, site, angle)
        and _is_near(bone, chain(to_pixels, matrices[bone.name]), angle, zoom, frame)
    )
    return (width, height), {name: put(name) for name in near}


def _is_near(bone: Bone, to_pixels: Floats, angle: float, zoom: float, frame: NDArray[Any]) -> bool:
    """Whether any of a bone or its flesh may lie in the frame."""
    reach = 1.4 * zoom * max(3 * bone.half + abs(bone.bow), *bone.flesh)
    tips = np.array(ends(bone, to_pixels, angle))
    return bool(np.all(tips.max(0) > -reach) and np.all(tips.min(0) < frame + reach))


def _is_shown(bone: Bone, window: Window, site: Site, angle: float) -> bool:
    if not (bone.parent or bone.name == "humerus" or window.trunk):
        return False
    # from the side the fingers that are not meant are folded away
    folded = not window.anchor and abs(math.sin(angle)) > 0.5 and bone.name[-1].isdigit()
    return not folded or bone.name[:-1] == site.bone[:-1]


@functools.cache
def _texture() -> Floats:
    """Trabeculae, 256 x 256, mean 1, drawn out along the bone (axis 0); it tiles."""
    noise = np.fft.fft2(np.random.default_rng(7).standard_normal((256, 256)))
    f2 = np.fft.fftfreq(256) ** 2
    tile = np.ones((256, 256))
    for sd, along, across in ((0.22, 0.07, 0.22), (0.08, 0.02, 0.03)):
        part = np.fft.ifft2(noise * np.exp(-f2[:, None] / along**2 - f2[None, :] / across**2)).real
        tile += sd * part / part.std()
    return tile.astype(np.float32)


def _add(
    flat: Floats, bone: Placed, scale: float, young: bool, grain: NDArray[np.int64],
    keep: Callable[[Floats, Floats, float], Floats] | None = None,
) -> None:  # fmt: skip
    """Adds the beam's path through one bone to `flat`, in centimetres of cortex; `keep` weighs its parts."""
    wide, tips = float(bone.half.max()), np.array([bone.head, bone.tail])
    swell = wide + float(np.abs(bone.middle).max()) + 2
    x0, y0 = np.maximum(np.floor(tips.min(0) - swell), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(tips.max(0) + swell), flat.shape[::-1]).astype(int)
    if not bone.bone.shape or x1 <= x0 or y1 <= y0:
        return
    x = np.arange(x0, x1, dtype=np.float32)[None, :] - bone.head[0]
    y = np.arange(y0, y1, dtype=np.float32)[:, None] - bone.head[1]
    s, v = x * bone.along[0] + y * bone.along[1], x * bone.across[0] + y * bone.across[1]
    hit = (s > 0) & (s < bone.length) & (np.abs(v) < swell)
    s, v = s[hit], v[hit]

    share = np.linspace(0, 1, SAMPLES, dtype=np.float32)
    shaft = np.abs(np.sin(np.pi * share)) ** 0.8 * (1.0 if bone.length > 4 * wide else 0.1)
    cortex = np.maximum(np.median(bone.half) * (0.09 + 0.3 * shaft), 1).astype(np.float32)
    reach = max(1, int(cortex[2] / bone.length * SAMPLES))
    core = np.minimum(np.roll(bone.half, reach), np.roll(bone.half, -reach)) - cortex
    core[:reach] = core[-reach:] = 0
    weight = bone.thick * np.float32(bone.bone.dense / scale)
    for at in bone.bone.plates if young else ():
        d = np.abs(share - at) * bone.length / max(scale * 0.06, 1)
        weight *= 1 - 0.7 * np.exp(-(d**2)) + 0.3 * np.exp(-((d - 2.4) ** 2))
    spongy = (0.36 - 0.18 * shaft).astype(np.float32)

    index = (s * np.float32(SAMPLES / bone.length)).astype(np.int32).clip(0, SAMPLES - 1)
    beside = (v - bone.middle[index]) ** 2
    outer = np.sqrt(np.maximum((bone.half**2)[index] - beside, 0))
    inner = np.sqrt(np.maximum((core.clip(0) ** 2)[index] - beside, 0))
    fine = np.float32(64 / scale)  # the texture's 256 steps are four centimetres
    row, column = (
        (w * fine + n).astype(np.int32) & 255 for w, n in zip((s, v), grain, strict=True)
    )
    path = weight[index] * (outer - inner + spongy[index] * inner * _texture()[row, column])
    flat[y0:y1, x0:x1][hit] += path if keep is None else path * keep(s, v, wide)


def _fragment(cut: Cut, direction: float, s: Floats, v: Floats, wide: float) -> Floats:
    """Weight of one side of a cut: it thins towards the fracture and ends there."""
    short = (cut.run(v, wide) - s) * np.float32(direction)
    away = short / np.float32(cut.gap)
    rim = 0.4 * np.exp(-((away - 2.2) ** 2))  # crushed trabeculae beside the gap
    return np.clip(short + 0.5, 0, 1) * (1 + np.float32(cut.contrast) * (rim - np.exp(-(away**2))))


def _cut(
    bone: Placed, share: float, apart: bool, plain: float, k: float, common: Rng, own: Rng
) -> Cut:
    """A fracture at `share` of the bone; `apart` moves the fragments, else only a step may show."""
    half = float(bone.half[int(share * SAMPLES)])
    slope = common.uniform(-0.7, 0.7) + own.uniform(-0.15, 0.15)
    rough = np.cumsum(own.normal(0, 1, 24))
    rough = (rough - np.linspace(rough[0], rough[-1], 24)) * (0.05 + 0.06 * plain) * half
    rough = np.interp(np.linspace(0, 23, 192), np.arange(24), rough).astype(np.float32)
    sense = 1 if common.random() < 0.5 else -1
    if apart:
        across, shorter = sense * (0.5 + 0.8 * plain) * half, own.uniform(0, 0.35) * half
        degrees, gap, contrast = sense * common.uniform(4, 10 + 16 * plain), max(2 * k, 0.6), 0.95
    else:
        across, shorter = sense * common.uniform(0, 0.3) * plain * half, 0.0
        degrees, gap, contrast = (
            own.normal(0, 2.5 * plain),
            max((4 + 6.5 * plain) * k, 0.6),
            0.65 + 0.33 * plain,
        )
    shift = bone.across * np.float32(across) - bone.along * np.float32(shorter)
    return Cut(
        share * bone.length, slope, rough, gap, contrast, turning(degrees, bone.at(share), shift)
    )


def _box_of(bone: Placed, share: float, cut: Cut, shape: Size, k: float) -> Box:
    i = int(share * SAMPLES)
    v = bone.middle[i] + bone.half[i] * np.linspace(-1.05, 1.05, 17, dtype=np.float32)
    run = cut.run(v, float(bone.half.max()))[:, None]
    points = [
        b.head + run * b.along + v[:, None] * b.across for b in (bone, bone.moved(cut.motion))
    ]
    return _clip(np.concatenate(points), 2 * cut.gap + 6 * k, shape)


def _clip(points: Floats, pad: float, shape: Size) -> Box:
    x0, y0 = np.maximum(points.min(0) - pad, 0).astype(int).tolist()
    x1, y1 = np.minimum(np.ceil(points.max(0) + pad), shape).astype(int).tolist()
    return x0, y0, x1, y1


def _hardware(
    bone: Placed, share: float, plain: float, angle: float, scale: float, rng: Rng
) -> list[Stroke]:
    """A plate with screws, wires, a nail or a single screw; its azimuth about the bone is the study's."""
    length, at = bone.length, share * bone.length
    i = int(share * SAMPLES)
    half, middle = float(bone.half[i]), float(bone.middle[i])
    cm = half * min(1.0, 0.5 + 0.4 * scale / half)  # implants are sized to the bone
    long = length > 6 * half
    form = str(
        rng.choice(
            ("plate", "wires", "nail", "screw"),
            p=(0.5, 0.3, 0.15, 0.05) if long else (0, 0.4, 0, 0.6),
        )
    )
    facing = rng.uniform(0, 2 * math.pi) - angle
    beside, face = math.cos(facing), abs(math.sin(facing))
    if form == "plate":
        reach, holes = half * (2.0 + 2.0 * plain), int(rng.integers(4, 7))
        reach = min(reach, 0.45 * length)
        thick, wide = 0.22 * cm, (0.55 + 0.35 * plain) * cm
        v = middle + beside * (half + thick / 2)
        strokes: list[Stroke] = [(at - reach, v, at + reach, v, abs(beside) * thick + face * wide)]
        for s in np.linspace(at - 0.88 * reach, at + 0.88 * reach, holes).tolist():
            strokes += [(s, v + 0.1 * cm * beside, s, middle - beside * half * 1.02, 0.17 * cm)]
            strokes += [(s - 0.14 * cm, v, s + 0.14 * cm, v, 0.34 * cm * (abs(beside) + 0.9))]
        return strokes
    if form == "nail":
        reach = min(half * (4 + 5 * plain), 0.8 * length)
        return [
            (at - reach, middle, at + reach, middle, 0.55 * cm),
            (at + 0.8 * reach, middle - half, at + 0.8 * reach, middle + half, 0.2 * cm),
        ]
    strokes = []
    for _ in range(int(rng.integers(1, 4)) if form == "wires" else 1):
        lean = (
            rng.uniform(0.15, 0.5) * (1 if rng.random() < 0.5 else -1) * (0.4 + 0.6 * abs(beside))
        )
        reach, shift = half * rng.uniform(1.6, 3.0), rng.uniform(-0.3, 0.3) * half
        width = (0.16 + 0.18 * plain) * cm if form == "wires" else (0.3 + 0.1 * plain) * cm
        strokes += [
            (
                at - reach,
                middle + shift - lean * reach,
                at + reach,
                middle + shift + lean * reach,
                width,
            )
        ]
    return strokes


def _metal(bone: Placed, strokes: list[Stroke], shape: Size, opacity: float) -> tuple[Floats, Box]:
    """How much metal covers each pixel, 0 to 1, and the box around it."""
    mask = Image.new("L", (2 * shape[0], 2 * shape[1]))
    pen = ImageDraw.Draw(mask)
    for s0, v0, s1, v1, width in strokes:
        ends = [
            tuple(2 * (bone.head + bone.along * np.float32(s) + bone.across * np.float32(v)))
            for s, v in ((s0, v0), (s1, v1))
        ]
        _stroke(pen, ends, max(2.4, 2 * width))
    cover = mask.resize(shape, Image.Resampling.BOX)
    x0, y0, x1, y1 = cover.getbbox() or (0, 0, *shape)
    return np.asarray(cover, np.float32) * np.float32(opacity / 255), (x0, y0, x1, y1)


def _stroke(
    pen: ImageDraw.ImageDraw, points: list[tuple[Any, ...]], width: float, fill: int = 255
) -> None:
    xy = [(float(x), float(y)) for x, y in points]
    pen.line(xy, fill=fill, width=max(1, round(width)), joint="curve")
    for x, y in (xy[0], xy[-1]):
        pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=fill)


def _flesh(placed: dict[str, Placed], shape: Size, scale: float, fat: float, rng: Rng) -> Floats:
    """The beam's path through soft tissue in centimetres; it is smooth, so a quarter of the resolution will do."""
    w, h = -(-shape[0] // 4), -(-shape[1] // 4)
    soft = np.zeros((h, w), np.float32)
    for bone in placed.values():
        start, stop = (np.float32(radius * scale * fat) for radius in bone.bone.flesh)
        x = np.arange(w, dtype=np.float32)[None, :] * 4 + 1.5 - bone.head[0]
        y = np.arange(h, dtype=np.float32)[:, None] * 4 + 1.5 - bone.head[1]
        if not start:
            continue
        run = np.clip(x * bone.along[0] + y * bone.along[1], 0, np.float32(bone.length))
        d2 = (x - run * bone.along[0]) ** 2 + (y - run * bone.along[1]) ** 2
        radius = start + run * ((stop - start) / np.float32(bone.length))
        depth = np.sqrt(np.maximum(radius**2 - d2, 0)) * np.float32(2 / scale * bone.bone.dense)
        soft = np.maximum(soft, depth)
    soft = np.pad(soft, 2, mode="edge")
    for axis in (0, 1, 0, 1):
        soft = (np.roll(soft, 1, axis) + 2 * soft + np.roll(soft, -1, axis)) / 4
    soft = soft[2:-2, 2:-2] * _zoomed(rng.normal(1, 0.05, (9, 9)), (w, h))
    return np.maximum(_zoomed(soft, shape), 0)


def _zoomed(field: NDArray[Any], shape: Size) -> Floats:
    return np.asarray(
        Image.fromarray(field.astype(np.float32)).resize(shape, Image.Resampling.BICUBIC)
    )


def _develop(
    flat: Floats, soft: Floats, metal: Floats | None, point: Floats, side: int, k: float, rng: Rng
) -> NDArray[np.uint8]:
    """From beam paths to grey levels: exposure, skin fold, collimation, marker, noise."""
    height, width = flat.shape
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    tissue = np.sqrt(soft) * np.float32(rng.uniform(0.16, 0.24))
    path = tissue + flat * np.float32(rng.uniform(0.55, 0.7))
    white = float(np.percentile(path[::8, ::8], 99)) * rng.uniform(0.95, 1.25)
    turn, off, bend, depth = rng.uniform(-1, 1, 4)
    if rng.random() < 0.5:
        d = x * math.cos(3 * turn) + y * math.sin(3 * turn) + 0.5 * off + 0.4 * bend * x * y
        path += np.float32(0.06 * depth) * np.exp(-((d / np.float32(0.02)) ** 2)) * (soft > 0)
    grey = np.clip(path / np.float32(white), 0, 1.2)
    grey *= 1 + np.float32(rng.uniform(-0.3, 0.45)) * (1 - grey)  # a gamma, at a tenth of its cost
    level, (heel_x, heel_y) = rng.uniform(0.74, 0.92), rng.normal(0, 0.03, 2).astype(np.float32)
    grey = np.float32(rng.uniform(0.02, 0.08)) + grey * (
        np.float32(level) + heel_x * x + heel_y * y
    )
    if metal is not None:
        grey += np.maximum(0.97 - grey, 0) * metal
    noise = rng.standard_normal((height, width), dtype=np.float32)
    noise[1:] += 0.4 * noise[:-1]
    grey += noise * (np.float32(rng.uniform(0.008, 0.02)) * (1.2 - np.minimum(grey, 1)))
    field, marks = _field(width, height, rng), _marker(soft, point, side, k, rng)
    grey = (grey + np.maximum(0.96 - grey, 0) * marks) * field
    return np.clip(grey * 250 + 2, 0, 255).astype(np.uint8)


def _field(width: int, height: int, rng: Rng) -> Floats:
    """1 where the collimator lets the beam through, 0.03 where not."""
    left, right, top, bottom = np.where(rng.random(4) < 0.5, rng.uniform(-0.1, 0.12, 4), -0.3) * 2
    lean = math.radians(rng.normal(0, 2.5)) if rng.random() < 0.6 else 0.0
    x = (np.arange(width, dtype=np.float32) - width / 2)[None, :]
    y = (np.arange(height, dtype=np.float32) - height / 2)[:, None]
    u, v = (
        x * np.float32(math.cos(lean)) + y * np.float32(math.sin(lean)),
        y * np.float32(math.cos(lean)) - x * np.float32(math.sin(lean)),
    )
    inside_x = np.minimum(
        u + np.float32(width * (1 - left) / 2), np.float32(width * (1 - right) / 2) - u
    )
    inside_y = np.minimum(
        v + np.float32(height * (1 - top) / 2), np.float32(height * (1 - bottom) / 2) - v
    )
    return np.clip(np.minimum(inside_x, inside_y) + 0.5, 0.03, 1)


def _marker(soft: Floats, point: Floats, side: int, k: float, rng: Rng) -> Floats:
    """The lead letter L or R, and now and then a ring or a cord, away from `point`; 0 to 1."""
    height, width = soft.shape
    page = Image.new("L", (width, height))
    pen = ImageDraw.Draw(page)
    size, brightness = rng.uniform(20, 34) * k, int(rng.uniform(150, 255))
    places = np.array([(fx * width, fy * height) for fx in (0.2, 0.8) for fy in (0.17, 0.83)])
    far = places[np.argsort(np.hypot(*(places - point).T))[1:]]  # not the corner next to the site
    bare = far[np.argsort([float(soft[int(y), int(x)]) for x, y in far], kind="stable")]
    corner = bare[int(rng.random() < 0.2)] + rng.uniform(-0.05, 0.05, 2) * (width, height)
    a, mirror = rng.normal(0, 0.25), (-1 if rng.random() < 0.1 else 1)
    turn = (
        np.array([[math.cos(a) * mirror, -math.sin(a)], [math.sin(a) * mirror, math.cos(a)]]) * size
    )
    letter = {
        1: [[(0, 0), (0, 1), (0.6, 1)]],
        -1: [
            [(0, 1), (0, 0), (0.45, 0.05), (0.6, 0.25), (0.45, 0.47), (0, 0.5)],
            [(0.3, 0.5), (0.62, 1)],
        ],
    }[side]
    if rng.random() < 0.85:
        for line in letter:
            _stroke(
                pen,
                [tuple(corner + turn @ (np.array(p) - 0.5)) for p in line],
                0.17 * size,
                brightness,
            )
    if rng.random() < 0.12:
        middle, radius = far[int(rng.integers(3))], rng.uniform(7, 13) * k
        box = (*(middle - radius).tolist(), *(middle + radius * np.array([1, 1.3])).tolist())
        pen.ellipse(box, outline=230, width=max(1, round(4 * k)))
    if rng.random() < 0.12:
        edge = far[int(rng.integers(3))]
        ends = [
            tuple(edge + np.array([t * 0.16 * width, 9 * k * math.sin(4 * t)]))
            for t in np.linspace(-1, 1, 9)
        ]
        _stroke(pen, ends, 3 * k, 170)
    return np.asarray(page, np.float32) / 255


def contact_sheet(root: Path, out: Path, per_area: int = 6) -> None:
    """One picture of a phantom: a row per area, normal views left, abnormal ones right with their lesion boxed."""
    lines = (root / "lesions.csv").read_text().splitlines()[1:]
    boxes = {
        row[0]: (row[1], [int(n) for n in row[2:]]) for row in (line.split(",") for line in lines)
    }
    paths = (root / "train_image_paths.csv").read_text().splitlines()
    areas = list(dict.fromkeys(path.split("/")[2] for path in paths))
    cell, head, left = 176, 40, 116
    sheet = Image.new(
        "L", (left + per_area * (cell + 6), head + len(areas) * (cell + 6)), 12
    ).convert("RGB")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    normals = per_area // 2
    pen.text((left, 12), "normal", (150, 200, 150), font)
    pen.text((left + normals * (cell + 6), 12), "abnormal", (255, 170, 80), font)
    for row, area in enumerate(areas):
        y = head + row * (cell + 6)
        pen.text((10, y + cell // 2 - 8), area[3:].lower(), (230, 230, 230), font)
        mine = [path for path in paths if path.split("/")[2] == area]
        plain = [path for path in mine if path not in boxes]
        harmed = sorted((p for p in mine if p in boxes), key=lambda p: KINDS.index(boxes[p][0]))
        abnormals = per_area - normals
        picked = [harmed[i * len(harmed) // abnormals] for i in range(abnormals)] if harmed else []
        for column, path in enumerate([*plain[:normals], *picked]):
            with Image.open(root.joinpath(*path.split("/")[1:])) as image:
                factor = cell / max(image.size)
                small = image.resize(
                    (round(image.width * factor), round(image.height * factor)),
                    Image.Resampling.LANCZOS,
                )
            x0 = left + column * (cell + 6) + (cell - small.width) // 2
            y0 = y + (cell - small.height) // 2
            sheet.paste(small, (x0, y0))
            if path in boxes:
                kind, box = boxes[path]
                corners = [round(n * factor) + (x0, y0)[i % 2] for i, n in enumerate(box)]
                pen.rectangle(corners, outline=(255, 150, 40))
                pen.text((x0 + 4, y + cell - 18), kind, (255, 170, 80), ImageFont.load_default(12))
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
