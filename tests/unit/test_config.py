"""Studies are read strictly, and each refusal names layer, key and way out."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import Ran

from mura_tune import areas, config
from mura_tune.api.data import describe_budget
from mura_tune.areas import AREAS, WHOLE_DATASET_AREAS
from mura_tune.axes import Axis
from mura_tune.data.prepare import open_dataset
from mura_tune.data.splits import assign_splits
from mura_tune.errors import InputError
from mura_tune.recipe import (
    CHANGED_FIELDS,
    LATER_DEFAULTS,
    Recipe,
    apply_values,
    drop_values,
    field_type,
    get_value,
    recipe_from_dict,
    with_values,
)
from mura_tune.training.tasks import TASKS


@pytest.mark.parametrize("area", AREAS)
def test_each_area_has_a_file_that_loads_and_comes_back_whole(area: str) -> None:
    assert (config.studies_folder() / f"{area}.yaml").is_file()
    study = config.load_config(area)
    assert config.config_from_dict(config.config_to_dict(study), "test") == study
    assert set(study.search) == {"finetune.lr", "finetune.depth", "augment", "class_weight"}


def test_an_area_without_a_file_uses_the_default() -> None:
    assert config.load_config("XR_MIXED") == config.load_config("default")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("finetune.lrr=1.0", "unknown key recipe.finetune.lrr; did you mean lr?"),
        ("finetune.lr=1,5e-3", "recipe.finetune.lr is '1,5e-3'; it must be a number"),
        ("finetune.lr='1e-3'", "it must be a number: write 0.001"),
        ("finetune.lr=-1.0", "recipe.finetune.lr is -1.0; it must be above 0"),
        ("augment=2.0", "recipe.augment is 2.0; it must be between 0 and 1"),
        ("size=true", "it must be a whole number"),
        ("epochs=1", "recipe.epochs; did you mean recipe.head.epochs or recipe.finetune.epochs?"),
        ("budget.trial=3", "unknown key budget.trial; did you mean trials?"),
        ("budget.pruner.name=medain", "it must be one of median, percentile"),
        (
            "search.finetune.lrr={low: 1.0, high: 2.0}",
            "search.finetune.lrr is no recipe field; did you mean finetune.lr?",
        ),
        ("search.size={choices: [32, 64]}", "search.size is 'given'; it must be left out: all of"),
        ("final.size=320", "final.size is 'given'; it must be left out: all of a search sees"),
        ("search.augment.high=3.0", "augment is 3.0; it must be between 0 and 1"),
        ("search.finetune.lr.high=[1.0]", "finetune.lr.high is [1.0]; it must be a number"),
        ("search.finetune.lr.low=0.0", "it must be above 0 on a log scale"),
        ("final.patiense=3", "final.patiense is no recipe field; did you mean patience?"),
        ("loss=fokal", "recipe.loss is 'fokal'; it must be one of bce, focal"),
        ("focal_gamma=-1.0", "recipe.focal_gamma is -1.0; it must be 0 or more"),
        ("optimiser=lion", "recipe.optimiser is 'lion'; it must be one of adamw, adam, sgd"),
        ("schedule=step", "it must be one of cosine, plateau, constant"),
        ("layer_decay=0.0", "recipe.layer_decay is 0.0; it must be above 0, at most 1"),
        ("warmup=1.0", "recipe.warmup is 1.0; it must be 0 or more, below 1"),
        ("plateau_patience=0", "recipe.plateau_patience is 0; it must be 1 or more"),
        ("plateau_factor=1.0", "recipe.plateau_factor is 1.0; it must be inside 0 to 1"),
        ("head_init=one", "recipe.head_init is 'one'; it must be one of random, small, prior"),
        ("split.dev=1.5", "it must be between 0 and 0.9"),
        ("arch", "write PATH=VALUE"),
        ("size=0224", "recipe.size is '0224'; it must be a whole number: write 224"),
        ("size=224.0", "it must be a whole number: write 224"),
        ("size=1:30", "it must be a whole number"),
        ("budget.trials=1e3", "it must be a whole number: write 1000"),
        ("recipe.seed=2026-01-01", "recipe.seed is '2026-01-01'; it must be a whole number"),
        ("arch=[resnet18]", "recipe.arch is ['resnet18']; it must be text"),
        ("pretrained={a: 1}", "recipe.pretrained is {'a': 1}; it must be text"),
        ("head=3", "recipe.head is 3; it must be a mapping of names to values"),
        ("arch=[[[[[[[[1]]]]]]]]", "recipe.arch is [[[[...]]]]; it must be text"),
        ("final.patience=[1]", "final.patience is [1]; it must be "),
        ("search.augment=[0, 1]", "search.augment is [0, 1]; it must be a mapping"),
        ("search.augment.choices=5", "search.augment.choices is 5; it must be a list of values"),
        ("search.augment.choices=[]", "it must be a list of 1 to 100 values"),
        ("search.augment={choices: [0.0], low: 0.0}", "it must be one or the other"),
        ("search.loss={choices: [bce, 3]}", "search.loss.choices is 3; it must be text"),
        ("search.loss={low: 0, high: 1}", "search.loss.low is 0; it must be left out: text takes"),
        ("search.augment.log='no'", "search.augment.log is 'no'; it must be true or false"),
        ("search.augment.log=[1]", "search.augment.log is [1]; it must be true or false"),
        ("search.augment.step=true", "search.augment.step is True; it must be a number"),
        ("search.augment.step=x", "search.augment.step is 'x'; it must be a number"),
        (
            "search.finetune.depth={low: 0, high: 10, step: 0.5}",
            "search.finetune.depth.step is 0.5; it must be a whole number",
        ),
        ("search.finetune.depth.low=0.5", "search.finetune.depth.low is 0.5; it must be a whole"),
        ("search.augment.high=all", "it must be a number: only a depth knows all stages"),
        ("search.augment.step=0.0", "search.augment.step is 0.0; it must be above 0"),
        ("search.augment.step=2.0", "it must be at most high - low (1.0)"),
        ("search.augment.step=1e-300", "it must be at least a millionth of high - low"),
        ("search.finetune.depth={low: 0, high: all, log: true}", "above 0 on a log scale"),
        ("search.finetune.lrr=null", "search.finetune.lrr is no recipe field; did you mean"),
        ("budget.trials=1000000000", "budget.trials is 1000000000; it must be between 1 and 1000"),
        ("budget.random=1000000000", "it must be between 1 and"),
        ("budget.confirm.seeds=1000000000", "it must be between 1 and 100"),
        ("budget.confirm.top=101", "it must be between 0 and 100"),
        (f"budget.seed={10**30}", "it must be between"),
        (f"split.seed={10**30}", "it must be between"),
        ("split.folds=1000", "it must be 0 (none) or between 2 and 100"),
        ("head.epochs=1000001", "recipe.head.epochs is 1000001; it must be 0 or more, at most"),
        ("search.patience={low: 0, high: 10000000}", "search.patience is 10000000; it must be"),
        ("size=!!int x", "not valid YAML: "),
        ("arch=*x", "not valid YAML: "),
        ("clip=-1", "recipe.clip is -1.0; it must be 0 or more"),
        ("label_smoothing=1", "recipe.label_smoothing is 1.0; it must be 0 or more, below 1"),
        ("mixup=-0.1", "recipe.mixup is -0.1; it must be 0 or more"),
        ("class_weight=.inf", ".inf is not a finite number"),
    ],
)
def test_a_bad_value_is_refused_with_its_key(override: str, told: str) -> None:
    with pytest.raises(InputError) as refused:
        config.load_config("XR_ELBOW", [override])
    message = str(refused.value)
    assert message.startswith(f"--set {override}: ")
    assert told in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["schedule=plateau", "patience=2"],
            "recipe.plateau_patience is 2; it must be below patience (2)",
        ),
        (
            ["schedule=plateau", "plateau_patience=6"],  # final has patience 6
            "final.plateau_patience is 6; it must be below patience (6)",
        ),
        (
            [
                "search.schedule={choices: [cosine, plateau]}",
                "patience=4",
                "search.plateau_patience={low: 1, high: 4}",
            ],
            "search can draw schedule plateau, plateau_patience 4: plateau_patience is 4",
        ),
        (
            ["search.schedule={choices: [cosine, plateau]}", "search.patience={low: 0, high: 5}"],
            "search can draw schedule plateau, patience 1: plateau_patience is 2",
        ),
        (
            [
                "search.schedule={choices: [cosine, plateau]}",
                "search.plateau_patience={low: 1, high: 6}",
            ],
            "final, with schedule plateau, plateau_patience 6 drawn: plateau_patience is 6",
        ),
        (
            ["head.solver=lbfgs", "consistency=0.5"],
            "recipe.consistency is 0.5; it must be 0.0: it needs steps; write head.solver: steps",
        ),
        (
            ["head.solver=lbfgs", "head.depth=1"],
            "recipe.head.depth is 1; it must be 0: solver lbfgs computes the head alone",
        ),
        (
            [
                "search.head.solver={choices: [steps, lbfgs]}",
                "search.head.depth={low: 0, high: all}",
            ],
            "search can draw head.solver lbfgs, head.depth 1000000: head.depth is 1000000",
        ),
        (
            [
                "search.consistency={choices: [0.0, 0.5]}",
                "search.head.solver={choices: [steps, lbfgs]}",
            ],
            "search can draw head.solver lbfgs, consistency 0.5: consistency is 0.5",
        ),
    ],
)
def test_values_that_cannot_go_together_are_refused(overrides: list[str], told: str) -> None:
    with pytest.raises(InputError) as refused:
        config.load_config("XR_ELBOW", overrides)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_values_that_go_together_are_not_refused_on_the_way() -> None:
    study = config.load_config(
        "XR_ELBOW",
        ["schedule=plateau", "final.plateau_patience=1", "final.patience=2"],
    )
    assert apply_values(study.recipe, study.final_values, "final").plateau_patience == 1
    assert config.load_config("XR_ELBOW", ["search.schedule={choices: [cosine, plateau]}"])


def test_a_recipe_of_an_earlier_version_loads_and_keeps_its_name() -> None:
    recipe = config.load_config("XR_ELBOW").recipe
    old = drop_values(dataclasses.asdict(recipe), LATER_DEFAULTS)
    first = {path: values[0] for path, values in CHANGED_FIELDS.items()}
    assert first == {path: LATER_DEFAULTS[path] for path in CHANGED_FIELDS}
    earlier = with_values(recipe, first)
    assert recipe_from_dict(old, "test") == earlier
    text = json.dumps(old, sort_keys=True).encode()
    assert earlier.digest == hashlib.sha256(text).hexdigest()[:12]


def test_the_last_of_the_values_of_a_changed_field_is_the_shipped_one() -> None:
    shipped = dataclasses.asdict(config.load_config("default").recipe)
    for path, values in CHANGED_FIELDS.items():
        assert values[-1] == get_value(shipped, path)


def test_every_recipe_field_stands_in_the_default_file() -> None:
    text = (config.studies_folder() / "default.yaml").read_text().partition("search:")[0]
    for name in (f.name for f in dataclasses.fields(Recipe)):
        assert re.search(rf"^  {name}: .*#", text, re.M) or name == "seed", name


def test_set_changes_one_value_of_any_section() -> None:
    study = config.load_config(
        "XR_ELBOW",
        [
            "size=96",
            "recipe.batch=8",
            "budget.trials=3",
            "search.finetune.lr.high=0.5",
            "search.augment=null",
            "final.finetune.epochs=4",
        ],
    )
    assert (study.recipe.size, study.recipe.batch, study.budget.trials) == (96, 8, 3)
    assert study.search["finetune.lr"].high == 0.5
    assert (
        study.search["finetune.lr"].low == config.load_config("XR_ELBOW").search["finetune.lr"].low
    )
    assert "augment" not in study.search
    assert study.final["finetune.epochs"] == 4


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("recipe: {lr: 1.0}", "studies/XR_ELBOW.yaml: unknown key recipe.lr"),
        ("recipe: {finetune: {lr: fast}}", "studies/XR_ELBOW.yaml: recipe.finetune.lr is 'fast'"),
        ("recipe: {size: 64, size: 224}", "'size' stands twice in one mapping"),
        ("recipe: &x {size: 64}", "anchors (&) and aliases (*) are not read"),
        ("recipe:", "recipe is None; it must be a mapping of names to values"),
        ("final: 5", "final is 5; it must be a mapping of names to values"),
        ("final: [1]", "final is [1]; it must be a mapping of names to values"),
        ("final:", "final is None; it must be a mapping of names to values"),
        ("final: {5: 1}", "final.5 is no recipe field"),
        ("search:", "search is None; it must be a mapping of names to values"),
        ("search: {finetune.lr: 3}", "search.finetune.lr is 3; it must be a mapping"),
        ("search: {5: null}", "search.5 is no recipe field"),
        ("budget: many", "budget is 'many'; it must be a mapping of names to values"),
        ("task: [part]", "task is ['part']; it must be text"),
        ("base: [x]", "base is ['x']; it must be a file's name"),
        ("base: " + "x" * 300, "base is 'xxx"),
        ('base: "a\\0"', "has no such file"),
        ("search: {finetune.lrr: {low: 1, high: 2}}", "search.finetune.lrr is no recipe field"),
        ("serach: {}", "unknown key serach; did you mean search?"),
        ("recipe: [", "not valid YAML"),
        ("- 1", "a search file is a mapping"),
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
        config.load_config("XR_ELBOW", folder=folder)
    assert told in str(refused.value)


def test_a_folder_is_asked_for_no_other_names(tmp_path: Path) -> None:
    for area in ("../up", "a/b", "", "a" * 300, "-x", "a\n"):
        with pytest.raises(InputError, match="AREA is "):
            config.load_config(area, folder=tmp_path)


def test_a_value_that_no_terminal_shows_is_one_line() -> None:
    with pytest.raises(InputError) as refused:
        config.load_config("XR_ELBOW", ["si\x1bze\n=5"])
    assert str(refused.value).startswith(r"--set si\x1bze =5: unknown key ")


def test_numbers_are_read_as_they_are_written_elsewhere() -> None:
    study = config.load_config(
        "XR_ELBOW", ["finetune.lr=1e-3", "search.finetune.lr.high=1E-1", "augment=1"]
    )
    assert study.recipe.finetune.lr == 0.001
    assert study.search["finetune.lr"].high == 0.1
    assert isinstance(study.recipe.augment, float)


@pytest.mark.parametrize(
    ("overrides", "path", "axis"),
    [
        (["search.augment={low: 0, high: 1}"], "augment", Axis(low=0.0, high=1.0)),
        (["search.augment.low=0.5"], "augment", Axis(low=0.5, high=1.0, step=0.25)),
        (
            ["search.augment={low: 0, high: 1, step: 0.5}"],
            "augment",
            Axis(low=0.0, high=1.0, step=0.5),
        ),
        (
            ["search.class_weight={low: 1, high: 4}"],
            "class_weight",
            Axis(low=1.0, high=4.0, log=True),
        ),
        (["search.augment={choices: [0, 0.5]}"], "augment", Axis(choices=(0.0, 0.5))),
        (["search.augment.choices=[0.5]"], "augment", Axis(choices=(0.5,))),
        (
            ["search.augment={low: null, high: null, step: null, choices: [0.5]}"],
            "augment",
            Axis(choices=(0.5,)),
        ),
        (
            ["search.augment={choices: [0.5]}", "search.augment={low: 0.0, high: 1.0}"],
            "augment",
            Axis(low=0.0, high=1.0),
        ),
        (
            ["search.finetune.depth={low: 1, high: 4, step: 2}"],
            "finetune.depth",
            Axis(low=1, high=4, step=2),
        ),
        (
            ["search.augment=null", "search.augment={low: 0, high: 1}"],
            "augment",
            Axis(low=0.0, high=1.0),
        ),
        (["search.augment.log=null"], "augment", Axis(low=0.0, high=1.0, step=0.25)),
    ],
)
def test_an_axis_over_another_one(overrides: list[str], path: str, axis: Axis) -> None:
    own = config.load_config("XR_ELBOW", overrides).search[path]
    assert own == axis
    for value in own.ends:
        assert type(value) is field_type(path)


def test_wide_axes_cost_nothing() -> None:
    """Every value was built and tried: all memory, or hours."""
    wide = "{low: 1, high: 1000000}"
    study = config.load_config(
        "XR_ELBOW", [f"search.patience={wide}", f"search.plateau_patience={wide}"]
    )
    assert len(study.search["patience"].values) == 1_000_000
    with pytest.raises(InputError, match="can draw schedule plateau, patience 1: "):
        config.load_config(
            "XR_ELBOW",
            [
                "plateau_patience=1",
                "search.schedule={choices: [plateau, cosine]}",
                f"search.patience={wide}",
                f"search.plateau_patience={wide}",
            ],
        )


def test_a_solved_head_is_one_epoch_and_no_phase_of_its_depth_follows() -> None:
    values = ["head.solver=lbfgs", "head.epochs=3"]
    recipe = config.load_config("XR_ELBOW", values).recipe
    assert (recipe.epochs, [phase.depth for phase in recipe.phases]) == (8, [0, 2])
    alone = apply_values(recipe, {"finetune.depth": 0}, "test")
    assert (alone.epochs, [phase.solved for phase in alone.phases]) == (1, [True])
    without = apply_values(recipe, {"head.epochs": 0, "finetune.depth": 0}, "test")
    assert (without.epochs, [phase.solved for phase in without.phases]) == (7, [False])
    from_nothing = apply_values(recipe, {"pretrained": "none", "consistency": 0.5}, "test")
    assert [(phase.epochs, phase.solved) for phase in from_nothing.phases] == [
        (3, False),
        (7, False),
    ]


def test_the_digest_follows_every_field() -> None:
    recipe = config.load_config("XR_ELBOW").recipe
    changed = [
        config.load_config("XR_ELBOW", [s]).recipe
        for s in (
            "seed=1",
            "finetune.lr=3.0e-4",
            "loss=focal",
            "focal_gamma=1.0",
            "optimiser=sgd",
            "schedule=constant",
            "warmup=0.1",
            "sampling=balanced",
            "monitor=f1",
            "consistency=0.1",
            "head.solver=lbfgs",
            "keep=last",
            "ema=1.0",
            "batch_norm=start",
        )
    ]
    assert len({recipe.digest, *(r.digest for r in changed)}) == 15
    assert recipe.digest == config.load_config("XR_HAND").recipe.digest


@pytest.mark.parametrize(
    ("area", "override", "told"),
    [
        ("router", "class_weight=2.0", "class_weight is 2.0; it must be 1.0: the task is part"),
        ("router", "search.loss={choices: [bce, focal]}", "search.loss"),
        ("XR_HAND", "aux_weight=0.3", "only multitask knows it"),
        ("ALL", "final.aux_weight=0.3", "final.aux_weight is 0.3; it must be left out"),
        ("router", "aux_weight=0.1", "only multitask knows it"),
    ],
)
def test_a_field_that_means_nothing_to_the_task_is_refused(
    area: str, override: str, told: str
) -> None:
    with pytest.raises(InputError) as refused:
        config.load_config(area, [override])
    assert told in str(refused.value)


def test_every_task_has_a_study_and_needs_every_area(tmp_path: Path) -> None:
    found = {config.load_config(area).task for area in WHOLE_DATASET_AREAS}
    assert found == set(areas.TASK_NAMES) == set(TASKS)
    for file in config.studies_folder().iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "XR_HAND.yaml").write_text("base: router.yaml")
    with pytest.raises(InputError, match=r"XR_HAND.yaml: task part needs every area"):
        config.load_config("XR_HAND", folder=tmp_path)


def test_show_counts_the_runs_epochs_and_images_of_a_search(
    run: Callable[..., Ran], phantoms: Path, tmp_path: Path
) -> None:
    told = run("show", "XR_WRIST", f"--data={tmp_path / 'nowhere'}").out.splitlines()[-1]
    epochs = 48 * config.load_config("XR_WRIST").recipe.epochs
    assert told.startswith("# runs: 24 + 5 x 4 + 4 (trial 0) = 48, each of ")
    few = "3 times as many (patient folds) where dev has fewer than 50 patients of the rarer class"
    assert told.endswith(f": {epochs} epochs where nothing is pruned; {few}")
    sets = ("--set=budget.confirm.top=0", "--set=budget.trials=3", "--set=finetune.epochs=3")
    told = run("show", "XR_WRIST", f"--data={phantoms}", *sets).out  # dev has a dozen patients
    assert "# runs: 3 = 3 x 3 folds, each of 4 epochs: 36 epochs where nothing is pruned, " in told
    told = run("show", "XR_WRIST", f"--data={phantoms}", *sets, "--set=split.folds=0").out
    frame = open_dataset(phantoms).for_area("XR_WRIST").frame
    images = int((assign_splits(frame, 0.2, 0) == "train").sum())
    assert "# runs: 3 = 3, each of 4 epochs: 12 epochs where nothing is pruned, " in told
    assert f"{images} images each: {12 * images:,} images" in told
    assert yaml.safe_load(told)["budget"]["trials"] == 3  # the count is a comment


def test_show_counts_the_folds_of_a_router_by_its_rarest_area(tmp_path: Path) -> None:
    """800 patients of one area are enough to tell normal from abnormal; 20 of another are few."""
    patients = [(f"{i:03}", i % 2, "XR_HAND" if i < 800 else "XR_WRIST") for i in range(820)]
    rows = [f"{name}.png,{name},{label},{area}" for name, label, area in patients]
    table = tmp_path / "set.csv"
    table.write_text("\n".join(["path,patient,label,area", *rows]))
    runs = [
        describe_budget(config.load_config(area, ["split.folds=auto"]), data=table)
        for area in ("pooled", "router")
    ]
    assert ["folds" in told for told in runs] == [False, True]


def test_another_budget_stays_under_what_a_call_names() -> None:
    named = config.load_config("XR_WRIST", ["budget.confirm.top=2", "augment=0.25"])
    old = {**config.config_to_dict(named)["budget"], "trials": 40, "random": 10}
    old["confirm"] = {"top": 3, "seeds": 2}  # as before `resplit` was a setting
    begun = config.with_budget(named, old, "search s")
    assert (begun.budget.trials, begun.budget.random) == (40, 10)
    assert begun.budget.confirm == config.Confirm(top=2, seeds=2, resplit=False)
    assert begun.recipe == named.recipe
    again = config.with_budget(config.replace_trials(named, 50), old, "search s")
    assert again.budget.trials == 50


@pytest.mark.parametrize("value", ["3", "maybe"])
def test_final_refit_is_true_or_false(value: str) -> None:
    assert config.load_config("XR_ELBOW").refit
    assert not config.load_config("XR_ELBOW", ["final.refit=false"]).refit
    with pytest.raises(InputError, match=r"final\.refit is .*; it must be true or false"):
        config.load_config("XR_ELBOW", [f"final.refit={value}"])
