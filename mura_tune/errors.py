"""Every failure a person can cause or meet, with the exit code it ends in."""


class MuraError(Exception):
    """A failure told in one line. The command line prints it and exits with `exit_code`."""

    exit_code = 1


class InputError(MuraError):
    """Bad input or configuration: which file or key, what is wrong with it, what to do."""

    exit_code = 2


class UnreadableImage(InputError):
    """An image that cannot be decoded; `path` names the file and `reason` says why."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class Diverged(MuraError):
    """A loss that is no longer a finite number; training it further would only waste time."""
