"""fit: deterministic, frozen where it says so, and honest about the best epoch."""

import numpy as np
import pytest
import torch

from mura_tune.config import load_config
from mura_tune.errors import Diverged
from mura_tune.networks.factory import build_network
from mura_tune.networks.network import Network
from mura_tune.recipe import Recipe, apply_values
from mura_tune.training.batches import Split, training_batches
from mura_tune.training.fit import Epoch, fit, predict
from mura_tune.training.optim import WeightAverage
from mura_tune.training.tasks import ABNORMALITY_TASK, study_scores


def recipe(**values: object) -> Recipe:
    base = load_config("default").recipe
    small = {"arch": "cnn", "size": 32, "pretrained": "none", "batch": 16}
    phases = {"head.epochs": 1, "finetune.epochs": 2, "finetune.depth": 9, "finetune.lr": 1e-3}
    return apply_values(base, small | phases | values, "test")


def split(n: int, name: str = "train", seed: int = 0, side: int = 32) -> Split:
    """Noise; every second image also shows a bright square somewhere. Two views a study."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 120, (n, side, side), dtype=np.uint8)
    labels = np.arange(n) // 2 % 2
    for row in np.flatnonzero(labels):
        y, x = rng.integers(0, side - 8, 2)
        pixels[row, y : y + 8, x : x + 8] = 250
    studies = np.array([f"s{i // 2:03d}" for i in range(n)])
    paths = np.array([f"{i}.png" for i in range(n)])
    return Split(name, torch.from_numpy(pixels), torch.from_numpy(labels), studies, studies, paths)


TRAIN, DEV = split(64), split(40, "dev", 1)


def run(given: Recipe, arch: str = "cnn") -> tuple[Network, list[Epoch]]:
    net, seen = build_network(arch, seed=given.seed), []
    fit(net, TRAIN, DEV, given, ABNORMALITY_TASK, on_epoch=seen.append)
    return net, seen


def test_it_learns_and_reports_every_epoch() -> None:
    net, seen = run(recipe(**{"finetune.epochs": 8, "finetune.lr": 3e-3}))
    assert [e.number for e in seen] == list(range(1, 10))
    assert [e.phase for e in seen] == [1] + [2] * 8
    assert [e.depth for e in seen] == [0] + [5] * 8
    assert max(e.score for e in seen) > 0.9
    assert ABNORMALITY_TASK.score(predict(net, DEV), DEV) == max(e.score for e in seen)


def test_the_same_seed_gives_the_same_weights_to_the_bit() -> None:
    one, other = run(recipe())[0].state_dict(), run(recipe())[0].state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    third = run(recipe(seed=1))[0].state_dict()
    assert any(not torch.equal(one[name], third[name]) for name in one)


@pytest.mark.parametrize("arch", ["cnn", "resnet18", "densenet121"])
def test_depth_zero_leaves_the_backbone_to_the_bit(arch: str) -> None:
    given = recipe(**{"finetune.depth": 0})
    before = {
        k: v.clone() for k, v in build_network(arch, seed=given.seed).body.state_dict().items()
    }
    net, _ = run(given, arch)
    after = net.body.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == set(net.head)


def test_depth_one_changes_the_last_stage_and_its_statistics_only() -> None:
    given = recipe(**{"finetune.depth": 1, "head.epochs": 0, "finetune.epochs": 1})
    before = {k: v.clone() for k, v in build_network("resnet18", seed=0).body.state_dict().items()}
    net, _ = run(given, "resnet18")
    after = net.body.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[0] for name in changed} == {"layer4", "fc"}
    assert "layer4.0.bn1.running_mean" in changed


def test_the_best_epoch_is_kept_as_a_clone_and_restored() -> None:
    kept: dict[int, torch.Tensor] = {}
    net = build_network("cnn", seed=0)

    def remember(epoch: Epoch) -> None:
        kept[epoch.number] = net.body.fc.weight.detach().clone()

    given = recipe(**{"finetune.epochs": 6, "finetune.lr": 0.05})
    found = fit(net, TRAIN, DEV, given, ABNORMALITY_TASK, on_epoch=remember)
    assert found.epoch.score == max(e.score for e in found.epochs)
    assert torch.equal(found.weights["fc.weight"], kept[found.epoch.number])
    assert torch.equal(net.body.fc.weight, kept[found.epoch.number])
    assert len({float(w.sum()) for w in kept.values()}) == len(kept)


def test_patience_ends_a_phase_and_not_the_run() -> None:
    given = recipe(
        **{
            "head.epochs": 5,
            "finetune.epochs": 9,
            "patience": 2,
            "head.lr": 1e-9,
            "finetune.lr": 1e-9,
            "finetune.depth": 0,
        }
    )
    _, seen = run(given)
    assert [e.phase for e in seen] == [1, 1, 1, 2, 2]


def test_a_loss_that_is_no_number_stops_with_its_step() -> None:
    with pytest.raises(Diverged, match=r"step \d+ of epoch 1"):
        run(recipe(**{"finetune.lr": 1e30, "head.epochs": 0}))


def test_what_on_epoch_raises_ends_the_run() -> None:
    def stop(epoch: Epoch) -> None:
        raise KeyError(epoch.number)

    with pytest.raises(KeyError):
        fit(build_network("cnn"), TRAIN, DEV, recipe(), ABNORMALITY_TASK, on_epoch=stop)


def test_class_weight_moves_the_scores() -> None:
    means = []
    for weight in (0.05, 20.0):
        net, _ = run(recipe(class_weight=weight, **{"head.epochs": 0, "finetune.lr": 0.01}))
        means.append(study_scores(predict(net, DEV), DEV).scores.mean())
    assert means[1] > means[0] + 0.1


@pytest.mark.parametrize(("n", "size"), [(33, 16), (17, 16), (3, 16), (2, 2)])
def test_batches_hold_each_image_once_and_none_is_too_small(n: int, size: int) -> None:
    part = split(n)
    device = torch.device("cpu")
    batches = list(training_batches(part, size=size, seed=0, epoch=1, strength=0.0, device=device))
    assert all(2 <= len(x) <= size for x, _ in batches)
    total = torch.cat([x for x, _ in batches]).sum(dtype=torch.float64)
    pixels = part.pixels.double() / 255
    expected = ((pixels - 0.449) / 0.226).sum()
    assert float(total) == pytest.approx(float(expected), rel=1e-4)
    assert sorted(torch.cat([rows for _, rows in batches]).tolist()) == list(range(n))


def test_predict_keeps_order_and_mode() -> None:
    net = build_network("cnn").train()
    logits = predict(net, DEV)
    assert net.training
    assert logits.shape == (40, 1)
    assert logits.dtype == torch.float32
    part = Split(
        "dev", DEV.pixels[7:9], DEV.labels[7:9], DEV.studies[7:9], DEV.patients[7:9], DEV.paths[7:9]
    )
    assert torch.allclose(predict(net, part), logits[7:9], atol=1e-5)


@pytest.mark.parametrize("bad", ["labels", "dtype"])
def test_a_split_that_does_not_align_is_refused(bad: str) -> None:
    pixels = DEV.pixels.float() if bad == "dtype" else DEV.pixels
    labels = DEV.labels[:3] if bad == "labels" else DEV.labels
    with pytest.raises(ValueError, match=r"labels has 3 rows|must be uint8"):
        Split("dev", pixels, labels, DEV.studies, DEV.patients, DEV.paths)


@pytest.mark.parametrize(("keep", "number"), [("best", 1), ("last", 3)])
def test_a_run_ends_with_the_epoch_that_keep_names(keep: str, number: int) -> None:
    """The weights hardly move, so that all scores are equal: `best` keeps the first."""
    given = recipe(
        keep=keep, **{"head.lr": 1e-7, "finetune.lr": 1e-7, "finetune.depth": 0, "augment": 0.0}
    )
    net, states = build_network("cnn", seed=0), []

    def remember(epoch: Epoch) -> None:
        states.append(net.body.fc.weight.detach().clone())

    result = fit(net, TRAIN, DEV, given, ABNORMALITY_TASK, on_epoch=remember)
    assert len({epoch.score for epoch in result.epochs}) == 1
    assert result.epoch is result.epochs[number - 1]
    assert torch.equal(net.body.fc.weight, states[number - 1])
    assert not torch.equal(states[0], states[2])


def test_the_average_of_weights_is_judged_and_kept_and_changes_no_step() -> None:
    """Its time constant is far longer than the run: it stays near the first weights."""
    plain = run(recipe())[1]
    near = fit(net := build_network("cnn", seed=0), TRAIN, DEV, recipe(ema=1e6), ABNORMALITY_TASK)
    start = build_network("cnn", seed=0).body.state_dict()
    assert [e.loss for e in near.epochs] == [e.loss for e in plain]
    assert torch.allclose(net.body.fc.weight, start["fc.weight"], atol=1e-5)
    short = run(recipe(ema=1e-3))[1]  # the last step is all that counts
    assert [e.score for e in short] == [e.score for e in plain]


def test_an_average_of_two_steps_is_what_its_formula_says() -> None:
    average = WeightAverage(net := build_network("cnn", seed=0), epochs=0.5, steps=4)
    first, share = net.body.fc.weight.detach().clone(), 1 - np.exp(-1 / 2)
    expected = first
    for step in (1.0, 3.0):
        with torch.no_grad():
            net.body.fc.weight.copy_(first + step)
        average.update()
        expected = expected + share * (first + step - expected)
    with average.applied():
        assert torch.allclose(net.body.fc.weight, expected)
    assert torch.equal(net.body.fc.weight, first + 3.0)


@pytest.mark.parametrize(("pretrained", "moves"), [("imagenet", False), ("none", True)])
def test_statistics_of_a_start_stay_where_the_recipe_says_so(pretrained: str, moves: bool) -> None:
    given = recipe(batch_norm="start", pretrained=pretrained, keep="last")
    before = {k: v.clone() for k, v in build_network("cnn", seed=0).body.state_dict().items()}
    net, _ = run(given)
    after = net.body.state_dict()
    statistics = [name for name in before if name.endswith("running_mean")]
    assert statistics
    assert all(torch.equal(before[name], after[name]) is not moves for name in statistics)
    assert all(not torch.equal(before[n], after[n]) for n in before if n.endswith(".weight"))
