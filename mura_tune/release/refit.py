"""A final run on train and dev, whose length and dev scores patient folds give.

Every fold's network trains by the final recipe on the other folds, and answers the fold's patients.
The mean over folds of the score after each epoch says how many epochs to train; the answers after
that epoch are the dev answers of the release, of which none is by a network that knew the patient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from mura_tune.data.prepare import Prepared
from mura_tune.networks.network import Network
from mura_tune.recipe import Recipe, with_values
from mura_tune.training.batches import Split, load_split
from mura_tune.training.fit import Epoch, FitResult, Memory, State, fit
from mura_tune.training.tasks import Task

# The memory of a run, by its recipe and by the name of the patients that it trains on.
Memories = Callable[[Recipe, str], Memory]
# Called with the network of each fold at its last epoch, what it trained on, and what it did not.
OnFold = Callable[[Network, Split, Split], None]
FOLDS_SPLIT = "folds"  # the name of the split that folds judge: every patient of train and dev
_ANSWERS = "answers"  # the part of a stored state that holds dev's logits after every epoch


@dataclass(frozen=True, eq=False)
class FoldAnswers:
    """What the networks of all folds said of the patients whom they had not seen.

    Attributes:
        epochs: after which the mean score over the folds was highest; all of them where the recipe
            keeps the last epoch.
        curve: (E,) that mean after each epoch.
        logits: (N, K), a row for each view of train and dev, after `epochs` epochs.
    """

    epochs: int
    curve: Sequence[float]
    logits: Tensor


@dataclass(frozen=True, eq=False)
class AnswerMemory:
    """A memory that holds dev's logits after every epoch too, of a run that keeps the last one.

    Attributes:
        inner: where the run's states go, and these logits with them.
        answers: logits (N, K) by the number of the epoch.
    """

    inner: Memory
    answers: dict[int, Tensor] = field(default_factory=dict)

    def load(self) -> State | None:
        state = self.inner.load()
        if state is not None:
            stored = state.parts[_ANSWERS]
            self.answers.update({int(number): logits for number, logits in stored.items()})
        return state

    def save(self, state: State) -> None:
        self.answers[state.epoch.number] = state.logits.cpu().clone()
        stored = {str(number): logits for number, logits in self.answers.items()}
        self.inner.save(replace(state, parts={**state.parts, _ANSWERS: stored}))


def load_all_patients(prepared: Prepared, device: torch.device, budget: int | None = None) -> Split:
    """The views of train and dev as one split to train on; `budget` as `load_split` has it."""
    frame = prepared.frame
    split = frame["split"].where(frame["split"] == "test", "train")
    return load_split(replace(prepared, frame=frame.assign(split=split)), "train", device, budget)


def refit(
    recipe: Recipe,
    task: Task,
    everyone: Split,
    views: Sequence[Prepared],
    device: torch.device,
    *,
    on_epoch: Callable[[Epoch], None],
    memory: Memories,
    on_fold: OnFold = lambda net, train, dev: None,
) -> tuple[Recipe, Network, FitResult]:
    """Train on all patients of train and dev, for as many epochs as the folds say.

    Args:
        everyone: the views of train and dev.
        views: the data, once for each fold, with that fold as dev.

    Returns:
        The recipe of the last run, its network, and its result: the scores of its epochs are the
        means over folds, its logits those of the folds' networks, in the order of `everyone`.
    """
    answers = answer_folds(
        recipe, task, everyone, views, device, on_epoch=on_epoch, memory=memory, on_fold=on_fold
    )
    whole = shorten(recipe, answers.epochs)
    # `fit` scores some split after each epoch; here nothing depends on it, and nothing shows it.
    scored = load_split(views[0], "dev", device)

    def with_fold_score(epoch: Epoch) -> Epoch:
        return replace(epoch, score=answers.curve[epoch.number - 1])

    net = task.start(whole, everyone).to(device)
    result = fit(
        net,
        everyone,
        scored,
        whole,
        task,
        on_epoch=lambda epoch: on_epoch(with_fold_score(epoch)),
        memory=memory(whole, "all patients"),
    )
    epochs = tuple(map(with_fold_score, result.epochs))
    return whole, net, FitResult(epochs, epochs[-1], result.weights, answers.logits)


def answer_folds(
    recipe: Recipe,
    task: Task,
    everyone: Split,
    views: Sequence[Prepared],
    device: torch.device,
    *,
    on_epoch: Callable[[Epoch], None],
    memory: Memories,
    on_fold: OnFold = lambda net, train, dev: None,
) -> FoldAnswers:
    """Train a network a fold through all epochs, and have each answer for its fold.

    No fold stops early: the mean over folds is compared at every epoch.
    """
    through = replace(recipe, keep="last", patience=0)
    place = {path: row for row, path in enumerate(everyone.paths)}
    curves: list[list[float]] = []
    answers: list[tuple[list[int], dict[int, Tensor]]] = []
    for number, view in enumerate(views, 1):
        train, dev = (load_split(view, name, device) for name in ("train", "dev"))
        held = AnswerMemory(memory(through, f"fold {number} of {len(views)}"))
        net = task.start(through, train).to(device)
        result = fit(net, train, dev, through, task, on_epoch=on_epoch, memory=held)
        on_fold(net, train, dev)
        curves.append([epoch.score for epoch in result.epochs])
        answers.append(([place[path] for path in dev.paths], held.answers))
    curve = np.mean(curves, axis=0)
    epochs = len(curve) if recipe.keep == "last" else int(curve.argmax()) + 1
    first = answers[0][1][epochs]
    logits = torch.full((len(everyone), first.shape[1]), torch.nan)
    for rows, by_epoch in answers:
        logits[rows] = by_epoch[epochs]
    return FoldAnswers(epochs, curve.tolist(), logits.to(device))


def shorten(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe that ends with its last epoch after so many, its schedules as short as that."""
    tuned = recipe.finetune in recipe.phases
    head = recipe.epochs - (recipe.finetune.epochs if tuned else 0)
    values: dict[str, object] = {"keep": "last", "patience": 0}
    if epochs < head:
        values["head.epochs"] = epochs
    if tuned:
        values["finetune.epochs"] = max(0, epochs - head)
    return with_values(recipe, values)
