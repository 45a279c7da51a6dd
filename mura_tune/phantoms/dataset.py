"""Synthetic radiographs in MURA's layout: a dataset for the demo and the tests.

Every lesion has a box in lesions.csv, in pixels. What an image shows depends on (seed, area,
patient, study, view) alone, so a larger number of patients leaves the first ones as they were.
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mura_tune import files
from mura_tune.areas import AREAS
from mura_tune.errors import InputError
from mura_tune.phantoms.lesions import LESION_KINDS
from mura_tune.phantoms.rendering import PhantomStudy, draw_view

# Raise it when the same arguments give other pixels: old phantoms must not pass for new ones.
LOOK_VERSION = 1
ABNORMAL_SHARES = {  # MURA v1.1: share of abnormal studies in train and in valid
    "XR_ELBOW": {"train": 660 / 1754, "valid": 66 / 158},
    "XR_FINGER": {"train": 655 / 1935, "valid": 83 / 175},
    "XR_FOREARM": {"train": 287 / 877, "valid": 64 / 133},
    "XR_HAND": {"train": 521 / 2018, "valid": 66 / 167},
    "XR_HUMERUS": {"train": 271 / 592, "valid": 67 / 135},
    "XR_SHOULDER": {"train": 1457 / 2821, "valid": 95 / 194},
    "XR_WRIST": {"train": 1326 / 3460, "valid": 97 / 237},
}
ARGUMENTS_FILE = "phantom.json"  # says what was drawn
SHEET_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}  # what a contact sheet may be
VIEW_SHARES = (0.2, 0.4, 0.4)  # shares of studies with one, two and three views
BLOCK, TWICE = 10, 2  # of ten patients in a row two come twice; one is also in the area before
VALID_FROM = 50_001  # the first patient number of the valid split
MOST_PATIENTS = (VALID_FROM - 1) // len(AREAS)


def write_phantoms(
    root: Path,
    *,
    areas: Sequence[str] = AREAS,
    patients: int = 60,
    seed: int = 0,
    size: int = 512,
    progress: Callable[[Sequence[PhantomStudy]], Iterable[PhantomStudy]] = iter,
) -> None:
    """Write images, MURA's four CSVs and lesions.csv into `root`, unless all of them are there.

    Args:
        patients: of an area's train; its valid has a quarter as many, at least twelve.
        size: of the longer side, in pixels.
        progress: wraps the list of studies, as tqdm does.

    Raises:
        InputError: an argument is out of range, or `root` holds something else.
    """
    if unknown := [area for area in areas if area not in AREAS]:
        raise InputError(f"phantom: no area {unknown[0]!r}; there are {', '.join(AREAS)}")
    if not (areas and 1 <= patients <= MOST_PATIENTS and 64 <= size <= 2048 and seed >= 0):
        raise InputError(
            f"phantom: areas={list(areas)} (at least one), {patients=} (1 to {MOST_PATIENTS}), "
            f"{size=} (64 to 2048), {seed=} (0 or more)"
        )
    chosen = [area for area in AREAS if area in areas]
    counts = {"train": patients, "valid": max(12, patients // 4)}
    plan = [
        s
        for split, n in counts.items()
        for area in chosen
        for s in plan_studies(split, area, n, seed)
    ]
    name = _first_component(root)
    tables = _tables(name, plan)
    arguments = {
        "areas": chosen,
        "patients": patients,
        "seed": seed,
        "size": size,
        "look": LOOK_VERSION,
    }
    if _is_complete(root, arguments, tables, plan):
        return

    root.mkdir(parents=True, exist_ok=True)
    files.replace_file(root / ARGUMENTS_FILE, f"{json.dumps(arguments)}\n".encode())
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
        files.replace_file(root / file, "".join(f"{line}\n" for line in lines).encode())


def plan_studies(split: str, area: str, patients: int, seed: int) -> Iterator[PhantomStudy]:
    """Yield the studies of an area's patients.

    Labels are dealt in blocks of `BLOCK` patients, so that any number of patients has about MURA's
    share of abnormal studies.
    """
    deal, share = BLOCK + TWICE, ABNORMAL_SHARES[area][split]
    for block in range(-(-patients // BLOCK)):
        rng = _stream(split, area, block, seed, use=1)
        abnormal = round((block + 1) * deal * share) - round(block * deal * share)
        labels = iter((rng.permutation(deal) < abnormal).tolist())
        views = iter(rng.choice((1, 2, 3), deal, p=VIEW_SHARES).tolist())
        twice = rng.choice(BLOCK, TWICE, replace=False)
        for i in range(BLOCK):
            patient = _patient(split, area, block, i, seed)
            for number in (1, 2) if i in twice else (1,):
                study = PhantomStudy(split, area, patient, number, next(labels), next(views))
                if block * BLOCK + i < patients:
                    yield study


def _patient(split: str, area: str, block: int, i: int, seed: int) -> int:
    """Return the number of the block's patient `i`.

    One patient of a block is also a patient of the area before, and has the number from there.
    """

    def is_shared(at: int) -> bool:
        return at > 0 and i == int(_stream(split, AREAS[at], block, seed, use=2).integers(BLOCK))

    at = AREAS.index(area)
    if is_shared(at) and not is_shared(at - 1):
        at -= 1
    return (block * BLOCK + i) * len(AREAS) + at + (VALID_FROM if split == "valid" else 1)


def _stream(split: str, area: str, block: int, seed: int, *, use: int) -> np.random.Generator:
    """Return the random numbers of one block of patients for one use."""
    return np.random.default_rng([seed, AREAS.index(area), int(split == "valid"), block, use, 2])


def _tables(name: str, plan: list[PhantomStudy]) -> dict[str, list[str]]:
    """Return the lines of MURA's four CSVs by file name; paths begin with `name`."""
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


def _first_component(root: Path) -> str:
    """Return the first component of the paths in MURA's CSVs.

    It is the folder's name if a CSV can hold that without quotes, otherwise `phantoms`. Readers of
    the CSVs take any first component for the folder that the CSVs lie in.
    """
    name = root.resolve().name
    return name if name.isprintable() and not {*name} & {*',"'} else "phantoms"


def _is_complete(
    root: Path, arguments: dict[str, Any], tables: dict[str, list[str]], plan: list[PhantomStudy]
) -> bool:
    """Whether this very phantom is there. Raises InputError if `root` holds another dataset."""
    note, there = root / ARGUMENTS_FILE, [file for file in tables if (root / file).exists()]
    if note.exists():
        try:
            other = json.loads(note.read_bytes())
        except ValueError:
            other = "unreadable arguments"
        if other != arguments:
            raise InputError(f"{note}: made with {other}, not {arguments}; choose another folder")
    elif there:
        raise InputError(f"{root / there[0]}: not made by the phantom; choose another folder")
    for file in there:
        if (root / file).read_bytes().splitlines() != [line.encode() for line in tables[file]]:
            raise InputError(
                f"{root / file}: changed since it was made; delete {root} to remake it"
            )
    images = (root / s.folder / f"image{view}.png" for s in plan for view in range(1, s.views + 1))
    tables_there = len(there) == len(tables) and (root / "lesions.csv").exists()
    return tables_there and all(image.exists() for image in images)


def _save(root: Path, study: PhantomStudy, *, seed: int, size: int) -> list[str]:
    """Write a study's views and return their rows of lesions.csv."""
    (root / study.folder).mkdir(parents=True, exist_ok=True)
    rows = []
    for view in range(1, study.views + 1):
        image, kind, box = draw_view(study, view, seed=seed, size=size)
        path = f"{study.folder}/image{view}.png"
        with files.name_os_errors(root / path):  # a full disk does not say which file it is about
            Image.fromarray(image).save(root / path, compress_level=1)
        if box:
            rows.append(",".join(map(str, (path, kind, *box))))
    return rows


def draw_contact_sheet(root: Path, out: Path, per_area: int = 6) -> None:
    """Draw one picture of a phantom dataset, with a row for each area.

    Normal views stand left, abnormal views right with the box and the kind of their lesion. `out`
    ends in one of SHEET_FORMATS.

    Raises:
        KeyError: `out` ends in something else.
        OSError: `out` cannot be written.
    """
    lesions = [
        line.split(",") for line in (root / "lesions.csv").read_text("utf-8").splitlines()[1:]
    ]
    boxes = {path: (kind, [int(n) for n in box]) for path, kind, *box in lesions}
    paths = (root / "train_image_paths.csv").read_text("utf-8").splitlines()
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
        by_kind = [[p for p in mine if p in boxes and boxes[p][0] == kind] for kind in LESION_KINDS]
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
    picture = io.BytesIO()
    sheet.save(picture, format=SHEET_FORMATS[out.suffix.lower()])
    files.replace_file(out, picture.getvalue())
