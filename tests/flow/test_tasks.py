"""The tasks over every area at once, each from its study file to an answer."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from conftest import TINY, Ran

from mura_tune.release.bundle import verify

Run = Callable[..., Ran]
QUICK = [*TINY, "--set=budget.confirm.top=0", "--no-artifacts", "--trials=1"]


def test_all_areas_as_one(run: Run, phantoms: Path, tmp_path: Path) -> None:
    data = f"--data={phantoms}"
    assert run("tune", "ALL", data, *QUICK).code == 0
    assert run("finalize", "ALL", data).code == 0
    release = tmp_path / "releases" / "ALL"
    listed = pd.read_csv(phantoms / "valid_labeled_studies.csv", header=None)
    assert listed[0].str.split("/").str[2].nunique() == 2  # hands and wrists
    assert verify(release)["metrics"]["test"]["studies"] == len(listed)
    answer = run("infer", "--area=ALL", f"--image={next(phantoms.glob('valid/*/*/*/*.png'))}",
                 "--json")  # fmt: skip
    assert json.loads(answer.out)["area"] == "ALL"
