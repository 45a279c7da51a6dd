"""Studies are read strictly, and each refusal names layer, key and way out."""

from pathlib import Path

import pytest

from mura_tune import config
from mura_tune.errors import InputError


@pytest.mark.parametrize("area", config.AREAS)
def test_each_area_has_a_file_that_loads_and_comes_back_whole(area: str) -> None:
    assert (config.studies_folder() / f"{area}.yaml").is_file()
    study = config.load(area)
    assert config.from_dict(config.to_dict(study), "test") == study
    assert set(study.search) == {"finetune.lr", "finetune.depth", "augment", "class_weight"}


def test_an_area_without_a_file_uses_the_default() -> None:
    assert config.load("XR_MIXED") == config.load("default")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("finetune.lrr=1.0", "unknown key recipe.finetune.lrr; did you mean lr?"),
        ("finetune.lr=1e-3", "it must be a number: write 1.0e-3"),
        ("finetune.lr=-1.0", "recipe.finetune.lr is -1.0; it must be above 0"),
        ("augment=2.0", "recipe.augment is 2.0; it must be between 0 and 1"),
        ("size=true", "it must be a whole number"),
        ("budget.trial=3", "unknown key budget.trial; did you mean trials?"),
        ("budget.pruner.name=medain", "it must be one of median, percentile"),
        (
            "search.finetune.lrr={low: 1.0, high: 2.0}",
            "search.finetune.lrr is no recipe field; did you mean finetune.lr?",
        ),
        ("search.augment.high=3.0", "augment is 3.0; it must be between 0 and 1"),
        ("search.finetune.lr.high=1e-1", "it must be a number: write 1.0e-1"),
        ("search.finetune.lr.low=0.0", "it must be above 0 on a log scale"),
        ("final.patiense=3", "final.patiense is no recipe field; did you mean patience?"),
        ("split.dev=1.5", "it must be between 0 and 0.9"),
        ("arch", "write PATH=VALUE"),
    ],
)
def test_a_bad_value_is_refused_with_its_key(override: str, told: str) -> None:
    with pytest.raises(InputError) as refused:
        config.load("XR_ELBOW", [override])
    message = str(refused.value)
    assert message.startswith(f"--set {override}: ")
    assert told in message
    assert "\n" not in message


def test_set_changes_one_value_of_any_section() -> None:
    study = config.load(
        "XR_ELBOW",
        ["size=96", "recipe.batch=8", "budget.trials=3", "search.finetune.lr.high=0.5",
         "search.augment=null", "final.finetune.epochs=4"],
    )  # fmt: skip
    assert (study.recipe.size, study.recipe.batch, study.budget.trials) == (96, 8, 3)
    assert study.search["finetune.lr"].high == 0.5
    assert study.search["finetune.lr"].low == config.load("XR_ELBOW").search["finetune.lr"].low
    assert "augment" not in study.search
    assert study.final["finetune.epochs"] == 4


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("recipe: {lr: 1.0}", "studies/XR_ELBOW.yaml: unknown key recipe.lr"),
        ("recipe: {finetune: {lr: 1e-3}}", "studies/XR_ELBOW.yaml: recipe.finetune.lr is '1e-3'"),
        ("search: {finetune.lrr: {low: 1, high: 2}}", "search.finetune.lrr is no recipe field"),
        ("serach: {}", "unknown key serach; did you mean search?"),
        ("recipe: [", "not valid YAML"),
        ("- 1", "a study file is a mapping"),
        ("base: nowhere.yaml", "base is 'nowhere.yaml'"),
        ("base: XR_ELBOW.yaml", "goes round in a circle"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, text: str, told: str) -> None:
    folder = tmp_path / "studies"
    folder.mkdir()
    default = (config.studies_folder() / "default.yaml").read_text()
    (folder / "default.yaml").write_text(default)
    head = "" if text.startswith(("base", "-")) else "base: default.yaml\n"
    (folder / "XR_ELBOW.yaml").write_text(head + text)
    with pytest.raises(InputError, match=r"studies/XR_ELBOW\.yaml") as refused:
        config.load("XR_ELBOW", folder=folder)
    assert told in str(refused.value)


def test_the_digest_follows_every_field() -> None:
    recipe = config.load("XR_ELBOW").recipe
    changed = [config.load("XR_ELBOW", [s]).recipe for s in ("seed=1", "finetune.lr=3.0e-4")]
    assert len({recipe.digest, *(r.digest for r in changed)}) == 3
    assert recipe.digest == config.load("XR_HAND").recipe.digest
