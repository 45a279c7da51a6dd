"""Finalize: train the best trial's recipe at length in two phases, and write a release."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mura_tune
from mura_tune import config
from mura_tune.data.prepare import Prepared, divided_views
from mura_tune.errors import InputError
from mura_tune.evaluation.evaluate import Evaluation
from mura_tune.evaluation.familiarity import (
    SHARE,
    FoldFeatures,
    TrainedFeatures,
    choose_rule,
    measure_features,
)
from mura_tune.evaluation.picture_rule import choose_picture_rule
from mura_tune.evaluation.routing import RouterEvaluation
from mura_tune.networks.imagenet import EXTRA
from mura_tune.networks.network import Network, join_members
from mura_tune.networks.starts import FINGERPRINTS, IMAGENET, TRAINED_ON, start_digest, start_name
from mura_tune.recipe import Recipe, apply_values
from mura_tune.release.refit import FOLDS_SPLIT, Memories, load_all_patients, refit
from mura_tune.release.release import (
    current_preprocessing,
    list_fingerprints,
    list_training_pictures,
    save_release,
    weight_file_names,
    weights_digest,
)
from mura_tune.release.release_tasks import release_task
from mura_tune.release.runs import FinalRun, pick_strongest, summarise_runs
from mura_tune.release_format.entries import (
    ConfirmationEntry,
    DataEntry,
    EpochEntry,
    FindingEntry,
    SearchEntry,
    TrainingEntry,
    TrialEntry,
)
from mura_tune.release_format.manifest import CARD, REPORT, Manifest, RouterManifest
from mura_tune.report.provenance import describe_runs
from mura_tune.search.results import SearchResult
from mura_tune.search.verdict import describe_verdict
from mura_tune.text import printable, shell_command
from mura_tune.training.batches import Split, load_split
from mura_tune.training.fit import NO_MEMORY, Epoch, FitResult, fit
from mura_tune.training.tasks import Task, task_of


@dataclass(frozen=True, eq=False)
class FinalRelease:
    """The release that `finalize` wrote: its folder, its manifest, its scores on dev and test."""

    folder: Path
    manifest: Manifest
    dev: Evaluation | RouterEvaluation
    test: Evaluation | RouterEvaluation

    def __repr__(self) -> str:
        return f"FinalRelease({str(self.folder)!r})"

    def __str__(self) -> str:
        return self.describe()

    def describe(self) -> str:
        """The scores as lines for people, and the next command."""
        routes = isinstance(self.manifest, RouterManifest)
        use = (
            ("--area", "auto", "--releases", self.folder.parent)
            if routes
            else ("--release", self.folder)
        )
        lines = (
            str(self.folder),
            describe_runs(self.manifest.runs),
            self.dev.describe(),
            self.test.describe(),
            f"read: {self.folder / CARD} and {self.folder / REPORT}",
            "next: "
            + shell_command("mura", "infer", *use, "--image", "VIEW1.png", "--image", "VIEW2.png"),
        )
        return "\n".join(line for line in lines if line)


def summarise_releases(releases: Sequence[FinalRelease]) -> str:
    """A table of several releases, a line for each; an empty text for a single release."""
    if len(releases) < 2:
        return ""
    wide = max(len(release.folder.name) for release in releases)
    lines = [f"{release.folder.name:<{wide}}  {release.test.brief()}" for release in releases]
    head = f"{'test, by study':<{wide}}  studies  {'AUC':<20}  Cohen's kappa"
    return "\n".join(["\n", head, *lines])


def final_recipe(best: SearchResult) -> Recipe:
    """The stored recipe of the best trial, with the final phases of the search's config."""
    return apply_values(best.best.recipe, best.config.final_values, f"search {best.search}: final")


def finalize(
    best: SearchResult,
    prepared: Prepared,
    folder: Path,
    device: torch.device,
    *,
    seeds: int = 1,
    released: Callable[[Sequence[FinalRun]], Sequence[FinalRun]] = pick_strongest,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    memory: Memories = lambda recipe, patients: NO_MEMORY,
    dataset: str = "",
    before_test: Callable[[str], int | None] = lambda digest: None,
) -> FinalRelease:
    """Train the final network on train, choose its decision on dev, evaluate it on test.

    Where `refits`, it trains on train and dev, and each patient's part in dev is what a network
    of patient folds says that had not seen the patient; see `release.refit`.

    Args:
        seeds: runs that differ in their seed alone.
        released: picks the runs of the release by their dev scores; several runs are averaged.
        memory: keeps the run of a recipe, on patients of that name, between epochs; see
            `release.checkpoint`.
        dataset: the name of the dataset, for people.
        before_test: called with the digest of the weights before test is read; gives how often
            test was read before, which the release stores.

    Raises:
        InputError: the data, its split or the start's weights changed since the search.
        Diverged: the loss is no longer a finite number.
    """
    _require_searched_data(best, prepared)
    recipe = final_recipe(best)
    task = task_of(best.config.task, recipe)
    task_releases = release_task(task.name)
    runs = []
    dev_split, train = (
        _plan_refit(views, prepared, task, device, on_epoch, memory)
        if (views := _fold_views(best, prepared))
        else _plan_run(prepared, task, device, on_epoch, memory)
    )
    for number in range(seeds):
        run_recipe = dataclasses.replace(recipe, seed=(recipe.seed + number) % 2**32)
        run_recipe, net, result, features = train(run_recipe)
        runs.append(
            FinalRun(
                recipe=run_recipe,
                net=net,
                fit=result,
                dev=dev_split,
                measure=task.measure,
                scorer=task_releases.tabulate_calibrated,
                features=features,
            )
        )
    members = released(runs)
    model = join_members([run.net for run in members])
    logits = torch.stack([run.fit.logits for run in members]).mean(0)
    decision = task_releases.choose_decision(logits, dev_split)  # before anything reads test
    # Their pixels are on the device once already: those that are sampled come from the file.
    pictures = choose_picture_rule(load_all_patients(prepared, device, budget=0), SHARE)
    familiarity = choose_rule([run.features for run in members], dev_split.studies, pictures)
    dev = task_releases.evaluate(logits, dev_split, decision)
    uses = before_test(weights_digest(model))
    test = task_releases.evaluate_network(model, prepared, decision, familiarity)
    test = dataclasses.replace(test, uses_before=uses)
    manifest = task_releases.make_manifest(
        decision,
        dev,
        test,
        **_origin_fields(best, prepared, members[0], dataset),
        outputs=task.outputs(len(prepared.areas)),
        output=task_releases.output,
        familiarity=None if familiarity is None else familiarity.entry(),
        runs=summarise_runs(runs, members, load_split(prepared, "test", device))
        if seeds > 1
        else None,
        members=weight_file_names(model),
    )
    texts = {
        CARD: task_releases.render_card(manifest),
        REPORT: task_releases.render_report(model, manifest, prepared, test=test),
        TRAINED_ON: list_training_pictures(prepared),
        FINGERPRINTS: list_fingerprints(prepared),
    }
    save_release(folder, model, manifest, texts, familiarity)
    return FinalRelease(folder, manifest, dev, test)


def refits(best: SearchResult) -> bool:
    """Whether the release is trained on train and dev: its search asks for it and has folds.

    A rate that falls by dev's scores (`schedule: plateau`) needs a dev split to the end.
    """
    settings = best.config
    return (
        settings.refit
        and settings.split.fold_count > 0
        and final_recipe(best).schedule != "plateau"
    )


def count_epochs(best: SearchResult) -> int:
    """The most epochs that a final run takes, those of the folds' networks with it."""
    return final_recipe(best).epochs * (best.config.split.fold_count + 1 if refits(best) else 1)


def _fold_views(best: SearchResult, prepared: Prepared) -> tuple[Prepared, ...]:
    """The data once for each fold, where the release is trained on train and dev."""
    return divided_views(prepared, best.config.split) if refits(best) else ()


# From a recipe: the recipe that was trained at last, its network, its result and its features.
TrainFinal = Callable[[Recipe], tuple[Recipe, Network, FitResult, TrainedFeatures]]


def _plan_run(
    prepared: Prepared,
    task: Task,
    device: torch.device,
    on_epoch: Callable[[Epoch], None],
    memory: Memories,
) -> tuple[Split, TrainFinal]:
    """Dev, and the training on train that dev watches."""
    train, dev = (load_split(prepared, name, device) for name in ("train", "dev"))

    def run(recipe: Recipe) -> tuple[Recipe, Network, FitResult, TrainedFeatures]:
        net = task.start(recipe, train).to(device)
        held = memory(recipe, "")
        result = fit(net, train, dev, recipe, task, on_epoch=on_epoch, memory=held)
        return recipe, net, result, measure_features(net, train, dev)

    return dev, run


def _plan_refit(
    views: Sequence[Prepared],
    prepared: Prepared,
    task: Task,
    device: torch.device,
    on_epoch: Callable[[Epoch], None],
    memory: Memories,
) -> tuple[Split, TrainFinal]:
    """All patients as the split that folds judge, and the training on them."""
    everyone = load_all_patients(prepared, device)

    def run(recipe: Recipe) -> tuple[Recipe, Network, FitResult, TrainedFeatures]:
        folds = FoldFeatures(everyone)
        last, net, result = refit(
            *(recipe, task, everyone, views, device),
            on_epoch=on_epoch,
            memory=memory,
            on_fold=folds.add,
        )
        return last, net, result, folds.join(net)

    return dataclasses.replace(everyone, name=FOLDS_SPLIT), run


def _require_searched_data(best: SearchResult, prepared: Prepared) -> None:
    recipe = best.best.recipe
    start = start_name(recipe.pretrained, recipe.arch)
    sha = start_digest(recipe.pretrained, recipe.arch) or ""
    restore = f"put it back ({EXTRA})" if recipe.pretrained == IMAGENET else "put it back"
    for name, then, now, remedy in (
        ("dataset", best.dataset, prepared.fingerprint, "point --data at that one"),
        ("split", best.split_hash, prepared.split_hash, "point --data at that one"),
        (f"start {start}", best.starts.get(start, ""), sha, restore),
    ):
        if then != now:
            raise InputError(
                f"search {best.search}: the {name} is not the one that was searched "
                f"({_short(then)} then, {_short(now)} now); {remedy}, or tune again"
            )


def _short(sha: str) -> str:
    return f"{sha[:12]}…" if sha else "none"


def _origin_fields(
    best: SearchResult, prepared: Prepared, run: FinalRun, dataset: str
) -> dict[str, Any]:
    """The fields of a manifest on the origin of a release; `run` is the first released run."""
    recipe = run.recipe
    return {
        "area": prepared.area,
        "task": best.config.task,
        "areas": tuple(prepared.areas),
        "arch": recipe.arch,
        "preprocessing": current_preprocessing(recipe.size, flip_test=recipe.flip_test),
        "recipe": dataclasses.asdict(recipe),
        "recipe_digest": recipe.digest,
        "start_sha256": best.starts.get(start_name(recipe.pretrained, recipe.arch)),
        "search": _search_entry(best),
        "training": TrainingEntry(
            best_epoch=run.fit.epoch.number,
            epochs=tuple(EpochEntry(**dataclasses.asdict(epoch)) for epoch in run.fit.epochs),
            folds=best.config.split.fold_count if refits(best) else None,
        ),
        "data": DataEntry(
            fingerprint=prepared.fingerprint,
            split_hash=prepared.split_hash,
            counts=prepared.counts(),
            left_out=tuple(
                FindingEntry(
                    kind=printable(finding.kind),
                    path=printable(finding.path),
                    detail=printable(finding.detail),
                )
                for finding in prepared.left_out
            ),
            name=dataset,
            found=prepared.found,
        ),
        "versions": {
            "mura-tune": mura_tune.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _search_entry(best: SearchResult) -> SearchEntry:
    """The manifest's entry on the search that gave the recipe."""
    return SearchEntry(
        name=best.search,
        monitor=best.monitor,
        trial=best.best.number,
        params=best.best.params,
        dev_score=best.best.score,
        dev_interval=(best.best.estimate.low, best.best.estimate.high),
        dev_studies=best.best.estimate.studies,
        baseline_dev_score=best.baseline.score if best.baseline else None,
        confirmed=tuple(
            ConfirmationEntry(**dataclasses.asdict(confirmation)) for confirmation in best.confirmed
        ),
        new_seeds=best.best.confirmed,
        baseline_new_seeds=best.baseline.confirmed if best.baseline else None,
        verdict=describe_verdict(best),
        history=tuple(TrialEntry(**dataclasses.asdict(point)) for point in best.history),
        trial_counts=best.counts,
        config=config.config_to_dict(best.config),
    )
