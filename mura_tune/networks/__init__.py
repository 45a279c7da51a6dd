"""Backbones, heads and their first weights."""

from mura_tune.timm_import import import_timm

import_timm()
