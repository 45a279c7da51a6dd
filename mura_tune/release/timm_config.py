"""The config.json by which plain timm loads a release: `create_model("local-dir:FOLDER", ...)`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import timm

from mura_tune.networks.network import Ensemble, Model
from mura_tune.release_format.manifest import Manifest
from mura_tune.training.batches import MEAN, STD
from mura_tune.training.tasks import task_of

CONFIG = "config.json"


def timm_config(net: Model, manifest: Manifest) -> dict[str, str]:
    """The file by its name, for a backbone of timm's; nothing for our own networks and heads, or
    ensembles.

    timm refuses a key it does not know inside `pretrained_cfg`, and passes `model_args` on.
    """
    own_head = task_of(manifest.task).head
    if isinstance(net, Ensemble) or own_head or not timm.is_model(manifest.arch):
        return {}
    about: Mapping[str, Any] = net.body.pretrained_cfg
    size, outputs = manifest.preprocessing.size, manifest.outputs
    fixed = {"img_size": size} if about.get("fixed_input_size") else {}
    plain = {
        "architecture": manifest.arch,
        "num_classes": outputs,
        "num_features": net.body.num_features,
        "model_args": {"in_chans": 1, "num_classes": outputs, **fixed},
        "pretrained_cfg": {
            "input_size": [1, size, size],
            "fixed_input_size": bool(fixed),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": [MEAN],
            "std": [STD],
            "num_classes": outputs,
            "first_conv": about.get("first_conv"),
            "classifier": about.get("classifier"),
        },
    }
    return {CONFIG: json.dumps(plain, indent=2) + "\n"}
