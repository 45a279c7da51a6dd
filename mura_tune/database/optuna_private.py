"""Every name of Optuna's insides that this project uses.

Optuna promises nothing of them: they are why pyproject.toml bounds its version from above.
"""

from __future__ import annotations

import abc
import contextlib
import copy
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.artifacts._upload import ARTIFACTS_ATTR_PREFIX
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage, _StudyInfo
from optuna.storages._heartbeat import BaseHeartbeatThread, get_heartbeat_thread
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState, create_trial
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
    "_set_trial_param",
    "create_new_study",
    "delete_study",
    "get_all_studies",
    "get_study_directions",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_system_attrs",
    "get_study_user_attrs",
    "get_trial_id_from_study_id_trial_number",
    "set_study_system_attr",
    "set_study_user_attr",
    "set_trial_intermediate_value",
    "set_trial_system_attr",
    "set_trial_user_attr",
)


# A score of a trial, and one of a step of it, to and from the two columns that hold each.
plain_score = models.TrialValueModel.stored_repr_to_value
stored_score = models.TrialValueModel.value_to_stored_repr
plain_value = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value
stored_value = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
SCORE_TYPES: Mapping[str, Any] = models.TrialValueModel.TrialValueType.__members__
VALUE_TYPES: Mapping[str, Any] = (
    models.TrialIntermediateValueModel.TrialIntermediateValueType.__members__
)


def storage_url(study: optuna.Study) -> str | None:
    """The URL of the database that holds a search; None where it is in memory."""
    storage = study._storage
    url: str | None = getattr(getattr(storage, "_backend", storage), "url", None)
    return url  # Optuna's cache before a storage has none of its own


def search_id(study: optuna.Study) -> int:
    """The key of a search in its database."""
    return study._study_id


def trial_key(trial: FrozenTrial) -> int:
    """The key of a trial in its database."""
    return trial._trial_id


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


def facts_by_table(trial: FrozenTrial) -> dict[str, dict[str, Any]]:
    """The attributes of a trial, by the table of their rows: those that Optuna shows, and its own.

    To change one of the two is to change the trial.
    """
    *_, shown, own = TRIAL_TABLES
    return {shown: trial.user_attrs, own: trial.system_attrs}


def store_trial_fact(trial: optuna.Trial, name: str, value: Any) -> None:
    """Store a fact with a running trial, out of the dashboard's sight."""
    trial.storage.set_trial_system_attr(trial._trial_id, name, value)


def begin_trial(study: optuna.Study, facts: Mapping[str, Any]) -> int:
    """Start the next trial: one that waits, else a new one. Returns its key in the database.

    Only trials that the caller has just read, or queued itself, are known to wait.

    Optuna's `ask` makes a new one without attributes: a process that is killed then leaves a trial
    of nobody. It also draws values, which takes half a second after ten thousand trials.

    Args:
        facts: attributes that people see. One that waited keeps those that it has.
    """
    storage = study._storage
    key = _take_waiting(study)
    if key is None:
        template = create_trial(state=TrialState.RUNNING, user_attrs=dict(facts))
        return storage.create_new_trial(study._study_id, template)
    there = storage.get_trial(key).user_attrs
    with _together(storage, key):
        for name in facts.keys() - there.keys():
            storage.set_trial_user_attr(key, name, facts[name])
    return key


def _take_waiting(study: optuna.Study) -> int | None:
    """The key of a trial that waited, and runs now; None where none waits."""
    storage = study._storage
    if not isinstance(storage, TrialCache):
        return study._pop_waiting_trial_id()
    for trial in storage.waiting(study._study_id):
        with contextlib.suppress(UpdateFinishedTrialError):
            if storage.set_trial_state_values(trial._trial_id, state=TrialState.RUNNING):
                return trial._trial_id
    return None


def begun_trial(study: optuna.Study, key: int) -> optuna.Trial:
    """A trial that was started, to draw its values and to run it."""
    study._thread_local.cached_all_trials = None  # as `ask` does: the sampler sees them anew
    return optuna.Trial(study, key)


class TrialStorage(RDBStorage):
    """A storage that also reads what changed of a search's trials, and stores much at once."""

    @abc.abstractmethod
    def read_open(self, study_id: int, first: int, newest: int) -> dict[TrialState, set[int]]:
        """Keys of a search's trials, by state: of those after `newest`, and of unfinished ones.

        Args:
            first: no unfinished trial has a lower key.
        """

    @abc.abstractmethod
    def read_trials(self, keys: Iterable[int]) -> list[FrozenTrial]:
        """Some trials, by their keys and in the order of them.

        Raises:
            KeyError: one of them is not there.
        """

    @abc.abstractmethod
    def add_trial(self, study_id: int, trial: FrozenTrial) -> tuple[int, int]:
        """Add a trial to a search; returns its key and its number."""

    @abc.abstractmethod
    def check_axis(self, study_id: int, name: str, axis: BaseDistribution) -> None:
        """Raise ValueError if a search has values of another kind under a name."""

    @abc.abstractmethod
    def store_rows(self, trial_id: int, trial: FrozenTrial) -> None:
        """Store what `trial` holds with a trial that has not ended: all of it, or nothing.

        Raises:
            KeyError: there is no such trial.
            UpdateFinishedTrialError: it has ended.
        """


class TrialCache(_CachedStorage):
    """Optuna's cache of trials, which also leaves running trials alone while they stay as they are.

    Optuna's own reads every running trial whole with each look, and sorts all trials: a search of a
    thousand workers looks at a thousand running ones a dozen times a trial.

    A trial that begins here is this worker's own. Nobody else stores anything in it, but its end
    where this worker seems lost; then nothing more can be stored. So it is not read to know it.
    """

    def __init__(self, backend: TrialStorage, is_settled: Callable[[FrozenTrial], bool]) -> None:
        """
        Args:
            is_settled: whether what a running trial stores from now on until its end may be seen
                after its end only.
        """
        super().__init__(backend)
        self._trial_storage, self._is_settled = backend, is_settled
        self._newest: dict[int, int] = {}  # of each search: the key of the newest trial read
        self._unfinished: dict[int, dict[int, FrozenTrial]] = {}
        self._ordered: dict[int, list[FrozenTrial]] = {}  # replaced by another where one changed
        self._own: dict[int, FrozenTrial] = {}  # by their keys, as they are stored
        self._held_back: dict[int, FrozenTrial] = {}  # what `together` stores later, by trial

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """As Optuna has it. Without `deepcopy` and `states` it is the same list until one changes,
        and nobody may change it."""
        self._read_trials_from_remote_storage(study_id)
        trials = self._ordered[study_id]
        if states is not None:
            trials = [trial for trial in trials if trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def waiting(self, study_id: int) -> list[FrozenTrial]:
        """Trials that wait, as they were read last, with those that were added here since."""
        unfinished = self._unfinished.get(study_id, {}).values()
        waiting = [trial for trial in unfinished if trial.state == TrialState.WAITING]
        return sorted(waiting, key=lambda trial: trial.number)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """As Optuna has it. One that waits is read at once, for `waiting`."""
        trial = copy.deepcopy(template_trial or create_trial(state=TrialState.RUNNING))
        key, trial.number = self._trial_storage.add_trial(study_id, trial)
        trial._trial_id = key
        if trial.state == TrialState.RUNNING:
            self._own[key] = trial
        with self._lock:
            self._studies.setdefault(study_id, _StudyInfo())
            self._add_trials_to_cache(study_id, [trial])
        if trial.state == TrialState.WAITING:
            self._read_trials_from_remote_storage(study_id)
        return key

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """As Optuna has it."""
        own = self._own.get(trial_id)
        return super().get_trial(trial_id) if own is None else copy.deepcopy(own)

    @contextlib.contextmanager
    def together(self, trial_id: int) -> Iterator[None]:
        """Within it, what an own trial stores is held back, and stored in one transaction."""
        if trial_id not in self._own or trial_id in self._held_back:
            yield
            return
        self._held_back[trial_id] = create_trial(state=TrialState.RUNNING)
        try:
            yield
        except StorageInternalError:  # an outage that lasts: nothing more can be stored
            del self._held_back[trial_id]
            raise
        finally:
            if trial_id in self._held_back:
                self._store(trial_id, self._held_back.pop(trial_id))

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """As Optuna has it."""
        self._own.pop(trial_id, None)
        changed = self._trial_storage.set_trial_state_values(trial_id, state, values)
        if changed and state == TrialState.RUNNING:
            self._own[trial_id] = self._trial_storage.get_trial(trial_id)
        return changed

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: Any
    ) -> None:
        """As Optuna has it."""
        if trial_id not in self._own:
            super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
            return
        study_id, _ = self._trial_id_to_study_id_and_number[trial_id]
        known = self._studies[study_id].param_distribution
        if param_name in known:
            check_distribution_compatibility(known[param_name], distribution)
        else:
            self._trial_storage.check_axis(study_id, param_name, distribution)
            known[param_name] = distribution
        value = distribution.to_external_repr(param_value_internal)
        self._store(
            trial_id,
            create_trial(
                state=TrialState.RUNNING,
                params={param_name: value},
                distributions={param_name: distribution},
            ),
        )

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As Optuna has it."""
        self._store(trial_id, create_trial(state=TrialState.RUNNING, user_attrs={key: value}))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As Optuna has it."""
        self._store(trial_id, create_trial(state=TrialState.RUNNING, system_attrs={key: value}))

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """As Optuna has it."""
        steps = {step: intermediate_value}
        self._store(trial_id, create_trial(state=TrialState.RUNNING, intermediate_values=steps))

    def _store(self, trial_id: int, rows: FrozenTrial) -> None:
        """Store what `rows` holds with a trial, now or with what is held back."""
        if trial_id in self._held_back:
            _update(self._held_back[trial_id], rows)
            return
        self._trial_storage.store_rows(trial_id, rows)
        if trial_id in self._own:
            _update(self._own[trial_id], rows)

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        with self._lock:
            unfinished = self._unfinished.setdefault(study_id, {})
            newest = self._newest.get(study_id, -1)
            if newest < 0:
                self._studies.setdefault(study_id, _StudyInfo())
                trials = self._backend._get_trials(study_id, None, set(), -1)
            elif changed := self._changed(study_id, unfinished, newest):
                trials = self._trial_storage.read_trials(changed)
            else:
                return
            self._add_trials_to_cache(study_id, trials)
            for trial in trials:
                newest = max(newest, trial._trial_id)
                if trial.state.is_finished():
                    unfinished.pop(trial._trial_id, None)
                else:
                    unfinished[trial._trial_id] = trial
            self._newest[study_id] = newest
            self._order(study_id, trials)

    def _changed(self, study_id: int, unfinished: dict[int, FrozenTrial], newest: int) -> set[int]:
        """Keys of the trials that are not, or may not be, as they were read."""
        first = min(unfinished, default=newest + 1)
        now = self._trial_storage.read_open(study_id, first, newest)
        new = {key for keys in now.values() for key in keys if key > newest}
        return new | {
            key
            for key, trial in unfinished.items()
            if key not in now.get(trial.state, ()) or not self._is_settled(trial)
        }

    def _order(self, study_id: int, changed: Sequence[FrozenTrial]) -> None:
        """Put trials that were read in their places, by number."""
        trials = self._ordered.get(study_id, []).copy()
        for trial in changed:
            trials[trial.number : trial.number + 1] = [trial]
        if any(trials[t.number : t.number + 1] != [t] for t in changed):  # a number is missing
            trials = sorted(self._studies[study_id].trials.values(), key=lambda t: t.number)
        self._ordered[study_id] = trials


def _update(trial: FrozenTrial, rows: FrozenTrial) -> None:
    """Add to a trial what `rows` holds."""
    for name in ("params", "distributions", "intermediate_values", "user_attrs", "system_attrs"):
        getattr(trial, name).update(copy.deepcopy(getattr(rows, name)))


def stored_together(trial: optuna.Trial) -> contextlib.AbstractContextManager[None]:
    """A context in which what a running trial stores is held back, and stored in one transaction.

    Only where a `TrialCache` holds the trial: elsewhere each is stored at once.
    """
    return _together(trial.storage, trial._trial_id)


def _together(storage: BaseStorage, key: int) -> contextlib.AbstractContextManager[None]:
    return storage.together(key) if isinstance(storage, TrialCache) else contextlib.nullcontext()


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
