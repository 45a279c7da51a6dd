"""Every name of Optuna's insides that this project uses.

Optuna promises nothing of them: they are why pyproject.toml bounds its version from above.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.artifacts._upload import ARTIFACTS_ATTR_PREFIX
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.storages._heartbeat import BaseHeartbeatThread, get_heartbeat_thread
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Table

ARTIFACT_PREFIX = ARTIFACTS_ATTR_PREFIX  # of the attributes that name pictures
NOT_FOUND = models.NOT_FOUND_MSG  # what a KeyError of the storage says
StudyModel = models.StudyModel
TABLES: Mapping[str, Table] = models.BaseModel.metadata.tables
# Tables whose rows belong to a search, and to a trial, by the key in them.
SEARCH_TABLES = ("study_directions", "study_user_attributes", "study_system_attributes")
TRIAL_TABLES = (
    "trial_params",
    "trial_values",
    "trial_intermediate_values",
    "trial_user_attributes",
    "trial_system_attributes",
)
# Tables in which Optuna notes which pictures belong to a search, and to a trial.
SEARCH_FACTS, TRIAL_FACTS = TABLES["study_system_attributes"], TABLES["trial_system_attributes"]
# Calls of the storage that a search makes.
STORAGE_CALLS = (
    "_create_new_trial",
    "_get_best_trial_id",
    "_get_stale_trial_ids",
    "_get_trials",
    "_set_trial_param",
    "create_new_study",
    "delete_study",
    "get_all_studies",
    "get_study_directions",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_system_attrs",
    "get_study_user_attrs",
    "get_trial",
    "get_trial_id_from_study_id_trial_number",
    "set_study_system_attr",
    "set_study_user_attr",
    "set_trial_intermediate_value",
    "set_trial_system_attr",
    "set_trial_user_attr",
)


def storage_url(study: optuna.Study) -> str | None:
    """The URL of the database that holds a search; None where it is in memory."""
    storage = study._storage
    url: str | None = getattr(getattr(storage, "_backend", storage), "url", None)
    return url  # Optuna's cache before a storage has none of its own


def search_id(study: optuna.Study) -> int:
    """The key of a search in its database."""
    return study._study_id


def search_facts(study: optuna.Study) -> Mapping[str, Any]:
    """What is stored with a search out of the dashboard's sight, as it is now."""
    facts: Mapping[str, Any] = study._storage.get_study_system_attrs(study._study_id)
    return facts


def store_search_fact(study: optuna.Study, name: str, value: Any) -> None:
    """Store a fact with a search, out of the dashboard's sight."""
    study._storage.set_study_system_attr(study._study_id, name, value)


def frozen(trial: optuna.Trial) -> FrozenTrial:
    """A running trial as the database has it now."""
    return trial.storage.get_trial(trial._trial_id)


def store_trial_fact(trial: optuna.Trial, name: str, value: Any) -> None:
    """Store a fact with a running trial, out of the dashboard's sight."""
    trial.storage.set_trial_system_attr(trial._trial_id, name, value)


def ask(study: optuna.Study) -> optuna.Trial:
    """The next trial to run, without Optuna's warning that its caller has to send heartbeats."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Heartbeat of storage")
        return study.ask()


def send_heartbeats(trial: optuna.Trial) -> BaseHeartbeatThread:
    """A context in which a thread stores signs of life of a running trial."""
    return get_heartbeat_thread(trial._trial_id, trial.storage)


def stale_numbers(study: optuna.Study, running: Sequence[FrozenTrial]) -> set[int]:
    """Numbers of the running trials whose heartbeat is older than the grace period."""
    storage: Any = study._storage
    stale = set(storage._get_stale_trial_ids(study._study_id))
    return {trial.number for trial in running if trial._trial_id in stale}


def fail(study: optuna.Study, trial: FrozenTrial, name: str, reason: str) -> None:
    """End a trial of another process as failed; one that has ended by itself stays as it is.

    Args:
        name: of the attribute that stores the reason.
    """
    storage: BaseStorage = study._storage
    try:
        storage.set_trial_user_attr(trial._trial_id, name, reason)
        storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
    except UpdateFinishedTrialError:
        return


def extend_attribute(study: optuna.Study, name: str, items: Sequence[str]) -> None:
    """Add items to the list under an attribute of a study that people see."""
    study.set_user_attr(name, [*study.user_attrs.get(name, []), *items])


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a distribution can draw a value."""
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except ValueError:  # a choice that is none of these
        return False
