"""Do fingerprints of 16 x 16 pixels tell pictures that were saved anew, and no others?

Real radiographs of shared/ and phantoms, at 224 and at 96 px a side. Different pictures: the
largest correlation of each picture's fingerprint with any other's that the detailed comparison
(`data.duplicates`) does not take for the same picture, in eight orientations. Copies: each picture
halved, turned and saved as JPEG of quality 60; made darker, at quality 85; or cut by 2 % of a
side. What is printed: the largest correlations of different pictures, the least and the 1 %
quantile of copies', and the share of each that reaches the limit.
"""

import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measure import REAL, arguments, is_here, opened
from PIL import Image

from mura_tune.data.duplicates import group_copies
from mura_tune.data.fingerprints import NEEDED, compute_fingerprints, correlate_fingerprints
from mura_tune.errors import MuraError
from mura_tune.imaging.images import read_image, resize_to_square
from mura_tune.phantoms.dataset import write_phantoms


def pictures(root: Path, most: int | None = None) -> list[np.ndarray]:
    read = []
    for path in sorted(root.rglob("*.png"))[:most]:
        try:
            read.append(read_image(path))
        except MuraError:  # planted damage
            continue
    return read


def save_anew(picture: np.ndarray, quality: int, scale: float, gain: float) -> np.ndarray:
    height, width = picture.shape
    image = Image.fromarray((picture * gain).astype(np.uint8))
    image = image.resize((max(1, int(width * scale)), max(1, int(height * scale))))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def cut(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape
    return picture[height // 50 :, width // 50 :]


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "halved, turned, JPEG 60": lambda p: np.rot90(save_anew(p, 60, 0.5, 1.0)),
    "darker, JPEG 85": lambda p: save_anew(p, 85, 1.0, 0.85),
    "cut by 2 %": cut,
}


def prints(read: list[np.ndarray], side: int) -> np.ndarray:
    squares = np.stack([resize_to_square(np.ascontiguousarray(one), side) for one in read])
    return compute_fingerprints(squares, np.arange(len(squares)))


def main() -> None:
    quick = opened(arguments(__doc__)).quick
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "phantoms"
        write_phantoms(root, areas=("XR_WRIST", "XR_HAND"), patients=5 if quick else 150, size=256)
        sets = {"phantoms": pictures(root)}
    if is_here(REAL):
        sets["real radiographs"] = pictures(REAL, 20 if quick else None)
    for name, read in sets.items():
        groups = group_copies(np.stack([resize_to_square(one, 224) for one in read]))
        for side in (224, 96):
            known = prints(read, side)
            different = np.array(
                [
                    correlate_fingerprints(known[i : i + 1], known[groups != groups[i]])[0]
                    for i in range(len(known))
                ]
            )
            top = " ".join(f"{value:.3f}" for value in np.sort(different)[::-1][:3])
            print(f"\n{name} at {side} px: {len(read)} pictures, limit {NEEDED}")
            print(f"  different pictures, largest {top}; {np.sum(different >= NEEDED)} reach it")
            for kind, copy in COPIES.items():
                copies = prints([copy(one) for one in read], side)
                like = np.array(
                    [
                        correlate_fingerprints(copies[i : i + 1], known[i : i + 1])[0]
                        for i in range(len(known))
                    ]
                )
                least, low = np.quantile(like, [0, 0.01])
                share = np.mean(like >= NEEDED)
                print(f"  {kind:<24} least {least:.3f}, 1 % {low:.3f}; {share:.3f} reach it")


if __name__ == "__main__":
    main()
