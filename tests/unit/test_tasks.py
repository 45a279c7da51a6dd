"""Tasks: what their outputs mean, and that a chain asks the release that the router names."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mura_tune.config import load_config
from mura_tune.errors import InputError
from mura_tune.evaluation import routing
from mura_tune.metrics.estimates import sigmoid
from mura_tune.networks.heads import AreaHead, calm_classifier, shrink_classifier
from mura_tune.networks.network import Network
from mura_tune.reading.locate import release_for
from mura_tune.release import two_stage
from mura_tune.release_format.manifest import RouterManifest, parse_manifest
from mura_tune.training.batches import Split, view_shares
from mura_tune.training.tasks import ABNORMALITY_TASK, MULTI_TASK, ROUTER_TASK, Task

AREAS = ("XR_A", "XR_B", "XR_C")


def split(views: int = 2, studies: int = 60, seed: int = 0) -> Split:
    """Studies of three areas in turn, each of `views` views of one grey that tells the study."""
    rng = np.random.default_rng(seed)
    n = views * studies
    study = np.repeat(np.arange(studies), views)
    names = np.array([f"s{i:03}" for i in study])
    labels = torch.from_numpy(rng.integers(0, 2, studies)[study])
    pixels = torch.from_numpy(study.astype(np.uint8))[:, None, None].expand(n, 16, 16).clone()
    patients = np.array([f"p{i // 2:03}" for i in study])
    parts = torch.from_numpy(study % 3)
    return Split("test", pixels, labels, names, patients, names, AREAS, parts)


def test_a_studys_area_is_that_of_its_mean_logits() -> None:
    part = split(studies=3)
    logits = torch.zeros(6, 3)
    logits[torch.arange(6), part.area_labels] = 1.0
    logits[1] = torch.tensor([0.0, 3.0, 0.0])  # a view that is surer of another area outweighs
    found = ROUTER_TASK.table(logits, part)
    assert found.scores.tolist() == [0, 1, 1]
    assert found.labels.tolist() == [0, 1, 2]
    assert ROUTER_TASK.score(logits, part) == pytest.approx(2 / 3)
    logits[0, 0] = math.nan
    assert math.isnan(ROUTER_TASK.score(logits, part))


# One of each family that the documentation names or whose classifier a library draws in a way of
# its own, as small as it comes; for the first five timm's rule is U(-1, 1) for one logit.
FAMILIES = (
    "efficientnet_lite0",
    "mobilenetv3_small_050",
    "mnasnet_small",
    "tinynet_e",
    "ghostnet_050",
    "test_efficientnet",
    "test_vit",
    "test_convnext",
    "test_nfnet",
    "test_byobnet",
    "test_resnet",
    "densenet121",
    "regnetx_002",
    "swin_tiny_patch4_window7_224",
    "dla46x_c",
    "crossvit_tiny_240",
    "repvit_m0_9",
    "hybrid-test_resnet",
    "cnn",
)


def network(arch: str, task: Task, areas: int, *sets: str) -> Network:
    """A network that nobody trained, as a trial begins with it."""
    size = 240 if arch.startswith("crossvit") else 64
    given = [f"arch={arch}", f"size={size}", "pretrained=none", *sets]
    return task.network(load_config("XR_WRIST", given).recipe, areas)


def first_loss(arch: str, task: Task, train: Split, *sets: str) -> float:
    """The loss of a run's first step, of eight pictures of noise with labels of the training split
    in the frequencies that an epoch has."""
    side = 240 if arch.startswith("crossvit") else 64
    given = [f"arch={arch}", f"size={side}", "pretrained=none", *sets]
    recipe = load_config("multitask" if task is MULTI_TASK else "XR_WRIST", given).recipe
    net = task.start(recipe, train).train()
    noise = torch.randn(8, 1, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = net(noise)
    shares = torch.from_numpy(view_shares(train, recipe))
    loss, targets = task.loss(train, recipe), task.targets(train)
    each = [
        float(loss(logits, target.expand(8, *target.shape)).mean()) * share
        for target, share in zip(targets, shares.tolist(), strict=True)
    ]
    return math.fsum(each)


def unbalanced(studies: int = 60) -> Split:
    """A sixth of the studies is abnormal, and those have three views each, the others one; half of
    the studies shows the first area, a quarter each of the two others."""
    abnormal = np.arange(studies) % 6 == 0
    study = np.repeat(np.arange(studies), np.where(abnormal, 3, 1))
    names = np.array([f"s{i:03}" for i in study])
    labels = torch.from_numpy(abnormal[study].astype(np.int64))
    areas = torch.from_numpy(np.array([0, 1, 0, 2])[study % 4])
    pixels = torch.zeros(len(study), 16, 16, dtype=torch.uint8)
    return Split("train", pixels, labels, names, names, names, AREAS, areas)


def constant_loss(positives: float, weight: float, p: float, gamma: float = 0.0) -> float:
    """The mean loss of the answer p for every view; `weight` is of positives."""
    return -(
        weight * positives * (1 - p) ** gamma * math.log(p)
        + (1 - positives) * p**gamma * math.log(1 - p)
    )


def smoothed_loss(positives: float, weight: float, smoothing: float) -> float:
    """The smallest mean loss of one answer for every view, where labels are smoothed."""
    s, own = smoothing / 2, weight * positives
    for_abnormal = (1 - s) * own + s * (1 - positives)
    for_normal = s * own + (1 - s) * (1 - positives)
    total = for_abnormal + for_normal
    return total * entropy([for_abnormal / total, for_normal / total])


def entropy(frequencies: list[float]) -> float:
    return -sum(f * math.log(f) for f in frequencies)


@pytest.mark.parametrize("arch", FAMILIES)
def test_every_network_starts_at_the_weighted_prior(arch: str) -> None:
    train = unbalanced()
    share = float(train.labels.double().mean())
    weight = 1.5 * (1 - share) / share
    expected = constant_loss(share, weight, 0.6)
    found = first_loss(arch, ABNORMALITY_TASK, train, "class_weight=1.5")
    assert found == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (["sampling=balanced"], constant_loss(0.5, 1.5, 0.6)),
        (["loss=focal"], constant_loss(3 / 8, 1.5 * 5 / 3, 0.6, gamma=2)),
        (["label_smoothing=0.1"], smoothed_loss(3 / 8, 1.5 * 5 / 3, 0.1)),
        (["weigh=study"], constant_loss(1 / 6, 1.5 * 5, 0.6)),
        (["weigh=study", "sampling=balanced"], constant_loss(0.5, 1.5, 0.6)),
        (["sampling=balanced", "loss=focal"], constant_loss(0.5, 1.5, 0.6, gamma=2)),
    ],
)
def test_the_prior_is_that_of_the_sampling_and_the_weight(sets: list[str], expected: float) -> None:
    found = first_loss("cnn", ABNORMALITY_TASK, unbalanced(), "class_weight=1.5", *sets)
    assert found == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("arch", ["test_efficientnet", "hybrid-test_resnet", "cnn"])
@pytest.mark.parametrize("sampling", ["natural", "balanced"])
def test_heads_of_areas_start_at_their_frequencies(arch: str, sampling: str) -> None:
    train = unbalanced()
    counts = torch.bincount(train.area_labels).double()
    areas = entropy((counts / counts.sum()).tolist())
    if sampling == "balanced":  # abnormal studies are all of even numbers, so of areas 0 alone
        even = torch.tensor([1.0, 0.0, 0.0])
        rest = torch.tensor([20 / 50, 15 / 50, 15 / 50])
        areas = entropy(((even + rest) / 2).tolist())
    given = f"sampling={sampling}"
    assert first_loss(arch, ROUTER_TASK, train, given) == pytest.approx(areas, abs=0.02)
    share = 0.5 if sampling == "balanced" else 3 / 8
    both = constant_loss(share, (1 - share) / share, 0.5) + 0.3 * areas
    assert first_loss(arch, MULTI_TASK, train, given) == pytest.approx(both, abs=0.02)


def test_a_pretrained_network_answers_its_prior_exactly(tmp_path: Path) -> None:
    """Each fold of train has its own, and the backbone is as it was loaded."""
    torch.save(network("cnn", ABNORMALITY_TASK, 1).body.state_dict(), tmp_path / "start.pt")
    given = [f"pretrained={tmp_path / 'start.pt'}", "arch=cnn", "size=32"]
    recipe = load_config("router", given).recipe
    for train in (unbalanced(), unbalanced(36)):
        net = ROUTER_TASK.start(recipe, train)
        counts = torch.bincount(train.area_labels).double()
        answer = net(torch.randn(2, 1, 32, 32)).softmax(1).double()
        assert torch.allclose(answer, (counts / counts.sum()).expand(2, 3), atol=1e-6)
    net = ABNORMALITY_TASK.start(replace(recipe, class_weight=3.0), train)
    assert net(torch.randn(2, 1, 32, 32)).flatten().tolist() == pytest.approx([math.log(3)] * 2)


def test_a_class_that_train_lacks_leaves_the_prior_finite() -> None:
    train = unbalanced()
    train.labels.zero_()
    train.area_labels.zero_()
    recipe = load_config("multitask", ["arch=cnn", "pretrained=none", "size=32"]).recipe
    first = MULTI_TASK.prior(train, recipe)
    assert first[:2].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert first[2:].tolist() == pytest.approx([-math.log(len(train))] * 2)


@pytest.mark.parametrize("arch", ["cnn", "test_resnet", "densenet121"])
def test_a_head_that_is_small_stays_as_it_was_drawn(arch: str) -> None:
    """So what earlier recipes trained trains alike."""
    small, drawn = (
        network(arch, ABNORMALITY_TASK, 1, f"head_init={init}").body.state_dict()
        for init in ("small", "random")
    )
    assert all(torch.equal(small[name], drawn[name]) for name in drawn)


def test_a_head_without_layers_of_its_outputs_is_refused() -> None:
    for change in (
        shrink_classifier,
        partial(calm_classifier, seed=0),
        partial(calm_classifier, seed=None),
    ):
        with pytest.raises(InputError, match="no linear layer of 2 outputs"):
            change(nn.Linear(8, 1), 2)
    with pytest.raises(InputError, match="Linear has no bias to start at the prior"):
        calm_classifier(nn.Linear(8, 2, bias=False), 2, seed=0)


def test_the_part_that_a_network_sees_feeds_its_abnormality_logit() -> None:
    torch.manual_seed(0)
    head = AreaHead(8, 4)
    x = torch.randn(5, 8)
    logits = head(x)
    assert logits.shape == (5, 4)
    part = head.part(x)
    assert torch.equal(logits[:, 1:], part)
    seen = part.softmax(1) @ head.embedding
    assert torch.allclose(logits[:, :1], head.abnormal(torch.cat((x, seen), 1)))
    logits[:, 0].sum().backward()
    assert head.part.weight.grad is not None
    assert float(head.part.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("arch", ["cnn", "resnet18"])
def test_the_head_stands_where_the_classifier_was(arch: str) -> None:
    recipe = load_config("multitask", [f"arch={arch}", "pretrained=none", "size=32"]).recipe
    net = MULTI_TASK.network(recipe, 3)
    net.set_depth(0)
    trained = {name for name, p in net.body.named_parameters() if p.requires_grad}
    assert (
        trained == set(net.head) == {f"fc.{name}" for name, _ in AreaHead(4, 4).named_parameters()}
    )
    assert net.eval()(torch.zeros(2, 1, 32, 32)).shape == (2, 4)


def test_the_second_loss_counts_by_its_weight() -> None:
    part = split()
    logits = torch.randn(len(part), 4, generator=torch.Generator().manual_seed(0))
    targets = MULTI_TASK.targets(part)
    losses = [
        float(
            MULTI_TASK.loss(part, load_config("multitask", [f"aux_weight={w}"]).recipe)(
                logits, targets
            ).mean()
        )
        for w in (0.0, 0.5, 1.0)
    ]
    alone = float(nn.functional.cross_entropy(logits[:, 1:], part.area_labels))
    assert losses[1] - losses[0] == pytest.approx(alone / 2, rel=1e-4)
    assert losses[2] - losses[0] == pytest.approx(alone, rel=1e-4)


def test_a_router_of_one_area_is_refused() -> None:
    with pytest.raises(InputError, match="two areas"):
        ROUTER_TASK.network(load_config("router", ["arch=cnn", "pretrained=none"]).recipe, 1)


def noisy(part: Split, sure: float, seed: int = 1) -> Tensor:
    """Logits that are right more often the larger `sure` is."""
    found = torch.randn(len(part), 3, generator=torch.Generator().manual_seed(seed))
    found[torch.arange(len(part)), part.area_labels] += sure
    return found


def test_figures_of_a_router_agree_with_scikit_learn() -> None:
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score

    part = split(studies=90)
    logits = noisy(part, 1.0)
    found = routing.evaluate_router(logits, part, routing.choose_router_decision(logits, part))
    true, called = found.recognition.studies.areas, found.recognition.studies.called
    for name, value in (
        ("accuracy", accuracy_score(true, called)),
        ("balanced_accuracy", balanced_accuracy_score(true, called)),
        ("macro_f1", f1_score(true, called, average="macro")),
    ):
        estimate = found.recognition.scores[name]
        assert estimate.value == pytest.approx(value)
        assert estimate.low < value < estimate.high
    assert (found.recognition.confusion == confusion_matrix(true, called)).all()


@pytest.mark.parametrize("sure", [1.0, 2.5, 9.0])
def test_a_router_abstains_below_the_confidence_that_dev_chose(sure: float) -> None:
    dev = split(studies=120)
    logits = noisy(dev, sure)
    chosen = routing.choose_router_decision(logits, dev)
    assert (
        routing.RouterDecision.from_manifest(RouterManifest.partial(**chosen.entries())) == chosen
    )
    found = routing.evaluate_router(logits, dev, chosen)
    told = found.abstention()
    assert told.studies / 120 == pytest.approx(chosen.share)
    assert told.error == pytest.approx(chosen.error)
    assert 0 < told.studies <= 60
    assert chosen.error <= max(routing.ERROR, chosen.error_without)


class _Says(nn.Module):
    """A network whose logit is a function of the picture's one grey, that is of its study."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, x_nchw: Tensor) -> Tensor:
        study = ((x_nchw[:, 0, 0, 0] * 0.226 + 0.449) * 255).round().long()
        return self.table[study]


def release(logits_mk: Tensor, **told: Any) -> Any:
    band = {"low": 0.5, "high": 0.5, "share": 0.0, "error": 0.0, "error_without": 0.0}
    values = {
        "schema": 2,
        "area": "XR_TEST",
        "arch": "cnn",
        "outputs": 1,
        "preprocessing": {"size": 32},
        "calibration": {"temperature": 1.0, "offset": 0.0},
        "operating_points": {"max_youden": {"threshold": 0.5, "chosen": "for a test"}},
        "recommended": "max_youden",
        "abstain": band,
        **told,
    }
    manifest = parse_manifest(values, "for a test")
    return SimpleNamespace(manifest=manifest, net=_Says(logits_mk), familiarity=None)


def test_a_study_sent_elsewhere_is_answered_there() -> None:
    part = split(studies=60)
    rng = torch.Generator().manual_seed(3)
    answers = torch.randn(3, 60, 1, generator=rng)
    releases = {area: release(answers[i]) for i, area in enumerate(AREAS)}
    sent = torch.arange(60) % 3
    sent[:6] = (sent[:6] + 1) % 3  # six studies go to the wrong release
    logits = torch.nn.functional.one_hot(sent, 3) * 4.0
    logits[0] /= 4  # and of one of them the router is not sure
    abstain = {"confidence": 0.9, "share": 0.0, "error": 0.0, "error_without": 0.0}
    router = release(logits, task="part", outputs=3, areas=list(AREAS), abstain=abstain)
    found = two_stage.evaluate_two_stages(router, releases, (), lambda size: part)
    assert (found.wrong, found.abstained) == (6, 1)
    labels = part.labels[::2].numpy()
    for estimate, asked in ((found.known, torch.arange(60) % 3), (found.routed, sent)):
        scores = sigmoid(answers[asked, torch.arange(60), 0].numpy())
        pairs = scores[labels == 1][:, None] - scores[labels == 0]
        assert estimate.value == pytest.approx(float((pairs > 0).mean()), abs=1e-6)
    assert found.cost.value == pytest.approx(found.routed.value - found.known.value)
    pooled = dict.fromkeys(AREAS, releases["XR_A"])
    found = two_stage.evaluate_two_stages(router, pooled, (), lambda size: part)
    assert (found.wrong, found.cost.value) == (0, 0)  # one release answers, whatever the area


def test_a_missing_release_is_named_and_replaced(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"XR_HAND: no release for XR_HAND, and none for pooled"):
        release_for(tmp_path.joinpath, "XR_HAND")
    for name in ("multitask", "ALL", "pooled", "XR_HAND"):
        (tmp_path / name).mkdir()
        folder, told = release_for(tmp_path.joinpath, "XR_HAND")
        assert folder.name == name
        assert (told is None) == (name == "XR_HAND")
