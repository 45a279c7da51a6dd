"""A release on groups of studies and by corrected labels: printed, as JSON, in its report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran

from mura_tune.data.prepare import open_dataset

Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def tables(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """groups.csv, of the studies of wrists: hardware in every other one; corrections.csv, of two of
    test."""
    frame = open_dataset(phantoms).for_area("XR_WRIST").frame
    studies = frame.drop_duplicates("study")
    root = tmp_path_factory.mktemp("tables")
    rows = [f"{study},{('yes', 'no')[n % 2]}" for n, study in enumerate(studies["study"])]
    (root / "groups.csv").write_text("\n".join(["study,Hardware", *rows]) + "\n")
    test = studies[studies["split"] == "valid"].iloc[:2]
    rows = [f"MURA/valid/{row.study}/,{1 - row.label}" for row in test.itertuples()]
    (root / "corrections.csv").write_text("\n".join(["study,label", *rows]) + "\n")
    return root


def test_groups_and_corrections_are_measured_and_shown(
    run: Run, trained_release: Path, phantoms: Path, tables: Path, tmp_path: Path
) -> None:
    asked = [f"--release={trained_release}", f"--data={phantoms}", "--by=hardware", "--by", "area"]
    asked += [f"--groups={tables / 'groups.csv'}", f"--corrections={tables / 'corrections.csv'}"]
    ran = run("evaluate", *asked, "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    hardware, area = found["subgroups"]
    assert (hardware["column"], hardware["source"]) == ("hardware", "groups.csv")
    assert [group["name"] for group in hardware["groups"]] == ["no", "yes"]
    assert sum(group["studies"] for group in hardware["groups"]) == found["studies"]
    whole = area["groups"][0]
    assert (whole["name"], whole["studies"]) == ("XR_WRIST", found["studies"])
    assert whole["differences"] == dict.fromkeys(("auc", "sensitivity", "specificity"))
    corrected = found["corrections"]
    assert corrected["to_abnormal"] + corrected["to_normal"] == 2
    assert corrected["estimates"]["auc"]["value"] != found["auc"]["value"]
    stored = (trained_release / "bundle.json").read_bytes()
    page = tmp_path / "page.html"
    ran = run("report", *asked, "--cases=0", f"--out={page}")
    assert ran.code == 0, ran.err
    html = page.read_text("utf-8")
    assert "Groups and corrections" in html
    assert "By hardware" in html
    assert "By corrected labels" in html
    assert "From groups.csv." in html
    assert (trained_release / "bundle.json").read_bytes() == stored


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--by=colour"], "no column 'colour'"),
        (["--groups=TABLES/groups.csv"], "name one by --by"),
        (["--by=hardware", "--groups=TABLES/none.csv"], "no such file"),
        (["--corrections=TABLES/groups.csv"], "no column label"),
        (["--by=area", "--layout=folders"], "go with a --release on test alone"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    asked: list[str], said: str, run: Run, trained_release: Path, phantoms: Path, tables: Path
) -> None:
    words = [word.replace("TABLES", str(tables)) for word in asked]
    ran = run("evaluate", f"--release={trained_release}", f"--data={phantoms}", *words)
    assert ran.code == 2
    assert said in ran.err.strip().splitlines()[-1]
    assert not ran.out
    uses = trained_release.parents[1] / "runs" / "test_uses.jsonl"
    assert "evaluate" not in (uses.read_text() if uses.exists() else "")
