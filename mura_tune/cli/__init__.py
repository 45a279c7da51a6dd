"""`mura VERB`: parse, call one function, print. Heavy imports wait inside the verbs."""

from __future__ import annotations

from collections import UserDict
from importlib import import_module
from typing import Any

import click

from mura_tune import __version__, console

# In the order of their use: where a verb is, and its line in `mura --help`, which older names lack.
VERBS = {
    "phantom": ("data.phantom", "Draw synthetic radiographs in MURA's layout."),
    "check": ("data.check", "Count what a dataset holds, and name what is wrong with it."),
    "cache": ("data.cache", "Decode an area's images once (tune does it by itself)."),
    "tune": ("search.tune", "Search the recipe of an area, up to N trials in total."),
    "status": ("search.status", "Say who runs what, what is done and how long the rest takes."),
    "best": ("search.best", "Show the winner of a search and what it beat."),
    "ablate": ("search.ablate", "Say what the second task of multitask is worth."),
    "show": ("search.show", "Print a search as its files and every --set resolve it."),
    "dashboard": ("search.dashboard", "Look at the searches in the browser."),
    "search": ("search.searches", "Copy, export or delete a search."),
    "study": ("search.study", ""),
    "launch": ("launch.launch", "Print a job script that places workers on a cluster."),
    "finalize": ("release.finalize", "Train the best recipe at length and write its release."),
    "evaluate": ("evaluate.evaluate", "Measure a release on studies that no search has read."),
    "compare": ("evaluate.compare", "Say by how much one release beats another, and how surely."),
    "report": ("evaluate.report", "Write a release's report.html again."),
    "verify": ("evaluate.verify", "Check a release: every byte, and what it answers."),
    "recalibrate": (
        "release.recalibrate",
        "Fit a release's probabilities and thresholds to local studies.",
    ),
    "export": ("release.export", "Write a release as one file for other programs."),
    "infer": ("reading.infer", "Give a study's probability of being abnormal."),
    "explain": ("reading.explain", "Draw where each view of a study speaks for abnormal."),
    "read": ("reading.read", "Serve a page that reads the studies you drop there."),
    "listen": ("archive.listen", "Answer studies that come by DICOM, and send the answers."),
}


class Verbs(UserDict[str, Any]):
    """Verbs by name. The module of a verb is imported when the verb is asked for."""

    def __getitem__(self, name: str) -> click.Command:
        place, line = super().__getitem__(name)
        module, function = place.split(".")
        verb: click.Command = getattr(import_module(f"{__name__}.{module}"), function)
        verb.short_help = line
        return verb


class Mura(click.Group):
    """A command whose help lists its verbs in the order of their use, and imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items() if line])


@click.group(
    cls=Mura,
    commands=Verbs(VERBS),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
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


def main() -> None:
    """The `mura` command."""
    console.run_command(mura, "mura")
