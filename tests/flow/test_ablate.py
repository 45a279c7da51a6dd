"""The multi-task study with and without its second task."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY, Ran

Run = Callable[..., Ran]


def test_the_second_task_is_left_out_for_a_comparison(run: Run, phantoms: Path) -> None:
    data = f"--data={phantoms}"
    sets = ("--set=aux_weight=5.0", "--set=finetune.lr=3.0e-3")  # a difference in two epochs
    ran = run("ablate", "multitask", data, "--seeds=2", *TINY, *sets, "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert [len(found[side]) for side in ("with", "without", "seeds")] == [2, 2, 2]
    assert found["with"] != found["without"]
    mean = sum(found["with"]) / 2 - sum(found["without"]) / 2
    assert found["difference"]["value"] == pytest.approx(mean)
    assert found["difference"]["low"] <= mean <= found["difference"]["high"]
    assert run("ablate", "ALL", data, *TINY).code == 2
