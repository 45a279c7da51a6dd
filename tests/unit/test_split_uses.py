"""The log of uses of test: each is counted once, whoever writes beside it or dies."""

import errno
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest

from mura_tune.evaluation import split_uses
from mura_tune.evaluation.split_uses import LOG, SplitUse, count_uses, describe_uses, log_use

WRIST = SplitUse("evaluate", "0123456789abcdef", "XR_WRIST", ("XR_WRIST",), "MURA-v1.1")
POOLED = replace(WRIST, area="ALL", areas=("XR_HAND", "XR_WRIST"), verb="finalize")


def test_uses_are_counted_where_an_area_of_the_same_dataset_is_shared(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert log_use(runs, WRIST) == 0
    assert log_use(runs, POOLED) == 1
    assert log_use(runs, replace(WRIST, areas=("XR_ELBOW",))) == 0
    assert log_use(runs, replace(WRIST, data="phantoms")) == 0
    assert log_use(runs, WRIST) == count_uses(runs, ("XR_WRIST",), "MURA-v1.1") - 1 == 2
    first = json.loads((runs / LOG).read_text().splitlines()[0])
    time = first.pop("time")
    assert SplitUse(**first | {"areas": tuple(first["areas"])}) == WRIST
    assert time.endswith("+00:00")


@pytest.mark.parametrize("left", [b'{"verb": "evalu', b"\xff\xfe\n", b"[1]\n", b'{"areas": 3}\n'])
def test_what_a_killed_call_left_is_ended_and_passed_over(tmp_path: Path, left: bytes) -> None:
    (tmp_path / LOG).write_bytes(left)
    assert log_use(tmp_path, WRIST) == 0
    assert log_use(tmp_path, WRIST) == 1
    assert (tmp_path / LOG).read_bytes().startswith(left.rstrip(b"\n") + b"\n")


def test_a_log_that_cannot_be_read_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / LOG).mkdir()
    assert log_use(tmp_path, WRIST) is None
    assert "how often test was read is not known: Is a directory" in caplog.text


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert log_use(tmp_path / "file" / "runs", WRIST) is None
    assert describe_uses(None) == ""
    (tmp_path / LOG).mkdir()
    assert log_use(tmp_path, WRIST) is None


@pytest.mark.parametrize("call", ["flock", "fsync"])
def test_a_file_system_that_cannot_lock_or_flush_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(split_uses.fcntl if call == "flock" else split_uses.os, call, refuse)
    assert [log_use(tmp_path, WRIST) for _ in range(2)] == [0, 1]


def _log_many(runs: Path) -> list[int | None]:
    return [log_use(runs, WRIST) for _ in range(20)]


def test_each_of_many_writers_has_a_number_of_its_own(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, mp_context=get_context("fork")) as pool:
        counts = [n for some in pool.map(_log_many, [tmp_path] * 3) for n in some]
    assert sorted(counts) == list(range(60))


def test_uses_are_said_in_words() -> None:
    assert [describe_uses(n) for n in (0, 1, 2)] == [
        "test of this area was not read before",
        "test of this area was read 1 time before",
        "test of this area was read 2 times before",
    ]
