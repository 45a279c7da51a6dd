"""Which pictures does a release refuse as not like the radiographs that it was trained on?

Run: .venv/bin/python benchmarks/limits.py [--quick] [--out FILE]. EfficientNet-Lite0 from ImageNet
weights, and the small network from random ones, are trained at 64 px on the real radiographs of
shared/ and on phantom wrists. Each then meets its own test studies, new patients of the same kind
(phantoms alone have them), other radiographs, and what is none. A study of a kind is one picture,
but the phantoms' and the real ones'. The numbers of `describe_pictures` were chosen on other
pictures: scikit-image's retina, moon and cells, SciPy's raccoon and stairs, photographs of gradio
and mahotas, faces, other noise and frames.

Printed for each: the share of studies that is refused with its 95 % interval, by patients where
there are some, else Wilson's as if pictures were independent, which crops of one photograph are
not; and the AUC with which the distance tells them from the test studies. The first table is the
rule that releases have, the second its two halves and other rules on the same pictures: the shares
alone. At the end stands what a pass costs with the distances and without.

Pictures: photographs and pages of text of scikit-learn, matplotlib and scikit-image (where that is
installed), each whole and four crops; a chest and a leg of pydicom-data, whole, mirrored, at four
exposures, and (the chest) twelve crops; drawn text; frames of one grey, some with a little noise;
noise, uniform and normal.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np
import torch
from measure import REAL, SMALL_CNN, arguments, is_here, opened
from PIL import Image, ImageDraw
from sklearn.metrics import roc_auc_score

from mura_tune import config
from mura_tune.data.prepare import Prepared, open_area, open_dataset, prepare
from mura_tune.evaluation.familiarity import (
    SHARE,
    FamiliarityRule,
    choose_rule,
    estimate_unfamiliar,
    measure_features,
    measure_split,
    predict_with_distances,
)
from mura_tune.evaluation.picture_rule import PictureRule, choose_picture_rule
from mura_tune.imaging.images import read_image, resize_to_square
from mura_tune.metrics.distances import (
    choose_bound,
    fit_distribution,
    largest_by_study,
)
from mura_tune.metrics.estimates import interval_text, wilson_interval
from mura_tune.networks.factory import build_network
from mura_tune.networks.features import answer_with_features, describe_pictures
from mura_tune.networks.network import Model
from mura_tune.phantoms.dataset import write_phantoms
from mura_tune.recipe import apply_values
from mura_tune.release.refit import load_all_patients
from mura_tune.training.batches import Split, load_split, plain_batches
from mura_tune.training.fit import fit
from mura_tune.training.tasks import ABNORMALITY_TASK

SIZE, CPU = 64, torch.device("cpu")
OTHERS = ("XR_ELBOW", "XR_HAND", "XR_SHOULDER")
LITE0 = {
    "arch": "tf_efficientnet_lite0",
    "pretrained": "imagenet",
    "head.epochs": 2,
    "finetune.epochs": 4,
}
NETWORKS = {"lite0": LITE0, "small": {**SMALL_CNN, "finetune.epochs": 10}}
COST_ARCHES, COST_SIZE = ("tf_efficientnet_lite0", "resnet18", "densenet121"), 224
CROPS, PICTURES = 4, "astronaut camera chelsea coffee coins motorcycle_left brick grass gravel"


# ---- pictures ----


def grey(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("L"))


def crops(picture: np.ndarray, number: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """A picture, and so many parts of it."""
    yield picture
    height, width = picture.shape
    for _ in range(number):
        share = rng.uniform(0.35, 0.8)
        top, left = (int(rng.uniform(0, 1 - share) * side) for side in (height, width))
        yield picture[top : top + int(share * height), left : left + int(share * width)]


def photographs() -> tuple[list[Path], list[Path]]:
    """Files of photographs, and of pages of text."""
    images = folder_of("sklearn") / "datasets" / "images"
    photos = [images / "china.jpg", images / "flower.jpg"]
    photos.append(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    if importlib.util.find_spec("skimage") is None:
        print("scikit-image is not installed: fewer photographs, and drawn text alone")
        return photos, []
    images = folder_of("skimage") / "data"
    photos += [images / f"{name}.png" for name in PICTURES.split()] + [images / "rocket.jpg"]
    return photos, [images / "page.png", images / "text.png"]


def folder_of(package: str) -> Path:
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0])


def draw_text(rng: np.random.Generator) -> np.ndarray:
    page = Image.new("L", (300, 300), int(rng.integers(200, 256)))
    pen = ImageDraw.Draw(page)
    for line in range(10, 290, 14):
        letters = (chr(rng.integers(97, 123)) if rng.random() < 0.85 else " " for _ in range(45))
        pen.text((10, line), "".join(letters), fill=int(rng.integers(0, 60)))
    return np.asarray(page)


def radiograph(name: str) -> list[np.ndarray]:
    """A film of pydicom-data: whole, mirrored, and at four exposures."""
    import pydicom.data

    path = pydicom.data.get_testdata_file(name, download=False)
    if path is None:
        return []
    film = read_image(Path(path))
    exposed = [(255 * (film / 255) ** power).astype(np.uint8) for power in (0.6, 0.8, 1.3, 1.7)]
    return [film, np.fliplr(film), *exposed]


def normal(mean: float, deviation: float, rng: np.random.Generator) -> np.ndarray:
    return np.clip(rng.normal(mean, deviation, (256, 256)), 0, 255).astype(np.uint8)


def no_radiographs() -> dict[str, list[np.ndarray]]:
    """What no release of ours was trained on, by what it is."""
    rng = np.random.default_rng(0)
    photos, pages = photographs()
    chest = radiograph("RG1_UNCR.dcm")
    frames = [np.full((256, 256), value, np.uint8) for value in (0, 3, 16, 40, 80, 128, 200, 255)]
    frames += [normal(mean, deviation, rng) for mean in (20, 60, 120, 200) for deviation in (2, 6)]
    noise = [rng.integers(0, 256, (256, 256)).astype(np.uint8) for _ in range(12)]
    noise += [normal(128, deviation, rng) for deviation in (15, 30, 60, 90) for _ in range(3)]
    return {
        "photographs": [part for path in photos for part in crops(grey(path), CROPS, rng)],
        "text": [draw_text(rng) for _ in range(30)]
        + [part for path in pages for part in crops(grey(path), CROPS, rng)],
        "chest film": chest,
        "parts of it": list(crops(chest[0], 12, rng))[1:] if chest else [],
        "leg film": radiograph("RG3_UNCR.dcm"),
        "empty frames": frames,
        "noise": noise,
    }


def as_split(pictures: Sequence[np.ndarray]) -> Split:
    """Pictures as studies of one view, each of its own patient."""
    squares = [resize_to_square(np.ascontiguousarray(picture), SIZE) for picture in pictures]
    names = np.array([f"{number:06d}" for number in range(len(squares))], object)
    labels = torch.zeros(len(squares), dtype=torch.int64)
    return Split("none", torch.from_numpy(np.stack(squares)), labels, names, names, names)


# ---- releases ----


def open_divided(root: Path, area: str, cache: Path) -> Prepared:
    return prepare(open_dataset(root), area, SIZE, config.load_config(area).split, cache)


def open_all(root: Path, area: str, cache: Path) -> Split:
    """Every view of an area."""
    images = open_area(open_dataset(root), area, SIZE, cache)
    frame = images.frame
    return Split(
        name="all",
        pixels=torch.from_numpy(np.array(images.pixels)),
        labels=torch.from_numpy(frame["label"].to_numpy(np.int64, copy=True)),
        studies=frame["study"].to_numpy(object),
        patients=frame["patient"].to_numpy(object),
        paths=frame["path"].to_numpy(object),
    )


def train(values: Mapping[str, object], prepared: Prepared, quick: bool) -> Model:
    recipe = apply_values(
        config.load_config(prepared.area).recipe, {**values, "size": SIZE}, "limits"
    )
    if quick:
        recipe = apply_values(recipe, {"head.epochs": 0, "finetune.epochs": 1}, "limits")
    own, dev = (load_split(prepared, name, CPU) for name in ("train", "dev"))
    net = ABNORMALITY_TASK.start(recipe, own)
    result = fit(net, own, dev, recipe, ABNORMALITY_TASK)
    print(f"  dev AUC {result.epoch.score:.3f} after epoch {result.epoch.number}")
    return net.eval()


# ---- rules ----


@dataclass(frozen=True, eq=False)
class Meeting:
    """A network, its splits, and the kinds of pictures that it meets, by name."""

    net: Model
    train: Split
    dev: Split
    everyone: Split
    kinds: Mapping[str, Split]


def print_rule(meeting: Meeting, patients: frozenset[str]) -> FamiliarityRule:
    """The rule of releases. The first kind is the test split."""
    pictures = choose_picture_rule(meeting.everyone, SHARE)
    assert pictures is not None
    features = measure_features(meeting.net, meeting.train, meeting.dev)
    rule = choose_rule([features], meeting.dev.studies, pictures)
    assert rule is not None
    print(
        f"  {rule.views} train views, {len(rule.depths)} depths, "
        f"{len(rule.to_bytes()) / 1e6:.2f} MB; threshold {rule.threshold:.2f} from {rule.studies} "
        f"dev studies, pictures' from {pictures.studies} of train and dev: at most "
        f"{rule.share - pictures.share:.3f} + {pictures.share:.3f} of studies like these"
    )
    print(f"  {'':<28} studies  refused               AUC")
    own = None
    for name, split in meeting.kinds.items():
        distances_m = by_study(rule, meeting.net, split)
        n, refused = len(distances_m), distances_m > rule.threshold
        if name in patients:
            share = estimate_unfamiliar(refused, split).share
            text = share.brief()
        else:
            text = f"{refused.mean():.3f} {interval_text(*wilson_interval(refused.mean(), n))}"
        own, told = (distances_m, "") if own is None else (own, f"{auc(own, distances_m):.3f}")
        print(f"  {name:<28} {n:>7}  {text:<21} {told}")
    return rule


def by_study(rule: FamiliarityRule, net: Model, split: Split) -> np.ndarray:
    return largest(lambda split: measure_views(net, split, rule), split)


def measure_views(net: Model, split: Split, rule: FamiliarityRule) -> np.ndarray:
    _, distances = predict_with_distances(net, split, rule)
    assert distances is not None
    return distances


def auc(own: np.ndarray, other: np.ndarray) -> float:
    labels = np.r_[np.zeros(len(own)), np.ones(len(other))]
    return float(roc_auc_score(labels, np.r_[own, other]))


Scorer = Callable[[Split], np.ndarray]  # the distance of each view, (N,)


def released_rules(net: Model, rule: FamiliarityRule) -> dict[str, tuple[Scorer, float]]:
    """The rule of releases and its two halves, each with its bound."""

    def scorer(own: FamiliarityRule) -> Scorer:
        return lambda split: measure_views(net, split, own)

    pictures = rule.pictures
    assert pictures is not None
    return {
        "as released": (scorer(rule), rule.threshold),
        "features alone": (scorer(replace(rule, pictures=None)), rule.threshold),
        "pictures alone": (
            lambda split: np.concatenate([*map(pictures.measure, plain_batches(split, 32, CPU))]),
            1.0,
        ),
    }


@torch.inference_mode()
def read_features(net: Model, split: Split) -> list[np.ndarray]:
    """The pooled features of a split's views at each depth."""
    batches = [answer_with_features(net, x)[1] for x in plain_batches(split, 32, CPU)]
    return [torch.cat(parts).numpy() for parts in zip(*batches, strict=True)]


def means(features: list[np.ndarray]) -> list[np.ndarray]:
    return [one[:, : one.shape[1] // 2] for one in features]


def other_rules(meeting: Meeting) -> dict[str, Scorer]:
    """Distances by what they rest on; the last depth's mean is what a classifier takes."""
    net, own, dev = meeting.net, meeting.train, meeting.dev
    trained = measure_features(net, own, dev)
    of_train, of_dev = read_features(net, own), read_features(net, dev)

    def joined(join: Callable[[np.ndarray], np.ndarray]) -> Scorer:
        scales = np.median(trained.distances, axis=0)
        return lambda split: join(measure_split(net, trained.depths, split) / scales)

    def neighbours(take: Callable[[list[np.ndarray]], list[np.ndarray]], unit: bool) -> Scorer:
        known = take(of_train)
        widths = [one.std(0).mean() for one in known]

        def measure(features: list[np.ndarray]) -> np.ndarray:
            pairs = zip(known, take(features), widths, strict=True)
            return np.stack([fifth_nearest(a, b, unit) / width for a, b, width in pairs], axis=1)

        scales = np.median(measure(of_dev), axis=0)
        return lambda split: np.sqrt(((measure(read_features(net, split)) / scales) ** 2).mean(1))

    def mahalanobis(take: Callable[[list[np.ndarray]], list[np.ndarray]]) -> Scorer:
        fitted = [fit_distribution(one) for one in take(of_train)]

        def measure(features: list[np.ndarray]) -> np.ndarray:
            pairs = zip(fitted, take(features), strict=True)
            return np.stack([one.measure(x) for one, x in pairs], axis=1)

        scales = np.median(measure(of_dev), axis=0)
        return lambda split: np.sqrt(((measure(read_features(net, split)) / scales) ** 2).mean(1))

    return {
        "largest of the depths": joined(lambda d: d.max(1)),
        "without deviations": mahalanobis(means),
        "last depth alone": mahalanobis(lambda features: features[-1:]),
        "pooled, before the head": mahalanobis(lambda features: means(features)[-1:]),
        "5th nearest, all depths": neighbours(lambda features: features, unit=False),
        "5th nearest, pooled": neighbours(lambda features: means(features)[-1:], unit=False),
        "5th nearest, pooled, cosine": neighbours(lambda f: means(f)[-1:], unit=True),
    }


def fifth_nearest(known: np.ndarray, rows: np.ndarray, unit: bool) -> np.ndarray:
    """The distance of each row from the fifth nearest known one."""
    if unit:
        known, rows = (
            x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9) for x in (known, rows)
        )
    squares = (rows**2).sum(1)[:, None] + (known**2).sum(1) - 2 * rows @ known.T
    return np.sqrt(np.maximum(np.partition(squares, 4, axis=1)[:, 4], 0))


def print_others(meeting: Meeting, rule: FamiliarityRule) -> None:
    kinds = list(meeting.kinds)
    print(f"  {'share refused by':<28} " + " ".join(f"{kind[:11]:>11}" for kind in kinds))
    scorers = released_rules(meeting.net, rule)
    for name, score in other_rules(meeting).items():
        scorers[name] = score, choose_bound(largest(score, meeting.dev), SHARE)[0]
    for name, (score, threshold) in scorers.items():
        shares = [float((largest(score, s) > threshold).mean()) for s in meeting.kinds.values()]
        print(f"  {name:<28} " + " ".join(f"{share:>11.3f}" for share in shares))


def largest(score: Scorer, split: Split) -> np.ndarray:
    _, inverse = np.unique(split.studies, return_inverse=True)
    return largest_by_study(score(split), inverse)


def print_cost(arches: Sequence[str], rounds: int) -> None:
    """What the features add to a pass, in CPU time, on networks with random weights."""
    rng = np.random.default_rng(0)
    x_nchw = torch.randn(8, 1, COST_SIZE, COST_SIZE)
    print(f"\nseconds of a core for 8 views of {COST_SIZE} px: the pass alone, with distances")
    for arch in arches:
        net = build_network(arch, size=COST_SIZE, seed=0).eval()
        with torch.inference_mode():
            _, features = answer_with_features(net, x_nchw)
            widths = [one.shape[1] for one in features]
            depths = tuple(
                fit_distribution(rng.normal(size=(50, w)).astype(np.float32)) for w in widths
            )
            pictures = PictureRule(fit_distribution(describe_pictures(x_nchw)), 1.0, 0.0, 1)
            rule = FamiliarityRule(depths, np.ones(len(depths)), 1.0, 0.0, 1, 50, pictures)
            pairs = [cost_pair(net, x_nchw, rule) for _ in range(rounds)]
        alone, whole = np.median(pairs, axis=0)
        ratios = [second / first for first, second in pairs]
        print(
            f"  {arch:<22} {alone:.3f}, {whole:.3f}: ratio {np.median(ratios):.2f} "
            f"[{min(ratios):.2f}, {max(ratios):.2f}]"
        )


def cost_pair(net: Model, x_nchw: torch.Tensor, rule: FamiliarityRule) -> tuple[float, float]:
    start = time.process_time()
    net(x_nchw)
    middle = time.process_time()
    rule.measure(x_nchw, answer_with_features(net, x_nchw)[1])
    return middle - start, time.process_time() - middle


def main() -> None:
    quick = opened(arguments(__doc__)).quick
    others = {name: as_split(some) for name, some in no_radiographs().items() if some}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, areas, patients, seed in (
            ("own", ("XR_WRIST",), 300, 0),
            ("new", ("XR_WRIST",), 300, 11),
            ("other", OTHERS, 60, 5),
        ):
            number = patients // 6 if quick else patients
            write_phantoms(root / name, areas=areas, patients=number, seed=seed, size=256)
        own = open_divided(root / "own", "XR_WRIST", root / "own-cache")
        test = load_split(own, "test", CPU)
        phantoms = {
            f"phantom {area[3:].lower()}s": open_all(root / "other", area, root / "other-cache")
            for area in OTHERS
        }
        wrists = {"test, phantom wrists": test}
        wrists["new phantom wrists"] = open_all(root / "new", "XR_WRIST", root / "new-cache")
        sets = {"phantom wrists": (own, {**wrists, **phantoms})}
        if is_here(REAL):
            real = open_divided(REAL, "XR_MIXED", root / "real-cache")
            films = load_split(real, "test", CPU)
            sets["phantom wrists"][1]["real radiographs"] = films
            elsewhere = {"phantom wrists": test, **phantoms}
            sets["real radiographs"] = (real, {"test, real radiographs": films, **elsewhere})
        for title, (prepared, kinds) in sets.items():
            for network in ["small"] if quick else NETWORKS:
                print(f"\n{network} on {title}")
                net = train(NETWORKS[network], prepared, quick)
                own_train, dev = (load_split(prepared, name, CPU) for name in ("train", "dev"))
                everyone = load_all_patients(prepared, CPU)
                meeting = Meeting(net, own_train, dev, everyone, {**kinds, **others})
                rule = print_rule(meeting, frozenset(kinds))
                print()
                print_others(meeting, rule)
    print_cost(COST_ARCHES[: 1 if quick else None], 2 if quick else 10)


if __name__ == "__main__":
    main()
