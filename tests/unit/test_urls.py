"""A path of a database means itself; a URL means what its scheme says."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran
from optuna.storages import RDBStorage
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

from mura_tune.database.urls import (
    database,
    file_of,
    has_password,
    hide_passwords,
    url_of,
    url_of_file,
)
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


SECRET = "postgresql+psycopg://me:s3cret%2F1@host/db?sslmode=verify-full&sslrootcert=%2Fca.pem"


def test_the_newline_of_a_file_is_no_part_of_its_url() -> None:
    assert url_of("postgresql+psycopg://me@host/db\n") == "postgresql+psycopg://me@host/db"


def test_options_for_tls_pass_through() -> None:
    assert url_of(SECRET) == SECRET
    options = create_engine(SECRET).dialect.create_connect_args(make_url(SECRET))[1]
    assert (options["sslmode"], options["sslrootcert"]) == ("verify-full", "/ca.pem")


def test_a_password_stands_nowhere_that_people_read() -> None:
    for url in (SECRET, "postgresql+psycopg://me@host/db?password=s3cret/1&sslpassword=s3cret/1"):
        assert has_password(url)
        assert "s3cret" not in database(url_of(url))
        assert "host" in database(url_of(url))
        for form in ("s3cret/1", "s3cret%2F1"):
            assert hide_passwords(url, f"no entry for {form}") == "no entry for ***"
    for text in ("postgresql://me@host/db", "runs/a:b@c.db", "sqlite:////a:b@c.db", "@file"):
        assert not has_password(text)
    with pytest.raises(InputError) as caught:
        url_of("mysql://me@host/db?password=s3cret")
    assert "s3cret" not in str(caught.value)


def test_a_file_names_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("storage").write_text(f"\n{SECRET}\n")
    assert url_of("@storage") == url_of(f"@{tmp_path}/storage") == SECRET
    for content, line in (
        (b"", "0 lines; write one line"),
        (b"a\nb\n", "2 lines; write one line"),
        (b"@other", "1 lines; write one line"),
        (b"\xff", "not UTF-8"),
    ):
        Path("storage").write_bytes(content)
        with pytest.raises(InputError, match=f"--storage @storage: {line}"):
            url_of("@storage")
    with pytest.raises(InputError, match="--storage @none: no such file"):
        url_of("@none")
    Path("@studies.db").touch()  # a database of this name is what the name meant before
    assert file_of(url_of("@studies.db")) == Path("@studies.db")


def test_a_command_reads_the_file_and_warns_of_a_typed_password(
    run: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "storage").write_text(str(tmp_path / "none.db"))
    monkeypatch.setenv("MURA_STORAGE_FILE", str(tmp_path / "storage"))
    assert f"{tmp_path}/none.db: no searches yet" in run("best", "XR_WRIST").err
    ran = run("best", "XR_WRIST", f"--storage=postgresql://me:s3cret@/db?host={tmp_path}")
    assert (ran.code, "s3cret" in ran.err) == (2, False)
    assert "warning: everybody on this machine sees a password on a command line" in ran.err
    monkeypatch.setenv("MURA_STORAGE", f"postgresql://me:s3cret@/db?host={tmp_path}")
    ran = run("best", "XR_WRIST")
    assert (ran.code, "s3cret" in ran.err, "warning" in ran.err) == (2, False, False)
