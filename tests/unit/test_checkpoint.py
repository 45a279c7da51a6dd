"""A final run that is cut off anywhere goes on to the same weights, bit for bit."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_fit import recipe, split
from torch import Tensor

from mura_tune.networks.factory import build_network
from mura_tune.networks.network import Network
from mura_tune.recipe import Recipe
from mura_tune.release.checkpoint import Checkpoint
from mura_tune.search.pool import PRELOAD
from mura_tune.training.batches import Split
from mura_tune.training.feeds import Feed, Source, pixel_feed
from mura_tune.training.fit import NO_MEMORY, Epoch, FitResult, Memory, fit, ignore_epoch
from mura_tune.training.tasks import ABNORMALITY_TASK

TRAIN, DEV = split(20), split(12, "dev", 1)
RECIPE = recipe(**{"batch": 8, "head.epochs": 2, "finetune.epochs": 3, "augment": 0.5})
RUN = {"recipe": RECIPE.digest, "dataset": "d", "split": "s"}


class Cut(Exception):
    """Where a process would be killed."""


def train(
    memory: Memory = NO_MEMORY,
    on_epoch: Callable[[Epoch], None] = ignore_epoch,
    source: Source = pixel_feed,
    given: Recipe = RECIPE,
) -> FitResult:
    """A run that needs all of its state: two phases, momenta, a schedule, and dropout's draws."""
    net = build_network("cnn", seed=given.seed)
    net.body.stem.register_forward_hook(
        lambda module, _, out: F.dropout(out, 0.2, training=module.training)
    )
    net.body.fc.register_forward_hook(
        lambda module, _, out: F.dropout(out, 0.1, training=module.training)
    )
    return fit(
        net, TRAIN, DEV, given, ABNORMALITY_TASK, on_epoch=on_epoch, source=source, memory=memory
    )


def end(epoch: int, cut: Callable[[], None]) -> Callable[[Epoch], None]:
    """An `on_epoch` that cuts after one epoch."""
    return lambda done: cut() if done.number == epoch else None


def middle(epoch: int, cut: Callable[[], None]) -> Source:
    """A source that cuts within one epoch, after two batches."""

    def source(net: Network, train: Split, dev: Split, recipe: Recipe, phase: int) -> Feed:
        feed = pixel_feed(net, train, dev, recipe, phase)

        def batches(number: int) -> Iterator[tuple[Tensor, Tensor]]:
            for step, batch in enumerate(feed.train(number)):
                if (number, step) == (epoch, 2):
                    cut()
                yield batch

        return replace(feed, train=batches)

    return source


def cut() -> None:
    raise Cut


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def kept(tmp_path: Path, said: list[str]) -> Checkpoint:
    return Checkpoint(tmp_path / "finals" / "seed-0.pt", RUN, said.append)


@pytest.fixture(scope="module")
def whole() -> FitResult:
    return train()


def assert_same(one: FitResult, other: FitResult) -> None:
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)
    assert torch.equal(one.logits, other.logits)
    told = [[replace(e, seconds=0.0) for e in found.epochs] for found in (one, other)]
    assert told[0] == told[1]
    assert one.epoch.number == other.epoch.number


def test_cut_at_every_boundary_and_within_every_epoch(whole: FitResult, kept: Checkpoint) -> None:
    for epoch in range(1, 6):
        for on_epoch, source in ((ignore_epoch, middle(epoch, cut)), (end(epoch, cut), pixel_feed)):
            with pytest.raises(Cut):
                train(kept, on_epoch, source)
    assert_same(train(kept), whole)
    seen: list[Epoch] = []
    assert_same(train(kept, seen.append), whole)  # nothing is left to train
    assert [epoch.number for epoch in seen] == [1, 2, 3, 4, 5]


def test_a_solved_head_and_an_average_of_weights_are_remembered(kept: Checkpoint) -> None:
    values = {
        "pretrained": "imagenet",
        "head.solver": "lbfgs",
        "ema": 0.5,
        "keep": "last",
        "batch": 8,
        "finetune.lr": 1e-2,
    }
    given = recipe(**values)
    whole = train(given=given)
    for epoch in (1, 2):
        with pytest.raises(Cut):
            train(kept, end(epoch, cut), given=given)
    assert_same(train(kept, given=given), whole)


@pytest.mark.parametrize("epoch", [2, 4])
def test_one_cut_is_enough_to_matter(whole: FitResult, kept: Checkpoint, epoch: int) -> None:
    with pytest.raises(Cut):
        train(kept, end(epoch, cut))
    trained: list[int] = []

    def counted(net: Network, train: Split, dev: Split, recipe: Recipe, phase: int) -> Feed:
        feed = pixel_feed(net, train, dev, recipe, phase)

        def batches(number: int) -> Iterator[tuple[Tensor, Tensor]]:
            trained.append(number)
            yield from feed.train(number)

        return replace(feed, train=batches)

    assert_same(train(kept, source=counted), whole)
    assert trained == list(range(epoch + 1, 6))


def doomed(path: Path, at: int) -> None:
    """What a process does that is killed at the end of epoch `at`, or within the one after."""
    torch.set_num_threads(1)
    checkpoint = Checkpoint(path, RUN, lambda line: None)
    train(checkpoint, end(at, kill) if at % 2 else ignore_epoch, middle(at, kill))


def test_killed_processes(whole: FitResult, kept: Checkpoint, said: list[str]) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOAD, "mura_tune.dashboard.updates"])  # as others do
    for at in (1, 4):
        process = context.Process(target=doomed, args=(kept.path, at))
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
    assert_same(train(kept), whole)
    assert [path.name for path in kept.path.parent.iterdir()] == [kept.path.name]
    assert said == []


def damage(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_dropped_with_a_line(
    whole: FitResult, kept: Checkpoint, said: list[str]
) -> None:
    with pytest.raises(Cut):
        train(kept, end(1, cut))
    content = kept.path.read_bytes()
    rng = torch.Generator().manual_seed(0)
    for number, position in enumerate(torch.randint(len(content), (50,), generator=rng).tolist()):
        damage(kept.path, position)
        assert kept.load() is None
        assert len(said) == number + 1
        assert "damaged" in said[-1]
        assert not kept.path.exists()
        kept.path.write_bytes(content)
    kept.path.write_bytes(content[: len(content) // 2])
    assert_same(train(kept), whole)


@pytest.mark.parametrize("name", [*RUN])
def test_the_checkpoint_of_another_run_is_not_used(
    kept: Checkpoint, said: list[str], name: str
) -> None:
    with pytest.raises(Cut):
        train(kept, end(1, cut))
    other = replace(kept, run=RUN | {name: "other"})
    assert other.load() is None
    assert len(said) == 1
    assert f"of another {name}" in said[0]
