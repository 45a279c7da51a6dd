"""The winner of a sibling search is tried first; one that cannot help is refused."""

from pathlib import Path

import pytest
from test_search import study_of, tune

from mura_tune.data.prepare import Prepared, open_dataset, prepare
from mura_tune.errors import InputError
from mura_tune.search.results import load_result

CONFIRMED = ("budget.confirm.top=2", "budget.confirm.seeds=2")


def test_a_siblings_winner_is_tried_first(prepared: Prepared, url: str) -> None:
    tune(study_of(*CONFIRMED), prepared, url, name="sibling")
    winner = load_result(url, "sibling").best
    mine = tune(study_of("budget.trials=8", "budget.seed=5"), prepared, url, warm_start="auto")
    roles = [t.user_attrs.get("role") for t in mine.trials]
    assert roles == ["baseline", "warm start"] + [None] * 6
    assert mine.trials[1].params == winner.params
    assert mine.trials[1].user_attrs["from"] == f"sibling trial {winner.number}"
    alone = tune(study_of("budget.trials=2"), prepared, url, name="alone", warm_start="none")
    assert [t.user_attrs.get("role") for t in alone.trials] == ["baseline", None]


@pytest.mark.parametrize(
    ("sibling", "told"),
    [
        ("nowhere", "no such search"),
        ("unconfirmed", "is not confirmed yet"),
        ("larger", "it searched cnn at 48 px, not cnn at 32 px"),
    ],
)
def test_a_named_sibling_that_cannot_help_is_refused(
    prepared: Prepared, url: str, phantoms: Path, tmp_path: Path, sibling: str, told: str
) -> None:
    if sibling == "unconfirmed":
        tune(study_of("budget.trials=1"), prepared, url, name=sibling)
    if sibling == "larger":
        study = study_of("budget.trials=1", "budget.confirm.top=1", "size=48")
        other = prepare(open_dataset(phantoms), "XR_WRIST", 48, study.split, tmp_path / "cache")
        tune(study, other, url, name=sibling)
    with pytest.raises(InputError, match=f"--warm-start {sibling}: .*{told}"):
        tune(study_of("budget.trials=1"), prepared, url, warm_start=sibling)
