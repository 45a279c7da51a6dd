"""How fast are images read: all of a part from the cache, or study by study from files?

`evaluate` is what `mura evaluate` and each epoch do (`predict` on cached pixels), `study` what
`mura infer` does (decode, resize, one forward a study); the peer decodes and transforms each image
in a DataLoader with two workers. resnet18 with drawn weights, 512-pixel phantoms at 224 px.

Then a folder of 200 studies: `folder` is what `mura infer STUDIES` does (decode in threads, batches
across studies), `each` the same `Predictor` called once an image.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import peer
import torch
from measure import arguments, interleaved, opened, ratio, spread
from search import parts, phantom_data

from mura_tune.imaging.images import read_image, resize_to_square
from mura_tune.networks.factory import build_network
from mura_tune.reading.answer_studies import answer_all
from mura_tune.reading.readers import Predictor
from mura_tune.reading.studies import find_studies
from mura_tune.release.release import current_preprocessing, save_release
from mura_tune.release_format.entries import SIGMOID_OF_MEAN
from mura_tune.release_format.manifest import SCHEMA, parse_manifest
from mura_tune.training.batches import load_split, to_input
from mura_tune.training.fit import predict

CPU = torch.device("cpu")


def main() -> None:
    given = opened(arguments(__doc__, rounds=3))
    arch, size, patients = ("cnn", 64, 12) if given.quick else ("resnet18", 224, 60)
    with tempfile.TemporaryDirectory() as folder:
        data = phantom_data(Path(folder) / "phantoms", patients)
        prepared, files = parts(data, "XR_WRIST", size, Path(folder) / "cache")
        part, split = files["train"], load_split(prepared, "train", CPU)
        net = build_network(arch).eval()
        plain = build_network(arch).body.to(memory_format=torch.contiguous_format).eval()

        @torch.inference_mode()
        def theirs() -> None:
            for x, _ in peer.loader(part, size, 32):
                torch.sigmoid(plain(x))

        @torch.inference_mode()
        def by_study() -> None:
            for study in dict.fromkeys(part.studies):
                views = [f for f, s in zip(part.files, part.studies, strict=True) if s == study]
                pixels = torch.from_numpy(
                    np.stack([resize_to_square(read_image(view), size) for view in views])
                )
                net(to_input(pixels, CPU))

        def ms(run: Callable[[], object]) -> float:
            started = time.perf_counter()
            run()
            return (time.perf_counter() - started) / len(split) * 1000

        seen = interleaved(
            given.rounds,
            {
                "peer": lambda: ms(theirs),
                "study": lambda: ms(by_study),
                "evaluate": lambda: ms(lambda: predict(net, split)),
            },
        )
        for name, values in seen.items():
            print(f"{name}: {spread(values)} ms/image; peer / this {ratio(seen['peer'], values)}")
        many = data if given.quick else phantom_data(Path(folder) / "many", 140)
        many_studies(many, arch, size, given.rounds, Path(folder))


def many_studies(data: Path, arch: str, size: int, rounds: int, folder: Path) -> None:
    """A folder of 200 studies in one call, and an image a call."""
    release(folder / "release", arch, size)
    predictor = Predictor(folder / "release", CPU)
    asked = find_studies(data)[:200]
    images = [image for one in asked for image in one.images]

    def rate(run: Callable[[], object]) -> float:
        started = time.perf_counter()
        run()
        return len(images) / (time.perf_counter() - started)

    def in_one_call() -> None:
        answer_all(predictor, asked, data, folder / "answers.csv", print)
        (folder / "answers.csv").unlink()

    seen = interleaved(
        rounds,
        {
            "each": lambda: rate(lambda: [predictor.predict([image]) for image in images]),
            "folder": lambda: rate(in_one_call),
        },
    )
    print(f"{len(asked)} studies, {len(images)} images:")
    for name, values in seen.items():
        print(
            f"{name}: {spread(values, '.1f')} images/s; this / each {ratio(values, seen['each'])}"
        )


def release(folder: Path, arch: str, size: int) -> None:
    """A network with drawn weights, released as it is."""
    manifest = {
        "schema": SCHEMA,
        "area": "XR_WRIST",
        "arch": arch,
        "outputs": 1,
        "recipe_digest": "none",
        "preprocessing": current_preprocessing(size).to_json(),
        "calibration": {"temperature": 1.0, "offset": 0.0, "aggregation": SIGMOID_OF_MEAN},
        "recommended": "max_youden",
        "operating_points": {"max_youden": {"threshold": 0.5, "chosen": "by nobody"}},
        "abstain": {
            **{"low": 0.5, "high": 0.5, "share": 0.0},
            **{"error": 0.0, "error_without": 0.0, "bound": 0.0},
        },
    }
    save_release(folder, build_network(arch, size=size), parse_manifest(manifest, folder), {})


if __name__ == "__main__":
    main()
