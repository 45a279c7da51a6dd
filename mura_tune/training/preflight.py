"""Every network that a search can draw, tried before anything is decoded or trained."""

from __future__ import annotations

import contextlib
import functools
import itertools

import torch
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors

from mura_tune.config import SearchConfig
from mura_tune.errors import InputError, MuraError
from mura_tune.networks.gradcam import compute_gradcam
from mura_tune.networks.network import Network
from mura_tune.networks.weights import copy_tensors
from mura_tune.recipe import Recipe, with_values
from mura_tune.text import printable
from mura_tune.training.losses import require_map
from mura_tune.training.solver import require_solvable
from mura_tune.training.tasks import task_of

ANY_AREA_COUNT = 2  # whatever their number, a network can be built or not
DECIDE = (
    "arch",
    "pretrained",
    "consistency",
    "head.solver",
)  # recipe fields on which it depends beside the size


def check_networks(config: SearchConfig) -> None:
    """Build each network that a trial or the final run may have, and do with it once what will be
    done: train, save, load and explain it.

    Raises:
        InputError: an unknown name, a size it cannot take, weights that do not fit or are out of
            reach, consistency on a network without a feature map, a head that cannot be solved, or
            a network that cannot be trained or released; the message names what a search would
            draw.
    """
    axes = {path: config.search[path].values for path in DECIDE if path in config.search}
    final = {path: value for path, value in config.final.items() if path in DECIDE}
    _legal(config.task, config.recipe)  # trial 0's first, which nothing has drawn
    for values in itertools.product(*axes.values()):
        drawn = dict(zip(axes, values, strict=True))
        for before, more in (("search can draw", drawn), ("final makes it", drawn | final)):
            values_text = ", ".join(f"{path} {value}" for path, value in more.items())
            try:
                _legal(config.task, with_values(config.recipe, more))
            except InputError as error:
                raise InputError(f"{before} {values_text}: {error}") from None


@functools.cache
def _legal(task: str, recipe: Recipe) -> None:
    """Refuse a recipe whose network cannot be, once for every search that has it."""
    net = task_of(task).network(recipe, ANY_AREA_COUNT)
    if recipe.consistency:
        require_map(net, recipe.size)
    if recipe.phases[0].solved:
        require_solvable(net, recipe.size, task_of(task).outputs(ANY_AREA_COUNT))
    for deed, rehearse in (("trained", _train), ("released", _release), ("explained", _explain)):
        try:
            rehearse(net, recipe)
        except (MuraError, MemoryError):
            raise
        except Exception as error:
            # timm has some 1,000 networks, which fail in as many ways; each would fail again in
            # training, after hours. The cause stays, for MURA_DEBUG.
            reason = printable(error) or type(error).__name__
            raise InputError(
                f"arch {recipe.arch}: cannot be {deed} ({reason}); choose another arch"
            ) from error


def _train(net: Network, recipe: Recipe) -> None:
    """A step forward and backward on two black images."""
    net.train()
    views = torch.zeros(2, 1, recipe.size, recipe.size)
    with torch.random.fork_rng(devices=[]):
        torch.autograd.backward(net(views).square().sum())
    net.zero_grad()


def _release(net: Network, recipe: Recipe) -> None:
    """To the bytes of a release's file of weights, and back."""
    weights = from_safetensors(to_safetensors(copy_tensors(net.body.state_dict())))
    net.body.load_state_dict(weights)


def _explain(net: Network, recipe: Recipe) -> None:
    """The map of one black image, as trials and reports show it, where the network has one."""
    with contextlib.suppress(InputError):
        compute_gradcam(net, torch.zeros(1, 1, recipe.size, recipe.size))
