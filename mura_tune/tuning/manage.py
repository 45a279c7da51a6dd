"""Copy, export and delete whole studies, each with the study that confirms it."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from mura_tune.errors import InputError
from mura_tune.tuning.locks import Alive, lock_of
from mura_tune.tuning.results import confirmation
from mura_tune.tuning.slots import was_cut
from mura_tune.tuning.storage import CONFIRMS, database, load_study, open_storage
from mura_tune.tuning.stored import dev_score_of, has_score

COLUMNS = (
    "study", "trial", "slot", "role", "state", "dev_score", "low", "high", "studies", "epochs",
    "best_epoch", "seconds", "reason", "from", "of", "digest", "started", "ended",
)  # fmt: skip


def copy(url: str, name: str, new: str, to: str) -> int:
    """Copy study `name` as `new` into the database at `to`; returns how many trials it has.

    Raises:
        InputError: no such study, or `new` exists there.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    source, target = open_storage(url), open_storage(to, create=True)
    there = optuna.get_all_study_names(target)
    for one in _parts(source, name, url):
        renamed = new + one.removeprefix(name)
        if renamed in there:
            raise InputError(f"{database(to)}: study {renamed} exists; name another")
        optuna.copy_study(from_study_name=one, from_storage=source, to_storage=target,
                          to_study_name=renamed)  # fmt: skip
    return len(load_study(target, new, to).get_trials(deepcopy=False))


def table(url: str, name: str) -> str:
    """Every trial of a study and of its confirmation as CSV, a row a trial."""
    storage = open_storage(url)
    studies = [load_study(storage, one, url) for one in _parts(storage, name, url)]
    rows = [
        _row(study.study_name, trial)
        for study in studies
        for trial in study.get_trials(deepcopy=False)
    ]
    params = sorted({key for row in rows for key in row} - set(COLUMNS))
    out = io.StringIO()
    writer = csv.DictWriter(out, [*COLUMNS, *params], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def delete(url: str, name: str, artifacts: Path) -> int:
    """Delete a study, its confirmation and its pictures; returns how many trials went.

    Raises:
        InputError: no such study, or a worker runs a trial of it.
    """
    storage = open_storage(url)
    gone = 0
    with lock_of(url, name), Alive(url) as alive:
        studies = [load_study(storage, one, url) for one in _parts(storage, name, url)]
        for study in studies:
            running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if any(alive.lives(trial.user_attrs.get("worker")) for trial in running):
                raise InputError(f"study {study.study_name}: a worker runs a trial of it; "
                                 "stop that first")  # fmt: skip
        for study in studies:
            _remove_pictures(study, artifacts)
            gone += len(study.get_trials(deepcopy=False))
            optuna.delete_study(study_name=study.study_name, storage=storage)
    return gone


def _parts(storage: RDBStorage, name: str, url: str) -> Iterator[str]:
    load_study(storage, name, url)  # or say which there are
    yield name
    if confirmation(storage, name) is not None:
        yield name + CONFIRMS


def _row(study: str, trial: FrozenTrial) -> dict[str, Any]:
    kept = trial.user_attrs
    interval = dev_score_of(trial) if has_score(trial) else {}
    return {
        **trial.params,
        "study": study,
        "trial": trial.number,
        "state": "cut off" if was_cut(trial) else trial.state.name.lower(),
        "dev_score": trial.value,
        **{key: interval.get(key) for key in ("low", "high", "studies")},
        **{key: kept.get(key) for key in ("slot", "role", "epochs", "best_epoch", "seconds",
                                          "reason", "from", "of", "digest")},
        "started": trial.datetime_start,
        "ended": trial.datetime_complete,
    }  # fmt: skip


def _remove_pictures(study: optuna.Study, artifacts: Path) -> None:
    if not artifacts.is_dir():
        return
    store = FileSystemArtifactStore(str(artifacts))
    storage = study._storage
    owners: list[optuna.Study | FrozenTrial] = [study, *study.get_trials(deepcopy=False)]
    for owner in owners:
        for meta in get_all_artifact_meta(owner, storage=storage):
            with contextlib.suppress(ArtifactNotFound):
                store.remove(meta.artifact_id)
