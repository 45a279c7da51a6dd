"""`mura VERB`: parse, call one function, print. Heavy imports wait inside the verbs."""

from __future__ import annotations

import click

from mura_tune import __version__, console
from mura_tune.cli.archive import listen
from mura_tune.cli.data import cache, check, phantom
from mura_tune.cli.evaluate import compare, evaluate, report, verify
from mura_tune.cli.launch import launch
from mura_tune.cli.reading import explain, infer, read
from mura_tune.cli.release import export, finalize, recalibrate
from mura_tune.cli.search import ablate, best, dashboard, searches, show, status, study, tune


class Verbs(click.Group):
    """Verbs in the order of their use, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="mura")
def mura() -> None:
    """Search, train, release and use abnormality classifiers for radiographs in MURA's layout.

    The usual way: check the data, tune an area, look at the search, finalize its release, use it.

    \b
      mura check
      mura tune XR_ELBOW --trials 24
      mura dashboard
      mura finalize XR_ELBOW
      mura infer --area XR_ELBOW --image view1.png --image view2.png

    No data at hand? `make demo` goes the whole way on synthetic radiographs.
    """


for verb in (
    phantom,
    check,
    cache,
    tune,
    status,
    best,
    ablate,
    show,
    dashboard,
    searches,
    study,
    launch,
    finalize,
    evaluate,
    compare,
    report,
    verify,
    recalibrate,
    export,
    infer,
    explain,
    read,
    listen,
):
    mura.add_command(verb)


def main() -> None:
    """The `mura` command."""
    console.run_command(mura, "mura")
