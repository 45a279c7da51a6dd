"""Whatever is wrong with the input: one line that names it and the way out, and exit code 2."""

import contextlib
import json
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, Ran
from PIL import Image

Run = Callable[..., Ran]


def told(ran: Ran, *words: str) -> str:
    """The one line of a refusal."""
    lines = [line for line in ran.err.splitlines() if not line.startswith("left out ")]
    assert ran.code == 2, (ran.code, ran.err)
    assert ran.out == ""
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0]
    return lines[0]


@pytest.fixture
def copy(phantoms: Path, tmp_path: Path) -> Path:
    """Radiographs that a test may damage."""
    return Path(shutil.copytree(phantoms, tmp_path / phantoms.name))


@pytest.fixture
def release(trained_release: Path) -> Path:
    """A release beside the search that it is of; a test may damage both."""
    return trained_release


def test_no_dataset(run: Run, tmp_path: Path) -> None:
    missing = tmp_path / "MURA-v1.1"
    for verb in (("check",), ("tune", "XR_ELBOW", *TINY)):
        told(run(*verb, f"--data={missing}"), str(missing), "stanfordmlgroup", "make demo")


def test_a_csv_missing(run: Run, copy: Path) -> None:
    (copy / "valid_labeled_studies.csv").unlink()
    told(run("check", f"--data={copy}"), "valid_labeled_studies.csv")


def test_an_area_that_is_not_there(run: Run, phantoms: Path) -> None:
    told(
        run("tune", "XR_WRISTT", f"--data={phantoms}", *TINY),
        "XR_WRISTT",
        "XR_HAND, XR_WRIST",
        "did you mean XR_WRIST",
    )


def test_one_class_only_in_a_split(run: Run, copy: Path) -> None:
    for name in ("valid_labeled_studies.csv", "valid_image_paths.csv"):
        lines = (copy / name).read_text().splitlines()
        kept = [line for line in lines if "_negative" in line or "XR_HAND" in line]
        (copy / name).write_text("\n".join(kept) + "\n")
    line = told(run("tune", "XR_WRIST", f"--data={copy}", *TINY), "test", "0 abnormal")
    assert "XR_WRIST" in line


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("recipe.lrr=1.0", ("unknown key recipe.lrr",)),
        ("finetune.lr=1,5e-3", ("finetune.lr is '1,5e-3'", "a number")),
        ("size=!!int x", ("tags",)),
        ("search.finetune.lrr={low: 1.0, high: 2.0}", ("no recipe field", "finetune.lr")),
        ("pretrained=nowhere.pt", ("nowhere.pt", "no such file")),
        ("arch=resnet81", ("resnet81", "near it")),
    ],
)
def test_a_bad_value(run: Run, phantoms: Path, override: str, words: tuple[str, ...]) -> None:
    told(run("tune", "XR_WRIST", f"--data={phantoms}", *TINY, f"--set={override}"), *words)


@pytest.mark.parametrize(
    "option",
    [
        "--workers=1000000000",
        "--grace=1" + "0" * 30,
        "--feature-gb=nan",
        "--feature-gb=inf",
        "--trials=1000000000",
        "--trials=nan",
    ],
)
def test_a_number_out_of_bounds(run: Run, option: str) -> None:
    told(run("tune", "XR_WRIST", *TINY, option), option.partition("=")[0].strip("-"))


@pytest.mark.parametrize(
    ("area", "given", "words"),
    [
        ("XR_WRIST", ["arch=vit_tiny_patch16_224", "size=40"], ("patches of 16 px", "32 or 48")),
        ("XR_WRIST", ["arch=hybrid-vit_tiny_patch16_224"], ("gives no feature map",)),
        ("XR_WRIST", ["arch=densenet121", "size=16"], ("takes no images of 16 px",)),
        ("XR_WRIST", ["arch=cnn", "size=31"], ("cnn takes no images of 31 px",)),
        ("XR_WRIST", ["arch=vit_tiny_patch16_224", "consistency=0.5"], ("has no feature map",)),
        (
            "XR_WRIST",
            ["search.consistency={choices: [0.0, 0.5]}", "arch=vit_tiny_patch16_224"],
            ("search can draw consistency 0.5", "has no feature map"),
        ),
        (
            "XR_WRIST",
            ["search.arch={choices: [resnet18, densenet121]}", "arch=resnet18", "size=16"],
            ("search can draw arch densenet121", "takes no images of 16 px"),
        ),
        ("all", ["final.arch=resnet81"], ("final makes it arch resnet81", "near it")),
        ("multitask", ["arch=levit_128s"], ("has no single classifier to train",)),
    ],
)
def test_a_network_that_cannot_be_is_refused_before_anything_is_decoded(
    run: Run, phantoms: Path, tmp_path: Path, area: str, given: list[str], words: tuple[str, ...]
) -> None:
    sets = [f"--set={one}" for one in given]
    told(run("tune", area, f"--data={phantoms}", *TINY, *sets), *words)
    assert not (tmp_path / "runs").exists()


def test_a_device_that_is_not_there(run: Run, phantoms: Path) -> None:
    args = ("tune", "XR_WRIST", f"--data={phantoms}", *TINY)
    told(run(*args, "--device=cuda:77"), "cuda:77", "use cpu or auto")
    told(run(*args, "--device=toaster"), "toaster", "write cpu")


def test_nothing_to_finalize(run: Run, phantoms: Path, finished: Path, tmp_path: Path) -> None:
    told(run("finalize", "XR_WRIST", f"--data={phantoms}"), "no searches yet", "mura tune")
    shutil.copytree(finished / "runs", tmp_path / "runs", dirs_exist_ok=True)
    line = told(run("finalize", "XR_HAND", f"--data={phantoms}"), "no search XR_HAND")
    assert line.endswith("; it holds XR_WRIST")
    told(run("best", "XR_HAND"), "no search XR_HAND")


def test_a_study_without_a_finished_trial(run: Run, phantoms: Path, tmp_path: Path) -> None:
    import optuna

    from mura_tune.database.storage import open_storage
    from mura_tune.database.urls import url_of

    storage = open_storage(url_of(str(tmp_path / "runs" / "studies.db")), create=True)
    optuna.create_study(storage=storage, study_name="XR_WRIST", direction="maximize")
    told(run("finalize", "XR_WRIST", f"--data={phantoms}"), "no finished trial", "mura tune")


def test_a_map_is_not_drawn_over_its_radiograph(run: Run, tmp_path: Path) -> None:
    image = tmp_path / "view.png"
    image.write_bytes(b"a radiograph")
    told(run("explain", "--release=any", f"--image={image}", f"--out={image}"), str(image))
    assert image.read_bytes() == b"a radiograph"


def test_a_name_that_no_search_may_have(run: Run, phantoms: Path, tmp_path: Path) -> None:
    tune = ("tune", "XR_WRIST", f"--data={phantoms}", *TINY)
    for name in ("", "../../up", "a/b", "x" * 300, "XR_WRIST.confirm", "#1", "a\nb"):
        told(run(*tune, f"--search={name}"), "--search is ")
    assert not (tmp_path / "runs").exists()


SPOILT_SEARCH = (
    "UPDATE study_system_attributes SET value_json = '' WHERE key = 'mura:comparable'",
    "UPDATE study_system_attributes SET value_json = '{}' WHERE key = 'mura:comparable'",
    "UPDATE study_system_attributes SET value_json = NULL WHERE key = 'mura:config'",
    "UPDATE study_system_attributes SET value_json = '[]' WHERE key = 'mura:dev'",
    "UPDATE trial_user_attributes SET value_json = '\"x\"' WHERE key = 'dev_score'",
)


def changed(database: Path, copy: Path, statement: str) -> Path:
    """A copy of a database to which another program has done something."""
    with (
        contextlib.closing(sqlite3.connect(database)) as whole,
        contextlib.closing(sqlite3.connect(copy)) as damaged,
        damaged,
    ):
        whole.backup(damaged)
        damaged.execute(statement)
    return copy


@pytest.mark.usefixtures("trained_release")
def test_a_search_whose_record_is_damaged(run: Run, phantoms: Path, tmp_path: Path) -> None:
    tune = ("tune", "XR_WRIST", f"--data={phantoms}", "--trials=1", *TINY)
    database = tmp_path / "runs" / "studies.db"
    for number, statement in enumerate(SPOILT_SEARCH):
        damaged = changed(database, tmp_path / f"{number}.db", statement)
        line = told(run("best", "XR_WRIST", f"--storage={damaged}"), str(damaged), "damaged")
        assert ".recover | sqlite3" in line
    told(run(*tune, f"--storage={tmp_path / '1.db'}"), "damaged", "'recipe' is missing")
    statement = "DELETE FROM study_system_attributes WHERE key = 'mura:config'"
    damaged = changed(database, tmp_path / "gone.db", statement)
    told(run("best", "XR_WRIST", f"--storage={damaged}"), "another program, or an early version")


def test_other_data_than_was_searched(run: Run, release: Path, copy: Path) -> None:
    lines = (copy / "train_image_paths.csv").read_text().splitlines()
    dropped = next(line for line in lines if "XR_WRIST" in line)
    (copy / "train_image_paths.csv").write_text("\n".join(x for x in lines if x != dropped) + "\n")
    told(run("finalize", "XR_WRIST", f"--data={copy}"), "not the one that was searched")
    told(run("evaluate", f"--release={release}", f"--data={copy}"), "trained on")


def test_a_release_with_one_byte_changed(run: Run, release: Path, phantoms: Path) -> None:
    path = release / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    image = next(phantoms.glob("valid/XR_WRIST/*/*/image1.png"))
    for args in (
        ("infer", f"--release={release}", f"--image={image}"),
        ("evaluate", f"--release={release}", f"--data={phantoms}"),
        ("verify", release),
    ):
        told(run(*args), "model.safetensors", "not as released")


def spoil(path: Path, how: str) -> None:
    whole = path.read_bytes()
    match how:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(whole[: len(whole) // 2])
        case "text":
            path.write_text("this is text")


SPOILT = ("missing", "empty", "truncated", "text")


@pytest.mark.parametrize("how", SPOILT)
def test_an_image_that_cannot_be_read_is_no_answer(
    run: Run, release: Path, copy: Path, how: str
) -> None:
    good, bad = sorted(copy.glob("valid/XR_WRIST/*/*/image1.png"))[:2]
    spoil(bad, how)
    told(run("infer", f"--release={release}", f"--image={good}", f"--image={bad}"), str(bad))


def test_a_search_and_its_cache_stay_out_of_a_release(
    run: Run, release: Path, phantoms: Path, tmp_path: Path
) -> None:
    before = sorted(release.iterdir())
    own = f"--runs={tmp_path / 'runs'}"
    tune = ("tune", "XR_WRIST", f"--data={phantoms}", *TINY)
    told(run(*tune, f"--runs={release}"), "in the folder of a release")
    told(run(*tune, own, f"--storage={release / 'x.db'}"), "in the folder of a release")
    told(
        run("cache", "XR_WRIST", f"--data={phantoms}", f"--runs={release / 'a'}"),
        "in the folder of a release",
    )
    assert sorted(release.iterdir()) == before


def test_another_area_than_the_release_is_for(run: Run, release: Path, phantoms: Path) -> None:
    image = next(phantoms.glob("valid/XR_WRIST/*/*/image1.png"))
    told(
        run("infer", "--area=XR_HAND", f"--release={release}", f"--image={image}"),
        "for XR_WRIST, not for XR_HAND",
    )
    told(
        run("infer", "--area=XR_HAND", f"--image={image}", f"--releases={release.parent}"),
        f"XR_HAND: no release there; {release.parent} has {release.name}; make one",
        "or name another folder (--releases, --release)",
    )


def test_show_knows_the_areas_of_data_that_is_there(run: Run, phantoms: Path) -> None:
    told(run("show", "XR_ANKLE", f"--data={phantoms}"), "no area XR_ANKLE; there are ")
    assert run("show", "XR_ANKLE", "--data=nowhere").code == 0, "nothing to compare it with"
    assert run("show", "XR_HAND", f"--data={phantoms}").code == 0, "a file of its own"


def test_bad_images_in_a_dataset_are_named_and_left_out(
    run: Run, phantoms: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(phantoms, tmp_path / "damaged-v1.1"))
    images = sorted(root.glob("train/XR_WRIST/*/*/*.png"))
    for path, how in zip(images[::10], SPOILT, strict=False):
        spoil(path, how)
    (images[0].parent / "._image1.png").write_bytes(b"x")
    ran = run("tune", "XR_WRIST", f"--data={root}", "--trials=1", "--no-artifacts", *TINY)
    assert ran.code == 0, ran.err
    for path in images[:40:10]:
        assert f"left out {path.relative_to(root)}: " in ran.err
    assert run("finalize", "XR_WRIST", f"--data={root}").code == 0
    data = json.loads((tmp_path / "releases" / "XR_WRIST" / "bundle.json").read_text())["data"]
    assert (len(data["left_out"]), data["name"]) == (4, "damaged-v1.1")

    checked = run("check", f"--data={root}")
    assert checked.code == 0
    assert str(images[0].relative_to(root)) in checked.out
    assert "hidden" in checked.out
    for verb in (("tune", "XR_WRIST", *TINY), ("cache", "XR_WRIST", "--set=size=32")):
        assert "--strict" in told(run(*verb, f"--data={root}", "--strict"), "unreadable")
    assert run("check", f"--data={root}", "--strict").code == 2

    for path in images[1::10]:
        spoil(path, "empty")
    told(run("tune", "XR_WRIST", f"--data={root}", *TINY), "more than 5%")


def test_places_that_cannot_be_written_are_told_before_anything_is_drawn_or_decoded(
    run: Run, phantoms: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("a file")
    inside = tmp_path / "file" / "below"
    told(run("phantom", inside, "--patients=1"), str(inside))
    told(run("phantom", tmp_path / "file"), "file", "is a file, not a folder")
    told(run("cache", "XR_WRIST", f"--data={phantoms}", f"--runs={inside}"), str(inside), "--runs")
    out = tmp_path / "phantoms"
    for sheet, words in (
        (inside, "a contact sheet ends in .png"),
        (inside / "s.png", "a file, not a folder"),
    ):
        told(run("phantom", out, f"--sheet={sheet}"), str(sheet), words)
    assert not out.exists()


def test_a_table_that_names_an_area_outside_is_refused_before_anything_is_written(
    run: Run, tmp_path: Path
) -> None:
    table = tmp_path / "evil.csv"
    table.write_text("path,patient,label,area\na.png,p1,0,../victim\nb.png,p2,1,../victim\n")
    for verb in (("check",), ("tune", "all", *TINY), ("cache", "XR_WRIST")):
        told(run(*verb, f"--data={table}"), f"{table}:2: the area is '../victim'")
    assert not (tmp_path / "runs").exists()


def test_deep_images_are_scaled_and_cut_outs_keep_their_ground(tmp_path: Path) -> None:
    from mura_tune.imaging.images import read_image

    ramp = np.linspace(0, 65535, 256 * 16).astype(np.uint16).reshape(64, 64)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    assert np.abs(read_image(tmp_path / "deep.png").astype(int) - ramp / 257).max() <= 1
    rgba = np.full((64, 64, 4), 200, np.uint8)
    rgba[:, 32:] = 0
    rgba[:, :32, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "clear.png")
    grey = read_image(tmp_path / "clear.png")
    assert (grey[:, 32:] == 0).all()
    assert (grey[:, :32] == 200).all()


def test_a_full_disk_is_told_and_leaves_nothing_half_done(phantoms: Path, tmp_path: Path) -> None:
    """The system refuses to let a file grow over 20 kB, as a full disk would."""

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    code = (
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from mura_tune.cli import main; main()"
    )
    ran = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            "cache",
            "XR_WRIST",
            f"--data={phantoms}",
            f"--runs={tmp_path / 'runs'}",
        ],
        capture_output=True,
        text=True,
        preexec_fn=no_room,
    )
    told(Ran(ran.returncode, ran.stdout, ran.stderr), "disk full", "MB", "--runs")
    assert not list((tmp_path / "runs").rglob("*.npy"))
    assert not list((tmp_path / "runs").rglob("manifest*.json"))
