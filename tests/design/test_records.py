"""Two modules know the stored names of a search and a trial, and one the insides of Optuna."""

import re
from pathlib import Path

import pytest

import mura_tune

ROOT = Path(mura_tune.__file__).parent
SEARCH, TRIAL = "search/search_record.py", "search/trial_record.py"
PRIVATE = "database/optuna_private.py"
ROWS = "database/trial_rows.py"  # reads all attributes, and knows no name of ours


def modules_with(pattern: str) -> set[str]:
    """The modules whose text has the pattern."""
    paths = {path.relative_to(ROOT).as_posix(): path for path in ROOT.rglob("*.py")}
    return {name for name, path in paths.items() if re.search(pattern, path.read_text())}


@pytest.mark.parametrize(
    ("pattern", "allowed"),
    [
        (r"user_attr|system_attr", {SEARCH, TRIAL, PRIVATE, ROWS}),
        (r'"mura:', {SEARCH, TRIAL}),
        (r'"mura:(recipe|dev_scores|search)"|"(dev_part|artifact_seconds)"', {TRIAL}),
        (r'"mura:(config|comparable|dev|identity)"|"space_changes"', {SEARCH}),
        (r"(?<!self)\._(storage|trial_id|study_id|contains)\b", {PRIVATE}),
        (r"optuna[\w.]*\._", {PRIVATE}),
    ],
)
def test_a_stored_name_stands_in_its_module_alone(pattern: str, allowed: set[str]) -> None:
    assert modules_with(pattern) <= allowed
