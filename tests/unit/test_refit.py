"""After folds a release learns from train and dev, and no network answers for whom it knew."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_fit import recipe
from test_search import study_of, tune
from untrained import CPU

from mura_tune.config import Holdout
from mura_tune.data.prepare import Prepared, prepare_folds
from mura_tune.errors import InputError
from mura_tune.networks.network import Network
from mura_tune.recipe import Recipe, with_values
from mura_tune.release.checkpoint import Checkpoints
from mura_tune.release.finalize import count_epochs, finalize
from mura_tune.release.refit import Memories, answer_folds, load_all_patients, refit, shorten
from mura_tune.release_format.manifest import CARD, REPORT
from mura_tune.search.comparable import clean_or_refuse
from mura_tune.search.results import load_result
from mura_tune.training.batches import Split, load_split
from mura_tune.training.fit import NO_MEMORY, Epoch, FitResult, Memory, fit, ignore_epoch
from mura_tune.training.tasks import ABNORMALITY_TASK

TWO = Holdout(dev=0.2, seed=0, folds=2)
RECIPE = recipe(**{"head.epochs": 1, "finetune.epochs": 2})


@pytest.fixture(scope="module")
def everyone(prepared: Prepared) -> Split:
    return load_all_patients(prepared, CPU)


def remember_nothing(_recipe: Recipe, _patients: str) -> Memory:
    return NO_MEMORY


def alone(given: Recipe, train: Split, dev: Split) -> tuple[Network, FitResult]:
    """One run without any fold."""
    net = ABNORMALITY_TASK.start(given, train)
    return net, fit(net, train, dev, given, ABNORMALITY_TASK)


def test_each_patient_is_answered_for_by_the_network_that_did_not_know_them(
    prepared: Prepared, everyone: Split
) -> None:
    given, views = replace(RECIPE, keep="last"), prepare_folds(prepared, TWO)
    answers = answer_folds(
        given,
        ABNORMALITY_TASK,
        everyone,
        views,
        CPU,
        on_epoch=ignore_epoch,
        memory=remember_nothing,
    )
    assert set(everyone.patients) == set(
        prepared.frame["patient"][prepared.frame["split"] != "test"]
    )
    scores = []
    for view in views:
        train, dev = (load_split(view, name, CPU) for name in ("train", "dev"))
        assert not set(train.patients) & set(dev.patients)
        _, result = alone(given, train, dev)
        rows = [int(np.flatnonzero(everyone.paths == path)[0]) for path in dev.paths]
        assert torch.equal(answers.logits[rows], result.logits)
        scores.append([epoch.score for epoch in result.epochs])
    assert answers.curve == pytest.approx(np.mean(scores, axis=0))
    assert answers.epochs == 3
    best = answer_folds(
        RECIPE,
        ABNORMALITY_TASK,
        everyone,
        views,
        CPU,
        on_epoch=ignore_epoch,
        memory=remember_nothing,
    )
    assert best.epochs == int(np.argmax(best.curve)) + 1


def test_the_released_network_is_trained_on_all_of_them_for_as_long(
    prepared: Prepared, everyone: Split
) -> None:
    seen: list[Epoch] = []
    whole, net, result = refit(
        RECIPE,
        ABNORMALITY_TASK,
        everyone,
        prepare_folds(prepared, TWO),
        CPU,
        on_epoch=seen.append,
        memory=remember_nothing,
    )
    best = [epoch.score for epoch in result.epochs]
    assert len(seen) == 2 * 3 + whole.epochs
    assert seen[-1].score == best[-1] == max(best)
    assert result.logits.shape == (len(everyone), 1)
    again, own = alone(whole, everyone, load_split(prepared, "dev", CPU))
    assert len(own.epochs) == whole.epochs
    for name, value in net.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


@pytest.mark.parametrize(
    ("head", "finetune", "epochs", "phases"),
    [(2, 3, 4, [2, 2]), (2, 3, 5, [2, 3]), (2, 3, 1, [1]), (0, 3, 2, [2]), (2, 0, 1, [1])],
)
def test_a_recipe_is_cut_to_so_many_epochs(
    head: int, finetune: int, epochs: int, phases: list[int]
) -> None:
    given = with_values(RECIPE, {"head.epochs": head, "finetune.epochs": finetune, "patience": 2})
    short = shorten(given, epochs)
    assert [phase.epochs for phase in short.phases] == phases
    assert (short.keep, short.patience) == ("last", 0)


class Cut(Exception):
    """Where a process would be killed."""


def test_folds_that_were_cut_off_go_on_to_the_same_answers(
    prepared: Prepared, everyone: Split, tmp_path: Path
) -> None:
    views = prepare_folds(prepared, TWO)

    def answered(memory: Memories, cut_after: int) -> torch.Tensor:
        left = iter(range(cut_after))

        def cut(_epoch: Epoch) -> None:
            if next(left, None) is None:
                raise Cut

        answers = answer_folds(
            RECIPE, ABNORMALITY_TASK, everyone, views, CPU, on_epoch=cut, memory=memory
        )
        return answers.logits

    checkpoints = Checkpoints(tmp_path / "finals", prepared, print)
    with pytest.raises(Cut):
        answered(checkpoints.of, 4)  # within the second fold
    assert len(list((tmp_path / "finals").iterdir())) == 2
    in_one_go = answered(remember_nothing, 99)
    assert torch.equal(answered(checkpoints.of, 99), in_one_go)
    checkpoints.clear()
    assert not (tmp_path / "finals").exists()


def test_a_release_after_folds_says_what_its_dev_is(
    prepared: Prepared, url: str, tmp_path: Path
) -> None:
    sets = ("split.folds=2", "budget.trials=1", "final.head.epochs=0", "final.finetune.epochs=2")
    tune(study_of(*sets), prepared, url)
    best = load_result(url, "s")
    epochs: list[Epoch] = []
    made = finalize(best, prepared, tmp_path / "s", CPU, seeds=2, on_epoch=epochs.append)
    counts = prepared.counts()
    manifest = made.manifest
    assert manifest.training.folds == 2
    assert manifest.metrics.dev.studies == counts["train"]["studies"] + counts["dev"]["studies"]
    assert manifest.familiarity is not None  # chosen on whom the folds held out
    assert manifest.familiarity.studies == manifest.metrics.dev.studies
    bounds = 2  # of features and of pictures, each the largest of all patients'
    share = bounds / (manifest.familiarity.studies + 1)
    assert manifest.familiarity.share == pytest.approx(share)
    assert "by the fold that held the patient out" in made.dev.describe()
    assert len(epochs) <= 2 * count_epochs(best) == 12
    for name in (CARD, REPORT):
        text = " ".join((tmp_path / "s" / name).read_text().split())
        assert "that one of 2 networks, trained by the released recipe, that had not seen" in text
    assert manifest.runs is not None
    assert manifest.runs.runs[0].dev_score.studies == manifest.metrics.dev.studies
    with pytest.raises(InputError, match=r"make that release again without dev"):
        clean_or_refuse([str(tmp_path / "s")], prepared, replace(best.config.split, folds=0))


def test_without_refit_dev_is_held_out(prepared: Prepared, url: str, tmp_path: Path) -> None:
    sets = ("split.folds=2", "budget.trials=1", "final.head.epochs=0", "final.finetune.epochs=1")
    tune(study_of(*sets, "final.refit=false"), prepared, url)
    made = finalize(load_result(url, "s"), prepared, tmp_path / "s", CPU)
    assert made.manifest.training.folds is None
    assert made.manifest.metrics.dev.studies == prepared.counts()["dev"]["studies"]
    assert "had not seen the patient" not in (tmp_path / "s" / CARD).read_text()
    clean_or_refuse([str(tmp_path / "s")], prepared, Holdout(dev=0.2, seed=0, folds=0))
