"""What tells one version of the program from another, wherever it is installed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import mura_tune
from mura_tune.software import LIBRARIES, Software, running_software


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A part of the package elsewhere, which tests may change."""
    shutil.copytree(Path(mura_tune.__file__).parent / "metrics", tmp_path / "metrics")
    return tmp_path


def test_neither_the_place_nor_the_line_ends_tell_two_versions_apart(package: Path) -> None:
    here = running_software(package)
    elsewhere = package.rename(package.with_name("elsewhere"))
    file = elsewhere / "metrics" / "ranking.py"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    (elsewhere / "metrics" / "ranking.pyc").touch()
    assert running_software(elsewhere) == here
    assert str(here) == f"mura-tune {mura_tune.__version__} (source {here.source[:8]})"


def test_a_changed_or_another_module_is_another_version(package: Path) -> None:
    sources = [running_software(package).source]
    file = package / "metrics" / "ranking.py"
    file.write_text(file.read_text() + "\n")
    sources.append(running_software(package).source)
    file.rename(file.with_name("order.py"))
    sources.append(running_software(package).source)
    assert len(set(sources)) == 3


def test_it_goes_to_json_and_comes_back() -> None:
    here = running_software()
    assert set(here.libraries) == set(LIBRARIES)
    assert not [version for version in here.libraries.values() if "+" in version]
    plain = json.loads(json.dumps(here.to_json()))
    assert Software.from_json(plain | {"later": 1}) == here
    other = replace(here, libraries={**here.libraries, "torch": "1.0"})
    assert here.is_same_program(other)
    assert here.differing_libraries(other) == {"torch": (here.libraries["torch"], "1.0")}
    assert not here.is_same_program(replace(here, version="9"))
