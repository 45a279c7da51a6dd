"""The one rule for names of areas, searches and releases."""

import pytest

from mura_tune.errors import InputError
from mura_tune.text import check_name, check_search_name, file_name_of

GOOD = ["XR_WRIST", "ALL", "hand 2 (left)", "v1.1+b", "Hüfte", "0", "a" * 100]
BAD = ["", "..", ".", ".hidden", "../victim", "a/b", "a\\b", "a\0b", "-rf", " a", "a ", "a.", "a\n"]
BAD += ["$x", "a'b", "<b>", "a%41", "a?b", "a#b", "\udcff", "a" * 101, "ü" * 51]


@pytest.mark.parametrize("name", GOOD)
def test_a_plain_name_passes(name: str) -> None:
    assert check_name(name, "--search") == name
    assert file_name_of(name) == name


@pytest.mark.parametrize("name", BAD)
def test_any_other_name_is_refused_in_one_printable_line(name: str) -> None:
    with pytest.raises(InputError) as refusal:
        check_name(name, "--search")
    assert str(refusal.value).startswith("--search is ")
    assert str(refusal.value).isprintable()


def test_names_of_confirmations_are_taken() -> None:
    with pytest.raises(InputError, match="belong to confirmations"):
        check_search_name("XR_WRIST.confirm", "--search")


@pytest.mark.parametrize("name", [*BAD, "../" * 200, "a" * 5000])
def test_any_stored_name_has_a_file_name_of_its_own(name: str) -> None:
    file = file_name_of(name)
    assert "/" not in file
    assert not file.startswith("..")
    assert len(file.encode()) < 240
    assert file != file_name_of(name + "x")
