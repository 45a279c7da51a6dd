"""A path of a database means itself; a URL means what its scheme says."""

from pathlib import Path

import pytest
from optuna.storages import RDBStorage
from sqlalchemy.engine import make_url

from mura_tune.database.urls import database, file_of, url_of, url_of_file
from mura_tune.errors import InputError

ODD = (
    "a b",
    "a%20b",
    "p%41",
    "q?1",
    "x#1",
    "a&b=c;d",
    "back\\slash",
    'it\'s "so"',
    "{x}",
    "é",
    "a:b@c",
    "file:x",
    "a+b",
    "~",
    "$(x)",
    "my sqlite:",
    "line\nbreak",
)


@pytest.mark.parametrize("name", ODD)
def test_every_character_of_a_path_means_itself(name: str) -> None:
    for text in (f"{name}/studies.db", f"runs/{name}.db", f"/{name}"):
        url = url_of(text)
        assert file_of(url) == Path(text)
        assert database(url) == text
        assert make_url(url).database == text  # as Optuna and SQLAlchemy read it
        assert url_of(url) == url


def test_bytes_that_are_no_text_mean_themselves() -> None:
    path = Path("runs/R\udcf6ntgen/studies.db")
    assert file_of(url_of_file(path)) == path


def test_a_database_is_made_where_its_path_says(tmp_path: Path) -> None:
    names = {"a%20b", "q?1", "q?2", "{x}#1"}
    for name in names:
        RDBStorage(url_of(str(tmp_path / name)))
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_url_is_percent_encoded_and_takes_no_other_options() -> None:
    assert file_of(url_of("sqlite:///a%20b.db?timeout=5")) == Path("a b.db")
    assert file_of(url_of("sqlite+pysqlite:////tmp/a.db")) == Path("/tmp/a.db")
    for text in ("sqlite://", "sqlite:///", "sqlite://host/x", "sqlite:///file:x?uri=true"):
        with pytest.raises(InputError, match="name a file, as a path or as sqlite:///PATH"):
            url_of(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (":memory:", "has to outlive its processes"),
        ("", "no path of a file"),
        ("a\0b", "no path of a file"),
        ("mysql://host/db", "name a file, or postgresql"),
        ("postgresql://host:abc/db", "not a valid database URL"),
        ("postgresql://[::1/db", "not a valid database URL"),
        ("postgresql://host", "name a file, or postgresql"),
    ],
)
def test_what_names_no_database_is_refused(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        url_of(text)


def test_a_refusal_does_not_print_the_password() -> None:
    for text in ("mysql://me:sec@ret@host/db", "postgresql://me:secret@host:x/db"):
        with pytest.raises(InputError, match=r"//\*\*\*@host") as refused:
            url_of(text)
        assert "ret" not in str(refused.value)


def test_postgresql_goes_through_psycopg() -> None:
    url = url_of("postgresql://me:secret@host/db")
    assert url == "postgresql+psycopg://me:secret@host/db"
    assert file_of(url) is None
    assert database(url) == "postgresql+psycopg://me:***@host/db"
