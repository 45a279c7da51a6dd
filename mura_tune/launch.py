"""Where the commands begin: from the first moment on, Ctrl-C ends in one line."""

from __future__ import annotations

import os
import signal
from types import FrameType


def mura() -> None:
    """The `mura` command."""
    _end_at_once_when_interrupted("mura")
    from mura_tune.cli import main

    main()


def mura_infer() -> None:
    """The `mura-infer` command."""
    _end_at_once_when_interrupted("mura-infer")
    from mura_tune.cli_infer import main

    main()


def _end_at_once_when_interrupted(name: str) -> None:
    """While modules are imported nothing is at stake, and an exception could surface anywhere.

    `console.run` puts the usual handlers in place.
    """

    def leave(_signal: int, _frame: FrameType | None) -> None:
        os.write(2, f"{name}: interrupted\n".encode())
        os._exit(130)

    signal.signal(signal.SIGINT, leave)
    signal.signal(signal.SIGTERM, leave)
