"""Optimiser and schedule: which rate each stage gets, and how it goes from step to step."""

import functools
import math

import pytest
import torch
from test_fit import recipe, run

from mura_tune.networks.factory import build_network
from mura_tune.recipe import Recipe
from mura_tune.training import optim

STEPS = 40


def rates(given: Recipe, waited: dict[int, int] | None = None, epoch: int = 10) -> list[float]:
    """The learning rate of each of STEPS steps; `waited` tells it, after which epoch, how long
    there was none better."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=2.0)
    schedule = optim.Schedule(optimiser, given, STEPS)
    found = []
    for step in range(STEPS):
        found.append(optimiser.param_groups[0]["lr"])
        schedule.step()
        if (step + 1) % epoch == 0:
            schedule.waited((waited or {}).get((step + 1) // epoch, 0))
    return found


def by_name(given: Recipe, arch: str, depth: int) -> dict[str, float]:
    """The learning rate of each parameter that trains in phase 2."""
    net = build_network(arch)
    net.set_depth(depth)
    groups = optim.make_optimiser(net, given, 1).param_groups
    names = {id(p): name for name, p in net.body.named_parameters()}
    return {names[id(p)]: group["lr"] for group in groups for p in group["params"]}


def test_without_decay_there_is_one_group_in_the_networks_order() -> None:
    net = build_network("resnet18")
    net.set_depth(2)
    (group,) = optim.make_optimiser(net, recipe(), 1).param_groups
    trained = [p for p in net.parameters() if p.requires_grad]
    assert [id(p) for p in group["params"]] == [id(p) for p in trained]


def test_each_stage_learns_slower_than_the_one_above_it() -> None:
    given = recipe(layer_decay=0.5, **{"finetune.lr": 0.08})
    found = by_name(given, "resnet18", 3)
    stages = {"fc": 0.08, "layer4": 0.04, "layer3": 0.02, "layer2": 0.01}
    assert {name.split(".")[0] for name in found} == set(stages)
    for name, rate in found.items():
        assert rate == pytest.approx(stages[name.split(".")[0]])


def test_densenets_last_norm_learns_with_its_last_block() -> None:
    found = by_name(recipe(layer_decay=0.5, **{"finetune.lr": 0.08}), "densenet121", 1)
    assert found["classifier.weight"] == 0.08
    assert found["features.norm5.weight"] == 0.04
    assert found["features.denseblock4.denselayer1.conv1.weight"] == 0.04


@pytest.mark.parametrize(
    ("name", "kind", "momentum"),
    [
        ("adamw", torch.optim.AdamW, None),
        ("adam", torch.optim.Adam, None),
        ("sgd", torch.optim.SGD, 0.9),
    ],
)
def test_the_optimiser_is_the_one_named(name: str, kind: type, momentum: float | None) -> None:
    made = optim.make_optimiser(build_network("cnn"), recipe(optimiser=name, weight_decay=0.03), 0)
    assert type(made) is kind
    assert made.defaults["weight_decay"] == 0.03
    assert made.defaults.get("momentum") == momentum


def test_cosine_goes_from_the_peak_to_zero() -> None:
    found = rates(recipe())
    assert found[0] == 2.0
    assert found == pytest.approx([1 + math.cos(math.pi * i / STEPS) for i in range(STEPS)])


def test_constant_stays() -> None:
    assert rates(recipe(schedule="constant"), {1: 1, 2: 2, 3: 3}) == [2.0] * STEPS


@pytest.mark.parametrize("schedule", ["cosine", "constant", "plateau"])
def test_warmup_rises_to_the_peak_and_the_rest_follows(schedule: str) -> None:
    found = rates(recipe(schedule=schedule, warmup=0.25))
    assert found[:10] == pytest.approx([2 * (i + 1) / 10 for i in range(10)])
    assert found[10] == 2.0
    rest = [1 + math.cos(math.pi * i / 30) if schedule == "cosine" else 2.0 for i in range(30)]
    assert found[10:] == pytest.approx(rest)


def test_plateau_falls_each_time_patience_has_passed() -> None:
    given = recipe(schedule="plateau", plateau_patience=2, plateau_factor=0.5)
    assert rates(given, {1: 1, 2: 2, 3: 3})[::10] == [2.0, 2.0, 1.0, 1.0]
    assert rates(given, {1: 2, 2: 3, 3: 4})[::10] == [2.0, 1.0, 1.0, 0.5]
    assert rates(given, {1: 1, 2: 0, 3: 1})[::10] == [2.0] * 4


def test_a_run_without_progress_falls_and_then_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a rate too small to change a score: falls after 2 and 4 epochs, stops after 5."""
    seen: list[float] = []
    real = optim.Schedule.waited
    monkeypatch.setattr(
        optim.Schedule,
        "waited",
        lambda self, epochs: (real(self, epochs), seen.append(self.factor()))[0],
    )
    given = recipe(
        schedule="plateau",
        plateau_patience=2,
        patience=5,
        **{
            "head.epochs": 0,
            "finetune.epochs": 20,
            "finetune.lr": 1e-12,
            "finetune.depth": 0,
        },
    )
    _, epochs = run(given)
    assert len(epochs) == 6
    assert seen == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_it_goes_on_from_its_state() -> None:
    given = recipe(schedule="plateau", plateau_patience=1, warmup=0.1)
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    first = optim.Schedule(optimiser, given, STEPS)
    for _ in range(9):
        first.step()
    first.waited(1)
    again = optim.Schedule(torch.optim.SGD(optimiser.param_groups[0]["params"], lr=2.0), given, 40)
    again.load_state_dict(first.state_dict())
    assert again.optimiser.param_groups[0]["lr"] == optimiser.param_groups[0]["lr"] == 0.2


@functools.cache
def trained(*values: tuple[str, object]) -> tuple[tuple[float, ...], dict[str, torch.Tensor]]:
    """The loss of each epoch, and the weights that are kept."""
    net, seen = run(recipe(**dict(values)))
    return tuple(e.loss for e in seen), net.body.state_dict()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss", "focal"),
        ("optimiser", "adam"),
        ("optimiser", "sgd"),
        ("layer_decay", 0.7),
        ("schedule", "constant"),
        ("warmup", 0.5),
    ],
)
def test_each_choice_trains_otherwise_and_the_same_again(name: str, value: object) -> None:
    (plain, _), (one, weights) = trained(), trained((name, value))
    again, weights_again = trained.__wrapped__((name, value))
    assert len(one) == len(plain) == 3
    assert one == again != plain
    assert all(torch.equal(weights[key], weights_again[key]) for key in weights)


@pytest.mark.parametrize(
    "unused", [("focal_gamma", 5.0), ("plateau_patience", 5), ("plateau_factor", 0.5)]
)
def test_what_the_recipe_does_not_use_changes_nothing(unused: tuple[str, object]) -> None:
    (plain, weights), (one, others) = trained(), trained(unused)
    assert one == plain
    assert all(torch.equal(weights[key], others[key]) for key in weights)
