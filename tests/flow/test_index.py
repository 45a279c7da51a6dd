"""An index can be checked from MURA's four CSVs alone, by command."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran

# Area: (split, normal studies, abnormal studies, images a study), in MURA's form.
SHAPE = {
    "XR_ELBOW": {"train": (12, 7, 2), "valid": (4, 3, 2)},
    "XR_WRIST": {"train": (9, 5, 3), "valid": (2, 2, 1)},
}


def write_csvs(root: Path, header: bool) -> None:
    root.mkdir(parents=True)
    for split in ("train", "valid"):
        images, studies, patient = ["path"] * header, ["study,label"] * header, 0
        for area, shape in SHAPE.items():
            *counts, views = shape[split]
            for label, count in enumerate(counts):
                for _ in range(count):
                    patient += 1
                    name = "positive" if label else "negative"
                    number = patient + 5000 * (split == "valid")
                    study = f"MURA-v1.1/{split}/{area}/patient{number:05d}/study1_{name}/"
                    studies.append(f"{study},{label}")
                    images += [f"{study}image{view}.png" for view in range(1, views + 1)]
        (root / f"{split}_image_paths.csv").write_text("\n".join(images) + "\n")
        (root / f"{split}_labeled_studies.csv").write_text("\n".join(studies) + "\n")


@pytest.mark.parametrize("header", [False, True])
def test_csvs_alone_are_counted_by_area_split_and_label(
    run: Callable[..., Ran], tmp_path: Path, header: bool
) -> None:
    root = tmp_path / "elsewhere"  # the CSVs' first component need not be the folder's name
    write_csvs(root, header)
    ran = run("check", "--index-only", "--json", f"--data={root}")
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    for area, shape in SHAPE.items():
        for split, (normal, abnormal, views) in shape.items():
            found = told["areas"][area][split]
            assert found["studies"] == {"negative": normal, "positive": abnormal}
            assert found["images"] == {"negative": normal * views, "positive": abnormal * views}
            assert found["patients"]["total"] == normal + abnormal
    assert [f["kind"] for f in told["findings"]] == ["header"] * 4 * header
