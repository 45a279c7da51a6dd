"""The verb that writes a release for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from mura_tune import console
from mura_tune.cli.options import base_url_option, json_option, release_at, release_option


@click.command(short_help="Write a release as one file for other programs.")
@release_option
@base_url_option
@click.option(
    "--to",
    "kind",
    required=True,
    type=click.Choice(["pt", "joblib", "onnx", "safetensors"]),
    help="pt: model_state for three ImageNet-normalised channels.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The file to write.  [default: AREA_FINAL_best.pt, AREA.onnx, …]",
)
@json_option
def export(release: str, base_url: str | None, kind: str, out: Path | None, as_json: bool) -> None:
    """Write a release as one file for other programs, its calibration folded in.

    The sigmoid of what it gives is the calibrated probability of one view; onnx gives the
    probability itself. A study's is the mean over its views. A router's and a multi-task release's
    areas are logits: a study's probabilities are the softmax of their mean over its views.
    """
    import torch

    from mura_tune.release import bundle, exports

    path, told = exports.export(
        bundle.load(release_at(release, base_url), torch.device("cpu")), kind, out
    )
    plain = {"file": str(path), "kind": kind, "use": told}
    console.report(as_json, lambda: plain, lambda: f"{path}\n  {told}")
