"""The verb that answers the studies that an image archive sends."""

from __future__ import annotations

from pathlib import Path

import click

from mura_tune.cli.options import Number, base_url_option, device_option, releases_option
from mura_tune.cli.reading import answering_release_option


@click.command()
@click.option("--area", help="What the studies show, such as XR_WRIST; auto asks the router.")
@answering_release_option
@releases_option
@base_url_option
@click.option("--threshold", type=Number(0, 1), help="In place of the release's own.")
@click.option(
    "--from",
    "senders",
    multiple=True,
    required=True,
    metavar="AET",
    help="An AE title that may send; all others are refused. Repeat for more.",
)
@click.option(
    "--send-to", required=True, metavar="AET@HOST:PORT", help="The node that gets the answers."
)
@click.option("--title", default="MURA", show_default=True, help="The AE title of this node.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="The address to listen on; 0.0.0.0 for every network, without encryption.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=11112,
    show_default=True,
    help="The port to listen on.",
)
@click.option(
    "--queue",
    envvar="MURA_QUEUE",
    show_envvar=True,
    default="runs/archive-queue",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The folder for what is received and not sent yet.",
)
@click.option(
    "--object",
    "kinds",
    multiple=True,
    type=click.Choice(["SR", "SC", "GSPS"]),
    help="What is sent: SR and perhaps others; repeat for more.  [default: all three]",
)
@click.option(
    "--quiet",
    type=Number(0),
    default=30.0,
    show_default=True,
    help="Seconds without another view after which a study is complete; 0: once the association "
    "ends that brought it.",
)
@click.option(
    "--keep-hours",
    type=Number(0),
    default=24.0,
    show_default=True,
    help="Views stay so long, and a late view is answered together with them; shorter while more "
    "than half of --disk is used.",
)
@click.option(
    "--disk",
    type=Number(0, min_open=True),
    default=20.0,
    show_default=True,
    help="Gigabytes of the queue, above which views are refused.",
)
@click.option("--hours", type=Number(0, min_open=True), help="End after so many hours.")
@device_option
def listen(
    area: str | None,
    release: str | None,
    releases: Path,
    base_url: str | None,
    threshold: float | None,
    senders: tuple[str, ...],
    send_to: str,
    title: str,
    host: str,
    port: int,
    queue: Path,
    kinds: tuple[str, ...],
    quiet: float,
    keep_hours: float,
    disk: float,
    hours: float | None,
    device: str,
) -> None:
    """Answer studies that come by DICOM C-STORE, and send the answers to an archive.

    A study is answered when no more views of it come: by a structured report, and of each view the
    heatmap as a Secondary Capture and as outlines (GSPS). AREA `auto` asks the router.

    What is received lies in --queue before its sender is told so, and an answer until it is sent:
    the same command goes on after a crash, and each study is answered once. An answer that
    cannot be sent is tried again, every five minutes at last. C-ECHO is answered.

    \b
      mura listen --area auto --from CT1 --from PACS --send-to PACS@10.0.0.5:104 --host 0.0.0.0
    """
    from mura_tune.api.archive import answer_archive
    from mura_tune.api.reading import ReaderChoice
    from mura_tune.archive.listener import GIGABYTE, ListenSettings
    from mura_tune.archive.sender import Node

    choice = ReaderChoice(area, release, releases, base_url, device, threshold)
    settings = ListenSettings(
        senders=senders,
        send_to=Node.parse(send_to),
        title=title,
        host=host,
        port=port,
        quiet=quiet,
        keep=keep_hours * 3600,
        most_bytes=round(disk * GIGABYTE),
        kinds=kinds,
    )
    answer_archive(choice, queue, settings, hours)
