"""Searches whose worker is an actor of a Ray that this test starts; chaos_ray.py kills clusters."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import TINY, Ran

if find_spec("ray") is None:  # Ray takes a second to import, in every process of pytest-xdist
    pytest.skip("no Ray in this environment", allow_module_level=True)


def test_a_worker_of_ray_brings_every_areas_search_to_its_count(
    run: Callable[..., Ran], phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")  # whatever cluster this machine belongs to
    monkeypatch.setenv("RAY_worker_niceness", "0")  # other tests run beside it
    monkeypatch.setenv("RAY_prestart_worker_first_driver", "0")  # workers that nobody would use
    tune = ("tune", "--every-area", f"--data={phantoms}", "--trials=1", "--no-artifacts", *TINY)
    searched = run(*tune, "--on=ray", "--json")
    assert searched.code == 0, searched.err
    outcomes = json.loads(searched.out)  # where Ray prints nothing of its own
    assert {one["area"]: one["counts"]["finished"] for one in outcomes} == {
        "XR_HAND": 1,
        "XR_WRIST": 1,
    }
    said = [line.split()[:3] for line in searched.err.splitlines() if line]
    assert sorted(said) == [["XR_HAND", "trial", "0"], ["XR_WRIST", "trial", "0"]]
