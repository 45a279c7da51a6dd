"""Studies that an archive sends, answered: `mura listen`."""

from __future__ import annotations

import time
from pathlib import Path

from mura_tune import console
from mura_tune.api.reading import ReaderChoice
from mura_tune.archive.listener import ListenSettings, check_pacs_extra, listen
from mura_tune.areas import ROUTER
from mura_tune.errors import InputError


def answer_archive(
    choice: ReaderChoice, queue: Path, settings: ListenSettings, hours: float | None = None
) -> None:
    """Answer the studies that come by C-STORE, until it is interrupted or the hours are over.

    Args:
        queue: the folder for what is received and not sent yet; the next call goes on with it.
        hours: None goes on for ever.

    Raises:
        InputError: no such release; a queue or a port that another process has.
    """
    check_pacs_extra()
    if choice.area == ROUTER:
        raise InputError("a router gives no probability of abnormal; name an area, or auto")
    reader = choice.open(choice.locate())
    for line in reader.open_all():
        console.print_note(line)
    end = None if hours is None else time.monotonic() + hours * 3600
    listen(
        reader,
        queue,
        settings,
        console.print_note,
        is_over=lambda: end is not None and time.monotonic() > end,
    )
