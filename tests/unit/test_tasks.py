"""Tasks: what their outputs mean, and that a chain asks the release that the router names."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mura_tune.config import load_config
from mura_tune.errors import InputError
from mura_tune.evaluation import routing
from mura_tune.metrics.estimates import sigmoid
from mura_tune.networks.heads import AreaHead, shrink_classifier
from mura_tune.networks.network import Network
from mura_tune.reading.locate import release_for
from mura_tune.release import two_stage
from mura_tune.release_format.manifest import RouterManifest, parse_manifest
from mura_tune.training.batches import Split
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


# One of each family whose classifier a library draws in a way of its own, as small as it comes; for
# the first five timm's rule is U(-1, 1) for one logit.
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


def first_logits(arch: str, task: Task, areas: int) -> Tensor:
    """What it says in its first step, of eight pictures of noise."""
    net, side = network(arch, task, areas).train(), 240 if arch.startswith("crossvit") else 64
    x = torch.randn(8, 1, side, side, generator=torch.Generator().manual_seed(0))
    return net(x)


@pytest.mark.parametrize("arch", FAMILIES)
def test_every_network_starts_near_the_prior(arch: str) -> None:
    """The first loss is about that of one half for every picture."""
    logits = first_logits(arch, ABNORMALITY_TASK, 1).detach()
    labels = torch.tensor([[1.0], [0.0]] * 4)
    assert float(F.binary_cross_entropy_with_logits(logits, labels)) < math.log(2) + 0.2


@pytest.mark.parametrize("arch", ["test_efficientnet", "hybrid-test_resnet", "cnn"])
@pytest.mark.parametrize("task", [ROUTER_TASK, MULTI_TASK], ids=["router", "multitask"])
def test_every_head_starts_near_the_prior(arch: str, task: Task) -> None:
    logits = first_logits(arch, task, 3).detach()
    areas = F.cross_entropy(logits[:, -3:], torch.tensor([0, 2] * 4))
    assert float(areas) < math.log(3) + 0.4
    if task is MULTI_TASK:
        assert float(logits[:, 0].abs().max()) < 1.5


@pytest.mark.parametrize("arch", ["cnn", "test_resnet", "densenet121"])
def test_a_head_that_is_small_stays_as_it_was_drawn(arch: str) -> None:
    """So what earlier recipes trained trains alike."""
    small, drawn = (
        network(arch, ABNORMALITY_TASK, 1, f"head_init={init}").body.state_dict()
        for init in ("small", "random")
    )
    assert all(torch.equal(small[name], drawn[name]) for name in drawn)


def test_a_head_without_layers_of_its_outputs_is_refused() -> None:
    with pytest.raises(InputError, match="no linear layer of 2 outputs"):
        shrink_classifier(nn.Linear(8, 1), 2)


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
            )
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
    return SimpleNamespace(manifest=manifest, net=_Says(logits_mk))


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


def test_a_missing_release_is_named_and_replaced(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"XR_HAND: no release for XR_HAND, and none for pooled"):
        release_for(tmp_path.joinpath, "XR_HAND")
    for name in ("multitask", "ALL", "pooled", "XR_HAND"):
        (tmp_path / name).mkdir()
        folder, told = release_for(tmp_path.joinpath, "XR_HAND")
        assert folder.name == name
        assert (told is None) == (name == "XR_HAND")
