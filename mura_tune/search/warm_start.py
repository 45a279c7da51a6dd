"""Warm starts: what won in sibling searches of the same database is tried early in this one."""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.storages import BaseStorage

from mura_tune.config import SearchConfig
from mura_tune.errors import InputError
from mura_tune.search.results import choose_winner, load_confirmation
from mura_tune.search.search_record import SearchRecord
from mura_tune.search.slots import WarmStart
from mura_tune.search.space import Space, fits
from mura_tune.text import CONFIRM_SUFFIX

AUTO, NONE = "auto", "none"
_SHARE = 4  # at most one trial in four is a warm start


def warm_starts(
    storage: BaseStorage, name: str, config: SearchConfig, space: Space, which: str
) -> Sequence[WarmStart]:
    """The confirmed winners of other searches, as trials for search `name`.

    Args:
        which: `auto` takes every sibling that searched the same recipe over the same axes;
            `none` takes none; else names with commas between them.

    Raises:
        InputError: a search that was named, and cannot give a winner that fits.
    """
    if which == NONE:
        return []
    if which == AUTO:
        there = sorted(optuna.get_all_study_names(storage))
        names = [n for n in there if n != name and not n.endswith(CONFIRM_SUFFIX)]
    else:
        names = [n for n in map(str.strip, which.split(",")) if n != name]
    starts: list[WarmStart] = []
    share = max(1, config.budget.trials // _SHARE)
    for sibling in names:
        if which == AUTO and len(starts) == share:
            break
        start = _winner(storage, sibling, config, space)
        if isinstance(start, WarmStart):
            starts.append(start)
        elif which != AUTO:
            raise InputError(f"--warm-start {sibling}: {start}; name another, or use auto or none")
    return starts[:share]


def _winner(
    storage: BaseStorage, sibling: str, config: SearchConfig, space: Space
) -> WarmStart | str:
    """The sibling's winner, or why it has none for us."""
    try:
        search = SearchRecord(optuna.load_study(study_name=sibling, storage=storage))
    except KeyError:
        return "no such search"
    if not search.is_ours:
        return "not one of ours"
    try:
        choice = choose_winner(search, load_confirmation(storage, sibling))
    except InputError as error:
        return str(error)
    if choice.pending or not choice.runs:
        return "its winner is not confirmed yet"
    if choice.config.task != config.task:
        return f"it searched the task {choice.config.task}, not {config.task}"
    theirs, ours = choice.config.recipe, config.recipe
    if (theirs.arch, theirs.size) != (ours.arch, ours.size):
        return f"it searched {theirs.arch} at {theirs.size} px, not {ours.arch} at {ours.size} px"
    winner = choice.winner
    if not fits(winner.params, space):
        return "its winner's values are not all in this search space"
    return WarmStart(f"{sibling} trial {winner.number}", winner.params)
