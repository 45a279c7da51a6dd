"""Pictures of trials: in PostgreSQL for every machine, in the folder where there is no room."""

import io
import logging
import pickle
import threading
from pathlib import Path

import postgres as postgresql
import pytest
from optuna.artifacts.exceptions import ArtifactNotFound

from mura_tune.database import pictures
from mura_tune.database.outages import Outage
from mura_tune.database.pictures import PictureStore
from mura_tune.database.urls import url_of


def content(store: PictureStore, name: str) -> bytes:
    with store.open_reader(name) as reader:
        return reader.read()


def test_a_local_search_has_them_in_its_folder(tmp_path: Path) -> None:
    store = PictureStore(tmp_path / "artifacts", url_of(str(tmp_path / "studies.db")))
    store.write("one", io.BytesIO(b"picture"))
    assert (tmp_path / "artifacts" / "one").read_bytes() == b"picture" == content(store, "one")
    assert not (tmp_path / "studies.db").exists()
    store.remove("one")
    with pytest.raises(ArtifactNotFound):
        store.open_reader("one")
    for name in ("../one", "", "a/b"):
        with pytest.raises(ArtifactNotFound):
            store.open_reader(name)


def test_machines_of_one_postgresql_share_them(postgres: postgresql.Server, tmp_path: Path) -> None:
    url = postgres.url()
    first, other = (PictureStore(tmp_path / name, url) for name in ("first", "other"))
    with pytest.raises(ArtifactNotFound):  # there is no table yet
        other.open_reader("one")
    writers = [
        threading.Thread(target=store.write, args=(name, io.BytesIO(name.encode() * 1000)))
        for store, name in (
            (first, "one"),
            (other, "two"),
            (pickle.loads(pickle.dumps(first)), "three"),
        )
    ]
    for writer in writers:  # of whom only one makes the table
        writer.start()
    for writer in writers:
        writer.join()
    assert [content(store, "two") for store in (first, other)] == [b"two" * 1000] * 2
    assert content(PictureStore(None, url), "three") == b"three" * 1000
    assert [*tmp_path.iterdir()] == []
    first.remove_all(["one", "two", "../three"])
    with pytest.raises(ArtifactNotFound):
        other.open_reader("one")
    assert content(other, "three") == b"three" * 1000


def test_what_a_database_has_no_room_for_and_what_was_there_before_is_in_the_folder(
    postgres: postgresql.Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(pictures, "PICTURE_BYTES", 10)
    monkeypatch.setattr(pictures, "DATABASE_BYTES", 25)
    here = PictureStore(tmp_path / "a", postgres.url())
    elsewhere = PictureStore(tmp_path / "b", here.url)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "before").write_bytes(b"an earlier version's")
    assert content(here, "before") == b"an earlier version's"
    with caplog.at_level(logging.WARNING):
        for name, size in (("large", 11), ("one", 10), ("two", 10), ("three", 10)):
            here.write(name, io.BytesIO(b"x" * size))
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"before", "large", "three"}
    assert caplog.text.count("the database has no room for another picture") == 2
    assert content(here, "large") == b"x" * 11
    assert content(elsewhere, "two") == b"x" * 10
    with pytest.raises(ArtifactNotFound):
        elsewhere.open_reader("three")


def test_a_database_out_of_reach_is_one_line(tmp_path: Path) -> None:
    store = PictureStore(tmp_path, f"postgresql+psycopg://me:hidden@/x?host={tmp_path}")
    with pytest.raises(Outage) as caught:
        store.write("one", io.BytesIO(b"x"))
    assert "hidden" not in f"{caught.value}{store}"
    assert "\n" not in str(caught.value)
