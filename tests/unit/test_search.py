"""The search counts exactly, resumes what was cut, and turns failures into data."""

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import torch
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState
from stored import COMPARABLE, CONFIG, facts, recipe_of, store

from mura_tune import config
from mura_tune.config import SearchConfig
from mura_tune.data.index import Finding
from mura_tune.data.prepare import Prepared
from mura_tune.database.locks import WorkerLock, lock_of
from mura_tune.database.storage import open_storage
from mura_tune.database.urls import database, url_of
from mura_tune.errors import InputError, MuraError
from mura_tune.networks import starts
from mura_tune.networks.factory import build_network
from mura_tune.recipe import LATER_DEFAULTS, drop_values
from mura_tune.release.finalize import finalize
from mura_tune.search import results, search, space, worker
from mura_tune.search.search import SearchJob, WorkerSettings
from mura_tune.search.search_record import SearchRecord
from mura_tune.search.slots import WarmStart
from mura_tune.search.trial import TrialProgress

CPU = torch.device("cpu")


def study_of(*overrides: str) -> SearchConfig:
    tiny = [
        "arch=cnn",
        "size=32",
        "pretrained=none",
        "batch=16",
        "head.epochs=0",
        "finetune.epochs=1",
        "budget.trials=3",
        "budget.confirm.top=0",
        "split.folds=0",
    ]
    return config.load_config("XR_WRIST", [*tiny, *overrides])


def ignore(number: int, epoch: int) -> None:
    """The hook that does nothing."""


def tune(
    study: SearchConfig,
    prepared: Prepared,
    url: str,
    on_epoch: Callable[[int, int], None] = ignore,
    *,
    name: str = "s",
    allow_space_change: bool = False,
    warm_start: str = "none",
    stop: Callable[[], bool] = lambda: False,
    grace: int = 300,
    features: Path | None = None,
) -> optuna.Study:
    def tell(event: search.SearchEvent) -> None:
        if isinstance(event, TrialProgress):
            on_epoch(event.trial, event.epoch)

    job = SearchJob(name, study, prepared)
    settings = WorkerSettings(url, grace, warm_start, features=features)
    since = search.start_search(job, settings, allow_space_change=allow_space_change)
    worker.run_worker([job], since, settings, CPU, tell, stop)
    return optuna.load_study(study_name=name, storage=open_storage(url))


def states(study: optuna.Study) -> list[str]:
    return [t.state.name for t in study.get_trials()]


def test_n_is_the_total_however_often_it_is_called(prepared: Prepared, url: str) -> None:
    first = tune(study_of(), prepared, url)
    assert states(first) == ["COMPLETE"] * 3
    assert len(tune(study_of(), prepared, url).trials) == 3
    more = tune(study_of("budget.trials=5"), prepared, url)
    assert len(more.trials) == 5
    assert sorted(t.user_attrs["slot"] for t in more.trials) == [0, 1, 2, 3, 4]
    assert len({tuple(t.params.values()) for t in more.trials}) == 5


def test_no_trial_starts_once_time_is_over(
    prepared: Prepared, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(search, "time", SimpleNamespace(time=lambda: clock[0]))
    settings, said = WorkerSettings(url, warm_start="none", until=200.0), []

    def tell(event: search.SearchEvent) -> None:
        said.append(event)
        clock[0] += 60  # an epoch, and the end of a trial

    job = SearchJob("s", study_of("budget.trials=5"), prepared)
    since = search.start_search(job, settings)
    worker.run_worker([job], since, settings, CPU, tell, lambda: False)
    assert states(optuna.load_study(study_name="s", storage=open_storage(url))) == ["COMPLETE"]
    assert len(said) == 2


def test_trial_zero_is_the_recipe_as_it_stands(prepared: Prepared, url: str) -> None:
    study = study_of("budget.trials=2", "finetune.lr=3.0e-4", "finetune.depth=9")
    found = results.read_result(SearchRecord(tune(study, prepared, url)))
    assert found.baseline is not None
    assert found.baseline.number == 0
    assert found.baseline.params["finetune.depth"] == 5  # as many as the network has
    assert replace(found.baseline.recipe, finetune=study.recipe.finetune) == study.recipe


def test_each_trial_stores_its_recipe_and_interval(prepared: Prepared, url: str) -> None:
    for trial in tune(study_of(), prepared, url).trials:
        kept = trial.user_attrs
        assert kept["dev_score"]["low"] <= trial.value <= kept["dev_score"]["high"]
        assert kept["dev_score"]["value"] == pytest.approx(trial.value)
        assert recipe_of(trial).finetune.lr == trial.params["finetune.lr"]
        assert recipe_of(trial).augment == trial.params["augment"]
        assert kept["epochs"] == 1
        assert kept["seconds"] > 0


def test_an_interrupted_trial_is_run_again_with_its_values(prepared: Prepared, url: str) -> None:
    def stop(number: int, epoch: int) -> None:
        if number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(study_of(), prepared, url, on_epoch=stop)
    after = tune(study_of(), prepared, url)
    assert states(after) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    cut, again = after.trials[1], after.trials[2]
    assert cut.user_attrs["reason"] == "interrupted"
    assert again.params == cut.params
    assert again.user_attrs["slot"] == cut.user_attrs["slot"] == 1
    assert results.read_result(SearchRecord(after)).counts["cut off"] == 1
    assert results.read_result(SearchRecord(after)).counts["failed"] == 0


def test_a_trial_whose_worker_died_is_run_again(prepared: Prepared, url: str) -> None:
    done = tune(study_of("budget.trials=1"), prepared, url)
    dead = done.ask(space.space_of(study_of()))
    dead.set_user_attr("worker", "123-gone")
    dead.set_user_attr("slot", 1)
    unborn = done.ask()  # killed before it could say whose it is
    after = tune(study_of(), prepared, url)
    ended = {t.number: t for t in after.trials}
    assert ended[dead.number].state == ended[unborn.number].state == TrialState.FAIL
    assert ended[dead.number].user_attrs["reason"] == "killed"
    assert sum(t.state == TrialState.COMPLETE for t in after.trials) == 3
    assert [t.params for t in after.trials if t.user_attrs.get("slot") == 1][1] == dead.params


def test_a_trial_whose_worker_lives_is_left_alone(prepared: Prepared, url: str) -> None:
    done = tune(study_of("budget.trials=1"), prepared, url)
    with WorkerLock(url) as other:
        theirs = done.ask()
        theirs.set_user_attr("worker", other.name)
        theirs.set_user_attr("slot", 1)
        after = tune(study_of(), prepared, url, stop=lambda: "COMPLETE" in states(done)[2:])
        assert states(after) == ["COMPLETE", "RUNNING", "COMPLETE"]


def test_a_queued_slot_left_by_a_crash_is_not_queued_twice(prepared: Prepared, url: str) -> None:
    done = tune(study_of("budget.trials=1"), prepared, url)
    done.enqueue_trial({"finetune.lr": 1e-3}, user_attrs={"slot": 1})
    after = tune(study_of(), prepared, url)
    assert states(after) == ["COMPLETE"] * 3
    assert after.trials[1].params["finetune.lr"] == 1e-3


def test_failures_are_data_and_the_study_goes_on(prepared: Prepared, url: str) -> None:
    def fail(number: int, epoch: int) -> None:
        if number == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        if number == 2:
            raise ValueError("an odd thing")

    after = tune(study_of(), prepared, url, on_epoch=fail)
    assert states(after) == ["COMPLETE", "FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    assert after.trials[1].user_attrs["reason"] == "out of memory"
    assert after.trials[2].user_attrs["reason"] == "ValueError: an odd thing"
    assert after.trials[3].params != after.trials[1].params  # not retried unchanged
    assert results.read_result(SearchRecord(after)).counts["failed"] == 2


def test_a_failure_while_values_are_drawn_stores_its_reason(
    prepared: Prepared, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a reason the trial would count as cut off, and be run again without end."""

    def fail(drawn: optuna.Trial, axes: space.Space) -> dict[str, object]:
        raise ValueError("no such value")

    monkeypatch.setattr("mura_tune.search.trial.suggest", fail)
    looks = iter(range(20))
    with pytest.raises(MuraError, match=r"5 trials in a row failed alike .*no such value"):
        tune(study_of(), prepared, url, stop=lambda: next(looks, None) is None)


def test_divergence_is_a_failed_trial(prepared: Prepared, url: str) -> None:
    high = (
        "finetune.lr=1.0e+30",
        "search.finetune.lr.high=1.0e+31",
        "search.finetune.lr.low=1.0e+29",
    )
    with pytest.raises(MuraError, match="diverged: the loss is nan at step"):
        tune(study_of("budget.trials=1", *high), prepared, url)
    trials = optuna.load_study(study_name="s", storage=open_storage(url)).trials
    assert [t.state for t in trials] == [TrialState.FAIL] * 5
    assert all(t.user_attrs["reason"].startswith("diverged: ") for t in trials)


def test_five_failures_alike_stop_the_study(prepared: Prepared, url: str) -> None:
    def fail(number: int, epoch: int) -> None:
        raise ValueError("always")

    with pytest.raises(MuraError, match="5 trials in a row failed alike"):
        tune(study_of("budget.trials=9"), prepared, url, on_epoch=fail)
    assert len(tune(study_of("budget.trials=1"), prepared, url).trials) == 6  # mended: it goes on


def test_a_bad_trial_is_pruned(prepared: Prepared, url: str) -> None:
    study = study_of(
        "budget.trials=8",
        "finetune.epochs=4",
        "budget.pruner.startup=2",
        "budget.pruner.min_trials=1",
    )
    after = tune(study, prepared, url)
    pruned = [t for t in after.trials if t.state == TrialState.PRUNED]
    assert pruned
    assert all(t.user_attrs["epochs"] < 4 for t in pruned)
    assert len(after.trials) == 8


@pytest.mark.parametrize(
    ("overrides", "first"),
    [
        (("head.epochs=1", "finetune.epochs=7"), 3),  # 2 of 8 epochs are the first quarter
        (("head.epochs=3", "finetune.epochs=5"), 4),
        (("finetune.epochs=3",), 1),
        (("split.folds=3",), 1),
    ],
)
@pytest.mark.parametrize("name", ["median", "percentile", "hyperband"])
def test_no_trial_is_given_up_in_the_head_only_phase_or_the_first_quarter(
    overrides: tuple[str, ...], first: int, name: str
) -> None:
    given = (f"budget.pruner.name={name}", "budget.pruner.startup=1", "budget.pruner.min_trials=1")
    judge = worker.make_pruner(study_of(*overrides, *given))
    study = optuna.create_study(direction="maximize", pruner=judge)
    for _ in range(30):  # hyperband judges a trial among those of its bracket
        good = study.ask()
        for step in range(1, 9):
            good.report(0.9, step)
            good.should_prune()
        study.tell(good, 0.9)
    died = set()
    for _ in range(30):
        bad = study.ask()
        for step in range(1, 9):
            bad.report(0.1, step)
            if bad.should_prune():
                died.add(step)
                break
        study.tell(bad, state=TrialState.FAIL)
    assert min(died) == first


def test_a_name_that_belongs_to_a_confirmation_is_refused(prepared: Prepared, url: str) -> None:
    with pytest.raises(InputError, match=r"names that end in \.confirm belong to confirmations"):
        tune(study_of("budget.trials=1"), prepared, url, name="s.confirm")
    assert not Path(database(url)).exists()


def test_siblings_are_looked_up_while_nobody_waits(
    prepared: Prepared, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[bool] = []

    def look(*_: object) -> list[WarmStart]:
        lock = lock_of(url, "s")
        looked.append(lock.attempt())
        lock.release()
        return [WarmStart("A trial 1", {"finetune.lr": 1e-3})]

    monkeypatch.setattr(worker, "warm_starts", look)
    axes = ("augment", "class_weight", "finetune.depth")
    study = study_of("budget.trials=2", *(f"search.{path}=null" for path in axes))
    after = tune(study, prepared, url, warm_start="auto")
    assert after.trials[1].params == {"finetune.lr": 1e-3}
    assert 0 < len(looked) <= 3  # the last look finds no slot that none has tried
    assert all(looked)


def test_an_outage_cuts_a_trial_off_and_ends_the_call(prepared: Prepared, url: str) -> None:
    """The baseline's slot is not given to the sampler, as it would be had the baseline failed."""

    def fail(number: int, epoch: int) -> None:
        if number == 0:
            raise OSError(errno.ENOSPC, "No space left on device", "/runs/features/x")

    with pytest.raises(OSError, match="/runs/features/x"):
        tune(study_of("budget.trials=1"), prepared, url, on_epoch=fail)
    after = tune(study_of("budget.trials=1"), prepared, url)
    assert states(after) == ["FAIL", "COMPLETE"]
    assert after.trials[0].user_attrs["reason"].startswith("outage: [Errno 28] No space left")
    result = results.read_result(SearchRecord(after))
    assert (result.baseline.number, result.counts["cut off"]) == (1, 1)


def test_a_lock_that_was_lost_while_a_slot_was_taken_has_it_run_again(
    prepared: Prepared, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, lock = iter([False]), lock_of(url, "s")
    monkeypatch.setattr(
        type(lock), "held", lambda one: one.path.name != lock.path.name or next(answers, True)
    )
    after = tune(study_of("budget.trials=1"), prepared, url)
    assert states(after) == ["FAIL", "COMPLETE"]
    assert after.trials[0].user_attrs["reason"] == "superseded"
    assert "epochs" not in after.trials[0].user_attrs


@pytest.fixture(scope="module")
def begun(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a database with a search of one trial. Tests only read it."""
    url = url_of(str(tmp_path_factory.mktemp("begun") / "studies.db"))
    tune(study_of("budget.trials=1"), prepared, url)
    return url


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["finetune.epochs=2"], "recipe.finetune.epochs 1 -> 2"),
        (["search.augment=null"], "space.augment"),
        (["search.weight_decay={low: 0.001, high: 0.1}"], "space.weight_decay none -> "),
        (
            ["search.augment={low: null, high: null, step: null, choices: [0.0, 0.5]}"],
            "space.augment",
        ),
        (["split.seed=1"], "split.seed 0 -> 1"),
        (["split.folds=2"], "split.folds 0 -> 2"),
    ],
)
def test_a_changed_study_is_refused_with_its_difference(
    prepared: Prepared, begun: str, overrides: list[str], told: str
) -> None:
    for allow in (False, True):
        with pytest.raises(InputError, match="--search s-2") as refused:
            tune(study_of(*overrides), prepared, begun, allow_space_change=allow)
        assert told in str(refused.value)


def test_a_changed_range_needs_leave_and_what_ran_stays(prepared: Prepared, url: str) -> None:
    tune(study_of("budget.trials=2"), prepared, url)
    narrow = study_of("search.finetune.lr.high=1.0e-3", "search.finetune.lr.low=5.0e-5")
    with pytest.raises(InputError, match="--allow-space-change") as refused:
        tune(narrow, prepared, url)
    assert "space.finetune.lr.high 0.01 -> 0.001" in str(refused.value)
    assert "space.finetune.lr.low 1e-05 -> 5e-05" in str(refused.value)
    after = tune(narrow, prepared, url, allow_space_change=True)
    assert states(after) == ["COMPLETE"] * 3
    assert 5e-5 <= after.trials[2].params["finetune.lr"] <= 1e-3
    assert len(after.user_attrs["space_changes"]) == 2
    assert len(tune(narrow, prepared, url).trials) == 3  # stored: no leave is needed again


def test_a_study_of_an_earlier_version_goes_on(prepared: Prepared, url: str) -> None:
    """Its recipe lacks the fields that came later; it trained as their defaults say."""
    before = tune(study_of("budget.trials=1"), prepared, url)
    for key in (COMPARABLE, CONFIG):
        stored = facts(before)[key]
        recipe = drop_values(stored["recipe"], LATER_DEFAULTS)
        store(before, key, {**stored, "recipe": recipe})
    assert states(tune(study_of("budget.trials=2"), prepared, url)) == ["COMPLETE"] * 2
    with pytest.raises(InputError, match=r"recipe\.loss bce -> focal"):
        tune(study_of("budget.trials=2", "loss=focal"), prepared, url)


def test_an_axis_of_whole_numbers_goes_on_as_an_earlier_version_began_it(
    prepared: Prepared, url: str
) -> None:
    """It read `class_weight: {low: 1, high: 4}`, a float's range, as four whole numbers, and left
    the default's step on a range that had none."""
    study = study_of(
        "search.class_weight={low: 1, high: 4, log: true}",
        "search.augment={low: 0, high: 1}",
        "budget.trials=2",
    )
    now = space.space_of(study)
    assert now["class_weight"] == FloatDistribution(1.0, 4.0, log=True)
    assert now["augment"] == FloatDistribution(0.0, 1.0)
    was = {
        "class_weight": IntDistribution(1, 4, log=True),
        "augment": FloatDistribution(0.0, 1.0, step=0.25),
    }

    search.start_search(SearchJob("s", study, prepared), WorkerSettings(url))
    before = optuna.load_study(study_name="s", storage=open_storage(url))
    stored = facts(before)[COMPARABLE]
    recipe = {k: v for k, v in stored["recipe"].items() if k != "head_init"}
    store(
        before,
        COMPARABLE,
        {
            **stored,
            "recipe": recipe,
            "space": stored["space"] | space.space_to_json(was),
        },
    )
    for trial in tune(study, prepared, url).trials:
        assert trial.state == TrialState.COMPLETE
        assert {path: trial.distributions[path] for path in was} == was
    search.start_search(SearchJob("new", study, prepared), WorkerSettings(url, warm_start="none"))
    new = optuna.load_study(study_name="new", storage=open_storage(url))
    assert facts(new)[COMPARABLE]["space"] == space.space_to_json(now)


def test_a_search_older_than_a_field_goes_on_as_it_began(
    prepared: Prepared, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its trials started at random heads; those of today, at the prior, would not compare."""
    old = study_of("budget.trials=1", "head_init=random")
    before = tune(old, prepared, url)
    for key in (COMPARABLE, CONFIG):
        stored = facts(before)[key]
        recipe = {k: v for k, v in stored["recipe"].items() if k != "head_init"}
        store(before, key, {**stored, "recipe": recipe})
    wide = study_of("budget.trials=2", "search.finetune.lr.high=2.0e-2")
    for _ in range(2):  # the second call reads what the first stored with the new range
        after = tune(wide, prepared, url, allow_space_change=True)
        assert [recipe_of(trial).head_init for trial in after.trials] == ["random"] * 2
        assert "search s goes on as it began, with head_init: random" in caplog.text
        caplog.clear()

    search.start_search(SearchJob("new", study_of(), prepared), WorkerSettings(url))
    assert caplog.text == ""
    with pytest.raises(InputError, match=r"recipe\.head_init prior -> random"):
        search.start_search(
            SearchJob("new", study_of("head_init=random"), prepared), WorkerSettings(url)
        )


def test_a_search_begun_with_an_earlier_default_goes_on_with_it(
    prepared: Prepared, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The default.yaml of its day said small, and stored that."""
    tune(study_of("budget.trials=1", "head_init=small"), prepared, url)
    after = tune(study_of("budget.trials=2"), prepared, url)
    assert [recipe_of(trial).head_init for trial in after.trials] == ["small"] * 2
    assert "search s goes on as it began, with head_init: small" in caplog.text
    with pytest.raises(InputError, match=r"recipe\.head_init small -> random"):
        search.start_search(
            SearchJob("s", study_of("head_init=random"), prepared), WorkerSettings(url)
        )


def test_consistency_without_a_map_is_refused_before_any_trial(
    prepared: Prepared, url: str
) -> None:
    with pytest.raises(InputError, match="consistency: at 32 px the last feature map of SmallCNN"):
        tune(study_of("consistency=0.5"), prepared, url)
    assert optuna.get_all_study_names(open_storage(url, create=True)) == []


def test_another_dataset_or_split_is_refused(prepared: Prepared, url: str) -> None:
    tune(study_of("budget.trials=1"), prepared, url)
    with pytest.raises(InputError, match=r"dataset .* -> 0000"):
        tune(study_of(), replace(prepared, fingerprint="0" * 64), url)
    gone = Finding("near-copy", str(prepared.frame["path"][0]), "a near-copy of another in test")
    fewer = replace(prepared, left_out=(gone,), split_hash="1" * 64)
    with pytest.raises(InputError, match=r"near_copies none -> 1 left out; split_hash .* -> 1111"):
        tune(study_of(), fewer, url)


def test_other_weights_at_the_same_path_are_another_start(
    prepared: Prepared, url: str, tmp_path: Path
) -> None:
    start = tmp_path / "start.pt"
    torch.save(build_network("cnn", seed=1).body.state_dict(), start)
    study = study_of(f"pretrained={start}", "budget.trials=1")
    tune(study, prepared, url)
    found = results.load_result(url, "s")
    assert found.starts == {str(start): starts.start_digest(str(start), "cnn")}
    tune(study, prepared, url)
    torch.save(build_network("cnn", seed=2).body.state_dict(), start)
    with pytest.raises(InputError, match=rf"starts.{start} [0-9a-f]+… -> [0-9a-f]+…\. Trials"):
        tune(study, prepared, url)
    with pytest.raises(InputError, match=f"the start {start} is not the one that was searched"):
        finalize(found, prepared, tmp_path / "release", CPU)


def test_a_search_from_packaged_weights_needs_that_package(
    prepared: Prepared, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite0 = "tf_efficientnet_lite0"
    config = study_of(f"arch={lite0}", "pretrained=imagenet", "finetune.depth=0", "budget.trials=1")
    tune(config, prepared, url)
    found = results.load_result(url, "s")
    assert found.starts == {f"imagenet {lite0}": starts.start_digest("imagenet", lite0)}
    monkeypatch.setattr("mura_tune.networks.imagenet.PACKAGES", {})
    monkeypatch.setattr("mura_tune.networks.factory.require_hub_weights", lambda arch: None)
    with pytest.raises(InputError, match=rf"starts.imagenet {lite0} 5793\w+… -> none\. Trials"):
        search.start_search(SearchJob("s", config, prepared), WorkerSettings(url))
    with pytest.raises(InputError, match=r"… then, none now\); put it back \(pip install"):
        finalize(found, prepared, tmp_path / "release", CPU)


def test_a_study_that_something_else_made_is_left_alone(prepared: Prepared, url: str) -> None:
    storage = open_storage(url, create=True)
    optuna.create_study(storage=storage, study_name="s", direction="minimize")
    with pytest.raises(InputError, match="made by something else"):
        tune(study_of(), prepared, url)
    study = optuna.create_study(storage=storage, study_name="theirs", direction="maximize")
    study.optimize(lambda trial: 0.5, n_trials=1)
    with pytest.raises(InputError, match="search theirs: another program"):
        results.load_result(url, "theirs")


def test_the_search_never_reads_test(prepared: Prepared, url: str, tmp_path: Path) -> None:
    """Test labels turned round change nothing that a search stores."""
    frame = prepared.frame.copy()
    test = frame["split"] == "test"
    frame.loc[test, "label"] = 1 - frame.loc[test, "label"]
    other = url_of(str(tmp_path / "other.db"))
    one = tune(study_of(), prepared, url)
    two = tune(study_of(), replace(prepared, frame=frame), other)
    assert [t.value for t in one.trials] == [t.value for t in two.trials]


def test_weights_that_are_missing_start_no_study(prepared: Prepared, url: str) -> None:
    with pytest.raises(InputError, match="no such file of weights"):
        tune(study_of("pretrained=nowhere.pt"), prepared, url)
    assert not Path(url.removeprefix("sqlite:///").partition("?")[0]).exists()


def test_a_default_outside_its_axis_is_refused() -> None:
    with pytest.raises(InputError, match=r"search.augment does not contain .* 0.3"):
        space.space_of(study_of("augment=0.3"))


def test_a_least_depth_beyond_the_stages_is_refused() -> None:
    with pytest.raises(InputError, match=r"search.finetune.depth.low is 9; the network has 5 st"):
        space.space_of(study_of("search.finetune.depth.low=9"))


def test_a_step_ends_at_or_below_high_without_a_warning() -> None:
    study = study_of(
        "search.augment.step=0.125",
        "search.augment.high=0.8",
        "search.finetune.depth={low: 0, high: 5, step: 2}",
    )
    axes = space.space_of(study)
    assert axes["augment"] == FloatDistribution(0.0, 0.75, step=0.125)
    assert axes["finetune.depth"] == IntDistribution(0, 4, step=2)


def test_high_all_is_the_number_of_stages() -> None:
    depths = {
        arch: space.space_of(study_of(f"arch={arch}"))["finetune.depth"].high
        for arch in ("cnn", "efficientnet_b0")
    }
    assert depths == {"cnn": 5, "efficientnet_b0": 8}


def test_another_version_waits_until_no_worker_runs(
    prepared: Prepared, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job, settings = SearchJob("s", study_of(), prepared), WorkerSettings(url)
    search.start_search(job, settings)
    record = SearchRecord(optuna.load_study(study_name="s", storage=open_storage(url)))
    here = record.software
    assert here is not None
    other = replace(here, source="f" * 64)
    newer_torch = replace(here, libraries={**here.libraries, "torch": "99.0"})
    with WorkerLock(url) as alive:
        record.handle.ask().set_user_attr("worker", alive.name)
        search.start_search(job, settings)  # the same program
        monkeypatch.setattr(search, "running_software", lambda: other)
        with pytest.raises(InputError, match="search s: 1 worker runs it with mura-tune"):
            search.start_search(job, settings)
        assert record.software == here
        store(record.handle, "mura:software", None)
        with pytest.raises(InputError, match="1 worker runs it with an earlier mura-tune, and"):
            search.start_search(job, settings)
        record.store_software(here)
        monkeypatch.setattr(search, "running_software", lambda: newer_torch)
        search.start_search(job, settings)
        assert f"torch 99.0 ({here.libraries['torch']}); last digits" in caplog.text
    monkeypatch.setattr(search, "running_software", lambda: other)
    search.start_search(job, settings)
    assert record.software == other
