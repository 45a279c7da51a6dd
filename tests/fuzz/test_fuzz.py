"""Spoilt input is read, or refused in one line: some of the cases of `make fuzz`."""

from collections.abc import Iterator

import click
import fuzzer
import pytest

from mura_tune.api import data as api_data
from mura_tune.errors import InputError

CASES = {"values": 80, "search-files": 40, "manifests": 60, "tables": 40, "answers": 15}
SHOW = fuzzer.Case(("show", "XR_WRIST"), "")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fuzzer.World]:
    with fuzzer.world_in(tmp_path_factory.mktemp("fuzz")) as world:
        yield world


@pytest.mark.parametrize("name", fuzzer.CLASSES)
def test_spoilt_input_is_read_or_refused_in_a_line(world: fuzzer.World, name: str) -> None:
    faults = []
    for number in range(CASES[name]):
        _, verdict = fuzzer.run_case(world, 0, name, number)
        if verdict.fault:
            faults.append(f"{name} {number}: {verdict.fault}: {verdict.err[-200:]}")
    assert not faults, "\n".join(faults)


def test_what_is_not_spoilt_passes(world: fuzzer.World) -> None:
    assert fuzzer.judged(SHOW).code == 0
    assert not fuzzer.judged(SHOW).fault


def test_each_fault_is_seen(world: fuzzer.World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault_of(act: object) -> str:
        monkeypatch.setattr(api_data, "resolve_config", act)
        return fuzzer.judged(SHOW).fault

    def fail(area: str, overrides: object, *, data: object) -> None:
        raise KeyError(area)

    def name_python(area: str, overrides: object, *, data: object) -> None:
        raise InputError("size: TypeError")

    def talk(area: str, overrides: object, *, data: object) -> None:
        click.echo("by the way", err=True)
        raise InputError("size")

    def run_on(area: str, overrides: object, *, data: object) -> None:
        while True:
            pass

    assert fault_of(fail) == "exit 1"
    assert fault_of(name_python) == "Python's words: TypeError"
    assert fault_of(talk) == "2 lines"
    monkeypatch.setattr(fuzzer, "LIMIT", 0.1)
    assert fault_of(run_on).startswith("more than")


def test_a_case_is_made_from_its_seed_class_and_number(world: fuzzer.World) -> None:
    inputs = [fuzzer.run_case(world, seed, "values", 3)[0].input for seed in (1, 1, 2)]
    assert inputs[0] == inputs[1] != inputs[2]
