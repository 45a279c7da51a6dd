"""A start may not have learned from the patients that a search is judged by.

A search goes on only with what it was started with; everything else is refused with its diff.
"""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.study import StudyDirection

from mura_tune.config import AUTO, Holdout, SearchConfig, config_to_dict, with_budget
from mura_tune.data import splits
from mura_tune.data.prepare import Prepared, divided_views
from mura_tune.data.splits import AUTO_FOLDS, ENOUGH_PATIENTS, count_rarer
from mura_tune.errors import InputError
from mura_tune.metrics.dev_fold import DevFold
from mura_tune.networks import starts
from mura_tune.networks.starts import DIGEST_DIGITS, StartProvenance, start_provenance
from mura_tune.recipe import (
    CHANGED_FIELDS,
    complete_values,
    drop_values,
    get_value,
    newer_fields,
    with_values,
)
from mura_tune.search.search_record import SearchRecord, reads_search
from mura_tune.software import Software
from mura_tune.training.tasks import task_of

LivingWorkers = Callable[[Collection[str]], set[str]]


def clean_or_refuse(sources: Iterable[str], prepared: Prepared, split: Holdout) -> None:
    """Refuse starts that know the studies they would be judged by; see `_check_start`."""
    for source in sources:
        if start := start_provenance(source):
            _check_start(source, start, prepared, split)


def _check_start(source: str, start: StartProvenance, prepared: Prepared, split: Holdout) -> None:
    """Compare what a release learned from with dev (of every fold) and test.

    A picture of test in the start's list is a leak, whatever divided the data. Dev is a matter of
    patients, who may be in areas that are not looked at here: since a patient's split is a function
    of the settings and the patient alone, it is computed again with the start's settings. A start
    of the same areas that lists none of these pictures is of another dataset, and may be divided
    anyhow.

    Raises:
        InputError: with the number of pictures or patients.
    """
    frame = prepared.frame
    test = frame["split"] == "test"
    if start.pictures is not None:
        known = np.array([sha[:DIGEST_DIGITS] in start.pictures for sha in prepared.pictures])
        if leaked := int((known & test).sum()):
            raise InputError(
                f"pretrained: {source}: it was trained on {leaked} of the {int(test.sum())} test "
                "pictures; take a start that has not seen them"
            )
        if start.areas & set(prepared.areas) and not known.any():
            return
    judged = ~test if split.fold_count else frame["split"] == "dev"
    division = splits.assign_splits(frame, start.split.dev, start.split.seed, column="published")
    learned = division.isin(["train", "dev"] if start.refit else ["train"])
    patients = frame["patient"]
    if leaked := patients[judged & learned].nunique():
        way_out = (
            f"divide them as it was: --set split.dev={start.split.dev} "
            f"--set split.seed={start.split.seed} --set split.folds=0"
        )
        if start.refit:
            way_out = "make that release again without dev, by its search's final.refit=false"
        raise InputError(
            f"pretrained: {source}: it was trained on {leaked} of the {patients[judged].nunique()} "
            f"patients that would judge it ({'in turn, by folds' if split.fold_count else 'dev'}); "
            f"{way_out}"
        )


_LOG = logging.getLogger(__name__)
RANGE = {"low", "high"}  # of an axis: what may change with leave


def same_or_refuse(
    search: SearchRecord,
    config: SearchConfig,
    space: Mapping[str, Any],
    prepared: Prepared,
    *,
    allow_space_change: bool = False,
) -> None:
    """Store with the search what makes its trials comparable, or compare it with what is stored.

    Args:
        allow_space_change: let the ranges of numeric axes differ; what ran so far stays.

    Raises:
        InputError: recipe, search space, split or dataset differ, with each difference; or a start
            has learned from those that would judge it.
    """
    config = _say_budget(search, config)
    first_config = as_begun(search, config)
    begun, now = (config_to_dict(each)["recipe"] for each in (first_config, config))
    recipe_fields = ", ".join(
        f"{path}: {get_value(begun, path)}"
        for path in CHANGED_FIELDS
        if get_value(begun, path) != get_value(now, path)
    )
    if recipe_fields:
        _LOG.warning("search %s goes on as it began, with %s", search.name, recipe_fields)
    config = first_config
    if config.split.folds == AUTO:
        config = _decide_folds(search, config, prepared)
    plain = config_to_dict(config)
    now = {
        "area": prepared.area,
        "task": config.task,
        "recipe": plain["recipe"],
        "space": space,
        "split": plain["split"],
        "dataset": prepared.fingerprint,
        "split_hash": prepared.split_hash,
    }
    if near := _near_copies(prepared, config):
        now["near_copies"] = near
    start_digests = _starts(config)
    if start_digests:
        clean_or_refuse(_drawn(config, "pretrained"), prepared, config.split)
        now["starts"] = start_digests
    stored = search.comparable
    if stored is None:
        _start(search, now, prepared, config)
    elif (completed := _completed(stored)) != now:
        no_starts: dict[str, Any] = {"starts": {}}
        _check_resume(search, no_starts | completed, no_starts | now, allow_space_change)
        recipe = drop_values(plain["recipe"], newer_fields(stored["recipe"]))
        search.store_comparable(now | {"recipe": recipe})
    search.identify()
    early = _early_budget(search) is not None
    if config.budget.confirm.resplit:
        reason = _same_patients(config, prepared)
        if early:
            reason = "it began before there was budget.confirm.resplit"
        if reason and config.budget.confirm.top:
            _LOG.warning(
                "search %s: new seeds are judged on its own dev split: %s", search.name, reason
            )
        plain["budget"]["confirm"]["resplit"] = reason is None
    if early:
        del plain["budget"]["confirm"]["resplit"]
    search.store_config(plain)  # budget and final phases may change between calls


def same_software_or_refuse(
    search: SearchRecord, here: Software, workers: Collection[str], living: LivingWorkers
) -> None:
    """Store with the search what runs here; or refuse it, while workers run something else.

    Trials of two versions need not compare. Once no worker runs, another version may go on: what it
    changes for the trials, `same_or_refuse` sees. Call it under the search's lock.

    Args:
        workers: the worker of each running trial of the search and of its confirmation.
        living: gives those of some workers that are alive.

    Raises:
        InputError: workers that are alive run another version of this program.
    """
    there = search.software
    if there == here:
        return
    alive = len(living(workers))
    if alive and (there is None or not there.is_same_program(here)):
        of_theirs = "an earlier mura-tune" if there is None else str(there)
        plural = "worker runs" if alive == 1 else "workers run"
        raise InputError(
            f"search {search.name}: {alive} {plural} it with {of_theirs}, and this is {here}: "
            "their trials need not compare; install one version on all machines, or stop those "
            "workers first"
        )
    if alive and there is not None:
        differing = here.differing_libraries(there)
        named = ", ".join(f"{name} {ours} ({theirs})" for name, (ours, theirs) in differing.items())
        if named:
            _LOG.warning(
                "search %s: other libraries here (and there): %s; last digits may differ",
                search.name,
                named,
            )
    search.store_software(here)


def _decide_folds(search: SearchRecord, config: SearchConfig, prepared: Prepared) -> SearchConfig:
    """`config` with folds where dev has too few patients, and without where it has enough; or
    where folds would judge by patients whom the start was trained on, or have one class only."""
    rarer = count_dev_patients(prepared.frame.iloc[prepared.rows("dev")], config.task)
    alone, folded = (
        replace(config, split=replace(config.split, folds=folds)) for folds in (0, AUTO_FOLDS)
    )
    if rarer >= ENOUGH_PATIENTS:
        return alone
    plural = "" if rarer == 1 else "s"
    few = f"{rarer} patient{plural} of the rarer class ({ENOUGH_PATIENTS} are enough)"
    try:
        divided_views(prepared, folded.split)
        clean_or_refuse(_drawn(config, "pretrained"), prepared, folded.split)
    except InputError as error:
        reason = str(error).partition(";")[0]
        _LOG.warning("search %s: dev alone judges, with %s: %s", search.name, few, reason)
        return alone
    _LOG.warning(
        "search %s: %d patient folds judge a trial, since dev has %s; --set split.folds=0 has dev "
        "alone judge",
        search.name,
        AUTO_FOLDS,
        few,
    )
    return folded


def count_dev_patients(dev: pd.DataFrame, task: str) -> int:
    """Patients of the class that has fewest of them.

    Args:
        dev: the rows of dev, with `area`, `label` and `patient`.
        task: says what the classes are.
    """
    _, areas = np.unique(dev["area"].to_numpy(object), return_inverse=True)
    classes = task_of(task).classes(dev["label"].to_numpy(), areas)
    return count_rarer(dev["patient"].to_numpy(object), classes)


def _same_patients(config: SearchConfig, prepared: Prepared) -> str | None:
    """Why the patients may not be divided anew for each seed of the confirmation, if so.

    A start that is a release of this dataset was trained on most of them.
    """
    try:
        for seed in range(1, config.budget.confirm.seeds + 1):
            split = replace(config.split, seed=config.split.seed + seed)
            for view in divided_views(prepared, config.split, seed):
                clean_or_refuse(_drawn(config, "pretrained"), view, split)
    except InputError as error:
        return str(error).partition(";")[0]
    return None


def going_on(search: SearchRecord, config: SearchConfig) -> SearchConfig:
    """`config` as a worker of a started search has it: `as_begun`, and its confirmation judged by
    the patients that `same_or_refuse` stored."""
    config = as_begun(search, config)
    confirm = replace(config.budget.confirm, resplit=search.config.budget.confirm.resplit)
    return replace(config, budget=replace(config.budget, confirm=confirm))


def _early_budget(search: SearchRecord) -> Mapping[str, Any] | None:
    """The stored budget of a search that began before `confirm.resplit` was a setting."""
    budget: Mapping[str, Any] | None = search.plain_config.get("budget")
    return budget if budget and "resplit" not in budget.get("confirm", {}) else None


def _budget_as_begun(search: SearchRecord, config: SearchConfig) -> SearchConfig:
    """`config` with the budget of a search that began with another default.yaml, and on top what
    this call sets itself."""
    budget = _early_budget(search)
    return config if budget is None else with_budget(config, budget, f"search {search.name}")


def _say_budget(search: SearchRecord, config: SearchConfig) -> SearchConfig:
    """`_budget_as_begun`, with a line about what differs."""
    begun = _budget_as_begun(search, config)
    changes = _differences(*(config_to_dict(each)["budget"] for each in (config, begun)))
    if changes:
        values = ", ".join(f"budget.{path}: {old}" for path, _, old in changes)
        _LOG.warning("search %s goes on as it began, with %s", search.name, values)
    return begun


@reads_search
def as_begun(search: SearchRecord, config: SearchConfig) -> SearchConfig:
    """`config` with the fields of `CHANGED_FIELDS`, and `auto` folds, as its trials had them.

    The shipped default.yaml has changed; a search compares its trials, so one that began with an
    earlier value goes on with it, unless `config` has neither that value nor today's. A new search
    is left as it is.
    """
    stored = search.comparable
    if stored is None:
        return config
    config = _budget_as_begun(search, config)
    now, first = config_to_dict(config)["recipe"], {}
    for path, (*earlier, today) in CHANGED_FIELDS.items():
        begun = get_value(complete_values(stored["recipe"]), path)
        older = path in newer_fields(stored["recipe"])
        if older or (begun in earlier and get_value(now, path) == today):
            first[path] = begun
    if config.split.folds == AUTO:  # an early version stored no folds, and had none
        folds = stored["split"].get("folds", 0)
        config = replace(config, split=replace(config.split, folds=folds))
    return replace(config, recipe=with_values(config.recipe, first))


def _completed(stored: Mapping[str, Any]) -> dict[str, Any]:
    """With what an earlier version did not know, as it trained."""
    return {"task": "abnormality", **stored, "recipe": complete_values(stored["recipe"])}


def _near_copies(prepared: Prepared, config: SearchConfig) -> str:
    """How many are left out, with those of each fold; nothing where there are none."""
    views = divided_views(prepared, config.split)
    counts = [len(view.near_copies) for view in views]
    return f"{', '.join(map(str, counts))} left out" if any(counts) else ""


def _starts(config: SearchConfig) -> dict[str, str]:
    """sha256 of the weights that trials start from, by `starts.start_name`."""
    named = itertools.product(_drawn(config, "pretrained"), _drawn(config, "arch"))
    digests = {starts.start_name(*start): starts.start_digest(*start) for start in named}
    return {name: sha for name, sha in digests.items() if sha}


def _drawn(config: SearchConfig, field: str) -> list[str]:
    """The values that trials may have of a field that is text."""
    axis = config.search.get(field)
    return sorted({getattr(config.recipe, field), *map(str, (axis.choices or ()) if axis else ())})


def _start(
    search: SearchRecord, now: Mapping[str, Any], prepared: Prepared, config: SearchConfig
) -> None:
    if search.trials() or search.handle.direction != StudyDirection.MAXIMIZE:
        raise InputError(
            f"search {search.name} was made by something else; "
            "start one of its own with --search NAME"
        )
    views = divided_views(prepared, config.split)
    search.store_dev([_dev_studies(view, config.task) for view in views])
    search.store_comparable(now)
    with warnings.catch_warnings():  # marked experimental since 3.2; the board shows it
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        search.handle.set_metric_names([f"dev {task_of(config.task, config.recipe).monitor}"])


def _dev_studies(prepared: Prepared, task: str) -> DevFold:
    """Label and patient (as a number) of each dev study, in the order of scores.

    The label is what the task tells apart: normal from abnormal, or one area from another.
    """
    rows = prepared.frame.iloc[prepared.rows("dev")]
    _, first = np.unique(rows["study"].to_numpy(object), return_index=True)
    _, patients = np.unique(rows["patient"].to_numpy(object)[first], return_inverse=True)
    area = np.searchsorted(prepared.areas, rows["area"].to_numpy(object))
    labels = task_of(task).classes(rows["label"].to_numpy(), area)[first]
    return DevFold(labels.astype(np.int64), patients.astype(object))


def numbered_studies(view: Prepared, whole: Prepared, task: str) -> DevFold:
    """The dev studies of `view`; patients and studies have the numbers that they have in `whole`,
    so that they keep them where the patients are divided anew."""
    dev = view.frame.iloc[view.rows("dev")].drop_duplicates("study").sort_values("study")
    patients, studies = (
        np.searchsorted(np.unique(whole.frame[name].to_numpy(object)), dev[name].to_numpy(object))
        for name in ("patient", "study")
    )
    labels = _dev_studies(view, task).labels
    return DevFold(labels, patients.astype(object), studies.astype(object))


def _check_resume(
    search: SearchRecord, stored: Mapping[str, Any], now: Mapping[str, Any], allowed: bool
) -> None:
    """Refuse whatever would make trials incomparable; ranges pass when they are `allowed` to."""
    name = search.name
    ranges: list[str] = []
    others: list[str] = []
    for path, old, new in _differences(stored, now):
        keys = path.split(".")
        only_range = keys[0] == "space" and keys[-1] in RANGE and keys[-2] == "attributes"
        difference = f"{path.replace('.attributes', '')} {_short(old)} -> {_short(new)}"
        (ranges if only_range else others).append(difference)
    if others:
        raise InputError(
            f"search {name} was started with something else: {'; '.join(others + ranges)}. Trials "
            f"would not compare: undo the change, or start a search of its own: "
            f"mura tune {now['area']} --search {name}-2"
        )
    if not allowed:
        raise InputError(
            f"search {name} searched other ranges: {'; '.join(ranges)}. Go on with them by "
            f"--allow-space-change (what ran so far stays and counts), or start a search of its "
            f"own: mura tune {now['area']} --search {name}-2"
        )
    search.add_space_changes(ranges)


def _differences(old: Any, new: Any, where: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            line
            for key in sorted({*old, *new})
            for line in _differences(old.get(key), new.get(key), f"{where}.{key}" if where else key)
        ]
    return [] if old == new else [(where, old, new)]


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text[:12] + "…" if len(text) == 64 else text
