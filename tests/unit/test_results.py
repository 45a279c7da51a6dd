"""Who wins a search: only what ran for it counts, and nobody wins before the runs are done."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import Ran
from optuna.trial import FrozenTrial, TrialState, create_trial
from optuna_dashboard import get_note
from stored import CONFIG, IDENTITY, SCORES, SEARCH, recipe_facts, recipe_of, records_of, store
from test_notes import COMMANDS, STUDY, finished, study_of
from test_trial_charts import pair, pooled

from mura_tune import config
from mura_tune.config import Confirm
from mura_tune.dashboard import notes
from mura_tune.errors import InputError
from mura_tune.search import results, verdict, warm_start
from mura_tune.search.results import SearchResult
from mura_tune.search.search_record import SearchRecord
from mura_tune.search.slots import confirm_slots, fills, standing
from mura_tune.search.trial_record import TrialRecord

OWN, OTHER = "a" * 32, "b" * 32


def best(study: optuna.Study, again: optuna.Study | None = None) -> SearchResult:
    return results.read_result(SearchRecord(study), SearchRecord(again) if again else None)


def choose(study: optuna.Study, again: optuna.Study | None = None) -> results.WinnerChoice:
    return results.choose_winner(SearchRecord(study), SearchRecord(again) if again else None)


def write_note(study: optuna.Study, again: optuna.Study | None = None) -> None:
    record = SearchRecord(again) if again else None
    notes.write_study_note(SearchRecord(study), record, **COMMANDS)


def searched(trials: int = 3, seeds: int = 1, identity: str | None = OWN) -> optuna.Study:
    """A search whose every slot is filled; the last trial is the best, trial 0 the baseline."""
    study = study_of(0)
    dev = pooled([pair()])
    for number in range(trials):
        role = {"role": "baseline"} if number == 0 else {}
        one = finished(dev, number, slot=number, **role)
        # Optuna's own order of events: a confirmation begins later.
        one.datetime_start -= timedelta(minutes=10 - number)
        study.add_trial(one)
    plain = config.config_to_dict(
        replace(
            STUDY,
            budget=replace(
                STUDY.budget,
                trials=trials,
                confirm=Confirm(top=2, seeds=seeds),
            ),
        )
    )
    store(study, CONFIG, plain)
    if identity:
        store(study, IDENTITY, identity)
    return study


def rerun(
    study: optuna.Study,
    number: int,
    sure: int = 0,
    identity: str | None = OWN,
    seed: int = 1,
    **changes: Any,
) -> FrozenTrial:
    """A confirmation of a trial, with the seed after the trial's, or a later one."""
    trial = study.trials[number]
    recipe = replace(recipe_of(trial), seed=recipe_of(trial).seed + seed, **changes)
    run = finished(
        pooled([pair()]), sure, of=number, slot=f"{number}:{recipe.seed}", role="confirmation"
    )
    run.system_attrs = {SCORES: run.system_attrs[SCORES], **recipe_facts(recipe, identity)}
    return run


def ended(run: FrozenTrial, reason: str) -> FrozenTrial:
    """The same, failed."""
    return create_trial(
        state=TrialState.FAIL,
        system_attrs=run.system_attrs,
        user_attrs={**run.user_attrs, "reason": reason},
    )


def confirming(*runs: FrozenTrial) -> optuna.Study:
    study = optuna.create_study(direction="maximize", study_name="XR_A.confirm")
    study.add_trials(runs)
    return study


def test_a_confirmation_of_another_search_of_the_name_is_not_believed() -> None:
    study = searched()
    left = confirming(*(rerun(study, n, sure=n == 0, identity=OTHER) for n in (0, 1, 2)))
    found = best(study, left)
    assert (found.best.number, found.confirmed, found.pending) == (2, (), ())
    slots = confirm_slots(found.config, records_of(study), OWN)
    assert standing(records_of(left), slots).done == 0
    own = confirming(*left.trials, *(rerun(study, n, sure=n == 0) for n in (0, 1, 2)))
    assert best(study, own).best.number == 0
    assert {one.trial for one in best(study, own).confirmed} == {0, 1, 2}


def test_a_confirmation_counts_for_the_recipe_that_it_ran() -> None:
    study = searched()
    runs = [rerun(study, n, sure=n) for n in (1, 2)]
    strange = confirming(*runs, rerun(study, 0, sure=5, class_weight=3.0))
    assert {one.trial for one in best(study, strange).confirmed} == {1, 2}


@pytest.mark.parametrize(("minutes", "believed"), [(5, True), (-60, False)])
def test_an_early_versions_confirmation_is_of_the_search_if_it_began_later(
    minutes: int, believed: bool
) -> None:
    """It does not name its search; one that was left behind is older than every trial."""
    study = searched(identity=None)
    runs = [rerun(study, n, sure=n, identity=None) for n in (0, 1, 2)]
    for run in runs:
        assert SEARCH not in run.system_attrs
        run.datetime_start = study.trials[2].datetime_start + timedelta(minutes=minutes)
    assert bool(best(study, confirming(*runs)).confirmed) == believed


def test_runs_without_a_trial_to_confirm_are_passed_over() -> None:
    """An early version ran such under a narrowed space: `best` ended in KeyError."""
    study = searched()
    stranger = rerun(study, 1)
    del stranger.user_attrs["of"]
    assert best(
        study, confirming(stranger, rerun(study, 1), *[rerun(study, n) for n in (1, 2)])
    ).confirmed


def test_words_say_which_scores_were_compared() -> None:
    study = searched(seeds=2)
    all_three = [rerun(study, n, sure=n + seed, seed=seed) for seed in (1, 2) for n in (0, 1, 2)]
    told = verdict.describe_result(best(study, confirming(*all_three)))
    assert "the winner is not shown to beat the baseline: +0." in told
    assert told.endswith("over 2 new seeds")
    assert "best      trial 2: dev study AUC 0." in told
    assert "mean over 2 new seeds" in told
    assert "(n = 30) picked for it]" in told
    assert "(n = 30) in the search]" in told
    failed = ended(all_three[0], "out of memory")
    found = best(study, confirming(failed, *all_three[1:]))
    assert found.best.number == 2
    assert found.unconfirmed == {0: "out of memory"}
    told = verdict.describe_result(found)
    assert "trial   0  not confirmed: out of memory" in told
    assert (
        "whether the winner beats the baseline is not known: the baseline is not confirmed; "
        "by the search's scores, one seed each, the winner's picked for it: +0." in told
    )
    write_note(study, confirming(failed, *all_three[1:]))
    assert "Trial 0 could not be confirmed: out of memory." in get_note(study)


def test_a_baseline_that_wins_by_one_new_seed_is_not_said_to_be_picked_for_its_score() -> None:
    study = searched()
    told = verdict.describe_result(
        best(study, confirming(*(rerun(study, n, sure=4 - n) for n in (0, 1, 2))))
    )
    for word in ("best      ", "baseline  "):
        line = told[told.index(f"{word}trial 0: dev study AUC ") :]
        assert ", 1 new seed\n" in line[: line.index("[")]
    assert "picked for it" not in told


@pytest.mark.parametrize("reason", ["killed", "outage: x", "StorageInternalError: An exception"])
def test_nobody_wins_while_a_confirmation_is_not_done(reason: str) -> None:
    """Trial 2 is the best by score; that its run was cut off must not let another win."""
    study = searched()
    runs = [rerun(study, n) for n in (0, 1)]
    half = confirming(*runs, ended(rerun(study, 2), reason))
    found = best(study, half)
    assert (found.pending, found.best.number) == ((2,), 2)
    assert verdict.describe_verdict(found).startswith(
        "no winner yet: the confirmation is not done (trial 2"
    )
    with pytest.raises(InputError, match=r"search XR_A: no winner yet.* the same 'mura tune' goes"):
        found.decided()
    write_note(study, half)
    assert "**No winner yet: the confirmation is not done" in get_note(study)
    assert "best so far" in get_note(study)
    done = best(study, confirming(*half.trials, rerun(study, 2, sure=2)))
    assert (done.pending, done.decided().best.number) == ((), 2)
    assert best(study).decided().pending == ()  # none was begun: by score, as the words say


def test_a_winner_is_found_without_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Siblings ask for it between two trials."""
    study = searched()
    runs = confirming(*(rerun(study, n, sure=n) for n in (0, 1, 2)))

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("bootstrapped")

    for name in ("compare_folds", "compare_confirmed", "average_confirmed"):
        monkeypatch.setattr(results, name, fail)
    assert choose(study, runs).winner.number == 2
    storage: Any = study._storage
    copied = optuna.create_study(storage=storage, study_name="XR_A.confirm", direction="maximize")
    copied.add_trials(runs.trials)
    (start,) = warm_start.warm_starts(
        storage,
        "B",
        STUDY,
        {name: study.trials[2].distributions[name] for name in study.trials[2].params},
        "auto",
    )
    assert start.source == "XR_A trial 2"


def test_trials_of_another_program_are_named_and_do_not_count() -> None:
    study = searched()
    study.add_trial(create_trial(value=1.5))
    study.add_trial(create_trial(state=TrialState.PRUNED, value=0.1))
    found = best(study)
    assert (found.best.number, found.foreign, found.counts["foreign"]) == (2, (3, 4), 2)
    assert [point.number for point in found.history] == [0, 1, 2]
    assert found.span[1] < 1.5
    told = verdict.describe_result(found)
    assert "3 finished, 2 foreign" in told
    assert "trials 3, 4 are another program's" in told
    write_note(study)
    assert "Left out: trials 3, 4, of another program" in get_note(study)
    slots = confirm_slots(found.config, records_of(study), OWN)
    assert {slot.confirmed_trial for slot in slots} == {0, 1, 2}
    alone = study_of(0)
    alone.add_trial(create_trial(value=1.5))
    with pytest.raises(InputError, match="no finished trial"):
        best(alone)
    write_note(alone)
    assert "No trial has finished yet" in get_note(alone)


def test_a_run_fills_its_slot_only() -> None:
    study = searched()
    slot = confirm_slots(choose(study).config, records_of(study), OWN)[0]
    run = rerun(study, int(slot.confirmed_trial))
    assert fills(TrialRecord(run), slot)
    assert not fills(TrialRecord(rerun(study, int(slot.confirmed_trial), identity=OTHER)), slot)
    assert not fills(TrialRecord(rerun(study, int(slot.confirmed_trial), augment=0.75)), slot)


def test_finalize_releases_nobody_before_the_confirmation_is_done(
    run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    study = searched()
    half = best(study, confirming(rerun(study, 0), ended(rerun(study, 2), "killed")))
    monkeypatch.setattr("mura_tune.search.results.load_result", lambda *_: half)
    ran = run("finalize", "XR_A", f"--data={tmp_path}")
    assert ran.code == 2
    assert "mura: search XR_A: no winner yet" in ran.err
    assert len(ran.err.splitlines()) == 1
