"""Compiled passes: shared by networks of one kind, only where worth it, never needed."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from test_fit import recipe, split
from test_search import study_of
from torch._dynamo.utils import counters

from mura_tune.data.prepare import Prepared
from mura_tune.database.storage import load_study, open_storage
from mura_tune.files import try_lock
from mura_tune.networks.factory import build_network
from mura_tune.networks.network import Network
from mura_tune.search.search import (
    COMPILE_RULES,
    SearchEvent,
    SearchJob,
    WorkerNote,
    WorkerSettings,
    start_search,
)
from mura_tune.search.search_record import SearchRecord
from mura_tune.search.worker import run_worker, seconds_to_come
from mura_tune.training import compiling
from mura_tune.training.compiling import Inductor
from mura_tune.training.fit import FitResult, fit
from mura_tune.training.tasks import ABNORMALITY_TASK

SHAPE = (4, 1, 32, 32)


def always(seconds: float) -> bool:
    return True


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def inductor(
    tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Inductor]]:
    """Makes compilers; inductor itself, which takes a minute on a CPU, hands the graphs back."""
    torch.compiler.reset()
    counters.clear()
    of_torch = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda *args, **more: of_torch(*args, **more, backend="aot_eager")
    )
    compiling._compiled_pass.cache_clear()
    yield lambda worth=always: Inductor(tmp_path / "compiled", worth, lines.append)
    compiling._compiled_pass.cache_clear()
    torch.compiler.reset()


def network(depth: int = 2) -> Network:
    net = build_network("cnn", size=32)
    net.set_depth(depth)
    return net.train()


def test_networks_of_one_kind_share_what_was_compiled(
    inductor: Callable[..., Inductor], lines: list[str]
) -> None:
    compile_pass = inductor()
    first, second, x = network(), network(), torch.rand(SHAPE)
    statistics = {name: value.clone() for name, value in first.state_dict().items()}
    generator = torch.get_rng_state()
    passes = [compile_pass(net, SHAPE) for net in (first, second)]
    assert len(lines) == 1
    assert "batches of 4" in lines[0]
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, statistics[n]) for n, value in first.state_dict().items())
    assert counters["stats"]["unique_graphs"] == 1
    for net, through in zip((first, second), passes, strict=True):
        assert through is not net
        torch.testing.assert_close(through(x), net(x))
    assert counters["stats"]["unique_graphs"] == 1  # no pass was compiled anew


def test_another_process_finds_what_was_compiled(
    inductor: Callable[..., Inductor], lines: list[str]
) -> None:
    inductor()(network(), SHAPE)
    found = inductor(worth=lambda seconds: False)  # its own choice was not to wait for it
    net = network()
    assert found(net, SHAPE) is not net
    assert found(net, (5, *SHAPE[1:])) is net
    assert len(lines) == 1


def test_what_another_process_compiles_is_not_compiled_twice(
    inductor: Callable[..., Inductor], tmp_path: Path
) -> None:
    net, folder = network(), tmp_path / "compiled"
    folder.mkdir()
    with (folder / f"{compiling._kind(net, SHAPE)}.lock").open("w") as held:
        assert try_lock(held)
        assert inductor()(net, SHAPE) is net
    assert inductor()(net, SHAPE) is not net
    with (folder / f"{compiling._kind(net, SHAPE)}.lock").open("w") as held:
        assert try_lock(held)  # another process loads what is compiled now
        assert inductor()(net, SHAPE) is not net


def test_a_head_alone_is_not_compiled(inductor: Callable[..., Inductor], lines: list[str]) -> None:
    net = network(depth=0)
    assert inductor()(net, SHAPE) is net
    assert not lines


def test_without_a_compiler_training_goes_on_with_one_warning(
    inductor: Callable[..., Inductor],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(compiling, "_pass_once", broken)
    compile_pass, net = inductor(), network()
    assert compile_pass(net, SHAPE) is net
    assert compile_pass(net, (5, *SHAPE[1:])) is net
    assert [record.getMessage() for record in caplog.records] == [
        "networks are not compiled: no C compiler"
    ]


def test_a_compiled_run_trains_as_another_does(inductor: Callable[..., Inductor]) -> None:
    given = recipe(**{"finetune.epochs": 2, "finetune.depth": 2, "batch": 16})

    def run(**more: Inductor) -> FitResult:
        torch.manual_seed(0)
        net = build_network("cnn", size=32)
        return fit(net, split(48), split(20, "dev", 1), given, ABNORMALITY_TASK, **more)

    plain, compiled = run(), run(compiler=inductor())
    assert counters["stats"]["unique_graphs"] == 1  # batches of 16, at depth 2
    for a, b in zip(plain.epochs, compiled.epochs, strict=True):
        assert b.loss == pytest.approx(a.loss, abs=1e-4)


def test_a_search_compiles_once_and_says_so(
    inductor: Callable[..., Inductor], prepared: Prepared, url: str, tmp_path: Path
) -> None:
    given = study_of("budget.trials=1")
    job = SearchJob("s", given, prepared)
    settings = WorkerSettings(url, compiled=tmp_path / "compiled", compile="on")
    events: list[SearchEvent] = []
    since = start_search(job, settings)
    run_worker([job], since, settings, torch.device("cpu"), events.append, lambda: False)
    notes = [event.line for event in events if isinstance(event, WorkerNote)]
    assert len(notes) == len(list((tmp_path / "compiled").glob("*.compiled"))) > 0
    assert counters["stats"]["unique_graphs"] == len(notes)
    trials = SearchRecord(load_study(open_storage(url), "s", url)).trials()
    depth, seconds = trials[0].recipe.finetune.depth, trials[0].seconds
    assert seconds
    assert seconds_to_come(trials, depth, 12) == pytest.approx(11 * seconds)
    assert seconds_to_come(trials, depth + 1, 12) == 0
    assert seconds_to_come(trials, depth, 1) == 0


@pytest.mark.parametrize(
    ("word", "device", "cost", "served", "compiles"),
    [
        ("auto", "cuda", 100, 1000, True),
        ("auto", "cuda", 100, 200, False),
        ("auto", "cpu", 1, 10**6, False),
        ("on", "cpu", 100, 0, True),
        ("off", "cuda", 1, 10**6, False),
    ],
)
def test_auto_compiles_where_a_gpu_gets_the_minutes_back(
    word: str, device: str, cost: float, served: float, compiles: bool
) -> None:
    assert COMPILE_RULES[word](device, cost, served) is compiles
