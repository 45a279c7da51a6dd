"""Studies are copied whole, exported, and deleted with what belongs to them."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from conftest import Ran
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from stored import COMPARABLE, facts, store
from test_search import study_of, tune

from mura_tune.data.prepare import Prepared
from mura_tune.database.locks import WorkerLock
from mura_tune.database.storage import load_study, open_storage, using
from mura_tune.database.urls import url_of, url_of_file
from mura_tune.errors import InputError
from mura_tune.search import manage
from mura_tune.search.results import load_confirmation, load_result


def trial(number: int, state: TrialState = TrialState.COMPLETE, **attrs: Any) -> FrozenTrial:
    return create_trial(
        state=state,
        value=number / 10 if state == TrialState.COMPLETE else None,
        params={"finetune.lr": 0.1 * (number + 1)},
        distributions={"finetune.lr": FloatDistribution(0.01, 10)},
        user_attrs={"slot": number, **attrs},
        system_attrs={"mura:recipe": {"seed": number}},
        intermediate_values={1: 0.25, 2: 0.5},
    )


def fill(url: str, name: str = "s", trials: int = 3) -> None:
    """A study with a confirmation, as a search would leave it."""
    with using(url, create=True) as storage:
        for one, count in ((name, trials), (f"{name}.confirm", 2)):
            study = optuna.create_study(storage=storage, study_name=one, direction="maximize")
            study.set_user_attr("note", f"of {one}")
            store(study, COMPARABLE, {"area": "XR_WRIST"})
            study.add_trials([trial(number) for number in range(count)])
        load_study(storage, name, url).add_trial(trial(trials, TrialState.FAIL, reason="=cmd()"))


def content(url: str, name: str) -> list[Any]:
    """All that a study and its confirmation hold, but for the keys of the database."""
    held = []
    with using(url) as storage:
        for one in (name, f"{name}.confirm"):
            study = load_study(storage, one, url)
            trials = [vars(each) | {"_trial_id": None} for each in study.get_trials()]
            held.append((study.directions, study.user_attrs, dict(facts(study)), trials))
    return held


def studies(url: str) -> list[str]:
    with using(url) as storage:
        return optuna.get_all_study_names(storage)


def test_a_copy_is_the_study_in_the_same_and_in_another_database(
    new_storage: Callable[[], str], tmp_path: Path
) -> None:
    url = new_storage()
    fill(url, "other")
    fill(url)
    for to in (url, new_storage(), url_of_file(tmp_path / "a%20 ?b.db")):
        assert manage.copy(url, "s", "t 2", to) == 4
        assert content(to, "t 2") == content(url, "s")
    assert content(url, "other")[0][3] != []
    with pytest.raises(InputError, match="search t 2 exists"):
        manage.copy(url, "s", "t 2", url)


def test_trials_of_another_program_are_named_in_the_export(url: str) -> None:
    fill(url)
    with using(url) as storage:
        load_study(storage, "s", url).add_trial(create_trial(value=0.99))
    rows = list(csv.DictReader(io.StringIO(manage.table(url, "s"))))
    (stranger,) = [row for row in rows if row["dev_score"] == "0.99"]
    assert stranger["state"] == "foreign"


class _Crash(BaseException):
    """The process is gone."""


def test_a_copy_that_is_killed_leaves_nothing_and_the_same_line_completes(tmp_path: Path) -> None:
    """Killed before its first write, before its second, and so on, until it comes through."""
    url, to = (url_of_file(tmp_path / name) for name in ("a.db", "b.db"))
    fill(url)
    with using(to, create=True):
        pass
    allowed, writes = 0, 0

    def killed(*event: Any) -> None:
        nonlocal writes
        if event[2].startswith("INSERT"):
            writes += 1
            if writes > allowed:
                raise _Crash

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", killed)
    try:
        for allowed in range(0, 100, 7):  # noqa: B007 (read in `killed`)
            writes = 0
            try:
                assert manage.copy(url, "s", "t", to) == 4
                break
            except _Crash:
                assert studies(to) == []
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", killed)
    assert allowed > 10
    assert content(to, "t") == content(url, "s")


def test_a_copy_has_a_legal_name_whatever_its_original_has(url: str) -> None:
    fill(url, "#1: left/right")
    for new in ("a/b", "../up", "t.confirm", "", "x" * 200):
        with pytest.raises(InputError, match=r"^NEW is "):
            manage.copy(url, "#1: left/right", new, url)
    assert manage.copy(url, "#1: left/right", "left", url) == 4
    with pytest.raises(InputError, match=r"copy left$"):
        manage.copy(url, "left.confirm", "u", url)
    assert manage.delete(url, "#1: left/right", Path("nowhere")) == 6
    assert studies(url) == ["left", "left.confirm"]


def test_delete_takes_both_or_none(url: str) -> None:
    fill(url)
    deleted = 0

    def killed(*event: Any) -> None:
        nonlocal deleted
        if event[2].startswith("DELETE FROM studies"):
            deleted += 1
            raise _Crash

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", killed)
    try:
        with pytest.raises(_Crash):
            manage.delete(url, "s", Path("nowhere"))
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", killed)
    assert studies(url) == ["s", "s.confirm"]
    assert manage.delete(url, "s", Path("nowhere")) == 6
    assert studies(url) == []


def test_a_confirmation_that_an_early_version_left_behind_can_be_deleted(url: str) -> None:
    fill(url)
    with using(url) as storage:
        optuna.delete_study(study_name="s", storage=storage)
    fill(url, "u")
    with pytest.raises(InputError, match=r"search s\.confirm exists.*mura study delete s"):
        manage.copy(url, "u", "s", url)
    assert manage.delete(url, "s", Path("nowhere")) == 2
    with pytest.raises(InputError, match="no search s; it holds u"):
        manage.delete(url, "s", Path("nowhere"))


def test_a_study_that_a_worker_is_at_is_not_deleted(url: str) -> None:
    fill(url)
    with using(url) as storage, WorkerLock(url) as worker_lock:
        load_study(storage, "s", url).add_trial(
            trial(9, TrialState.RUNNING, worker=worker_lock.name)
        )
        with pytest.raises(InputError, match="a worker runs a trial of it"):
            manage.delete(url, "s", Path("nowhere"))
    assert manage.delete(url, "s", Path("nowhere")) == 7


def test_pictures_that_a_copy_shows_too_outlive_one_of_them(url: str, tmp_path: Path) -> None:
    fill(url)
    folder, picture = tmp_path / "artifacts", tmp_path / "picture.png"
    folder.mkdir()
    picture.write_bytes(b"a picture")
    with using(url) as storage:
        study = load_study(storage, "s", url)
        for owner in (study, study.ask()):
            upload_artifact(
                artifact_store=FileSystemArtifactStore(folder),
                file_path=str(picture),
                study_or_trial=owner,
            )
    other = url_of_file(tmp_path / "other.db")
    for to in (url, other):
        manage.copy(url, "s", "t", to)
    manage.delete(other, "t", folder)  # of another database: it shows none
    manage.delete(url, "t", folder)
    assert len(list(folder.iterdir())) == 2
    manage.delete(url, "s", folder)
    assert list(folder.iterdir()) == []


def test_only_pictures_are_removed(url: str, tmp_path: Path) -> None:
    fill(url)
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "precious").touch()
    with using(url) as storage:
        study = load_study(storage, "s", url)
        store(study, "artifacts:../precious", "a picture, says somebody")
    manage.delete(url, "s", tmp_path / "artifacts")
    assert (tmp_path / "precious").exists()


def test_the_table_has_no_formulas(url: str) -> None:
    fill(url, "=HYPERLINK(1)")
    rows = list(csv.DictReader(io.StringIO(manage.table(url, "=HYPERLINK(1)"))))
    assert [row["study"] for row in rows[:4]] == ["'=HYPERLINK(1)"] * 4
    assert rows[3]["reason"] == "'=cmd()"
    assert float(rows[1]["finetune.lr"]) == 0.2


def test_without_anybody_to_ask_delete_says_what_to_do(
    run: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = url_of_file(tmp_path / "runs" / "studies.db")
    fill(url)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    asked = run("study", "delete", "s")
    assert (asked.code, asked.err.splitlines()[-1]) == (
        2,
        "mura: search delete: nobody answers, nothing deleted; --yes deletes without asking",
    )
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert run("study", "delete", "s").code == 0
    assert studies(url) == ["s", "s.confirm"]
    assert run("study", "delete", "s", "--yes").code == 0
    assert studies(url) == []


def test_an_export_that_cannot_be_written_is_told_before_it_is_read(
    run: Callable[..., Ran], tmp_path: Path
) -> None:
    for out in (tmp_path, tmp_path / "missing.db" / "x.csv"):
        (tmp_path / "missing.db").touch()
        ended = run("study", "export", "s", f"--out={out}")
        assert ended.code == 2
        assert ended.err.startswith(f"mura: {out}: ")
        assert len(ended.err.splitlines()) == 1


def test_a_study_can_be_copied_exported_and_deleted(
    prepared: Prepared, url: str, tmp_path: Path
) -> None:
    tune(
        study_of("budget.trials=2", "budget.confirm.top=1", "budget.confirm.seeds=1"), prepared, url
    )
    other = url_of(str(tmp_path / "other.db"))
    assert manage.copy(url, "s", "t", other) == 2
    assert load_result(other, "t").to_json() == load_result(url, "s").to_json() | {
        "study": "t",
        "search": "t",
    }
    with pytest.raises(InputError, match="search t exists"):
        manage.copy(url, "s", "t", other)
    assert len(tune(study_of("budget.trials=3"), prepared, other, name="t").trials) == 3

    head, *rows = manage.table(url, "s").splitlines()
    assert head.startswith("study,trial,slot,role,state,dev_score,low,high")
    assert "finetune.lr" in head
    confirmed = len(load_confirmation(open_storage(url), "s").trials())
    assert [row.split(",")[0] for row in rows] == ["s"] * 2 + ["s.confirm"] * confirmed

    assert manage.delete(url, "s", tmp_path / "artifacts") == 2 + confirmed
    assert optuna.get_all_study_names(open_storage(url)) == []
    with pytest.raises(InputError, match="no search s"):
        manage.table(url, "s")
