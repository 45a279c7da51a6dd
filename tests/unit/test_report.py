"""The parts of a page: charts that stand alone, honest cells, the right cases, the index."""

import html
import json
import math
import os
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jinja2 import UndefinedError
from matplotlib.axes import Axes

from mura_tune import config
from mura_tune.evaluation.decision import average_split, choose_decision
from mura_tune.evaluation.evaluate import Evaluation, evaluate_logits
from mura_tune.metrics.estimates import Estimate
from mura_tune.networks.factory import build_network
from mura_tune.networks.gradcam import compute_gradcam
from mura_tune.release_format import checksums
from mura_tune.release_format.manifest import AbnormalityManifest, parse_manifest
from mura_tune.release_format.metrics_entries import HELD_OUT_TEST
from mura_tune.report import cases, charts, index, page, provenance
from mura_tune.report.abnormality import render_card
from mura_tune.report.heatmap import overlay
from mura_tune.report.supplement import tabulate_supplement
from mura_tune.training.batches import Split, to_input

INDEX: dict[str, Any] = {
    "method": "",
    "groups": {},
    "published": {},
    "published_head": ["", "a", "b", "c"],
    "note": "",
}


def test_a_chart_names_no_address_no_font_and_nothing_twice() -> None:
    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], "o-", label="a < b")

    found = charts.draw_chart("One & two", "x", "y", draw)
    other = charts.draw_chart("Another", "x", "y", draw)
    assert found.startswith("<svg viewBox=")
    assert 'aria-label="One &amp; two"' in found
    assert "a &lt; b" in found
    assert not re.search(r"http|xmlns|DejaVu|metadata|<style>.*font", found)
    names = [re.findall(r'id="([^"]+)"', text) for text in (found, other)]
    assert not set(names[0]) & set(names[1])
    for text, there in zip((found, other), names, strict=True):
        assert set(re.findall(r'(?:href="|url\()#([^")]+)', text)) <= set(there)


UNDEFINED = Estimate(math.nan, math.nan, math.nan, 5, 5)
DEFINED = Estimate(0.5, 0.25, 1, 5, 5)


def test_pages_say_when_there_is_no_value_and_escape_what_they_are_given() -> None:
    rows = [("<script>", UNDEFINED, DEFINED, 0.000123456)]
    found = page.render_html("index.html.j2", **INDEX | {"published": {"<b>": rows}})
    assert "For orientation: &lt;b&gt;</h2>" in found
    assert ">&lt;script&gt;</th>" in found
    assert "><i>undefined</i></td>" in found
    assert ">0.500 <i>[0.250, 1.000]</i></td>" in found
    assert ">0.0001235</td>" in found
    table = page.markdown_table(("", "a|b"), [("<script>", UNDEFINED), (DEFINED, 0.000123456)])
    assert table.splitlines() == [
        "|  | a\\|b |",
        "| --- | --- |",
        "| &lt;script&gt; | undefined |",
        "| 0.500 [0.250, 1.000] | 0.0001235 |",
    ]


def test_a_template_that_lacks_a_value_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="published"):
        page.render_html("index.html.j2", **{k: v for k, v in INDEX.items() if k != "published"})


def test_no_template_turns_escaping_off() -> None:
    folder = Path(page.__file__).with_name("templates")
    templates = {path.name: path.read_text("utf-8") for path in folder.glob("*.j2")}
    assert "abnormality.html.j2" in templates
    for name, text in templates.items():
        assert not re.search(r"autoescape|\|\s*safe\b|Markup", text), name


def test_an_overlay_has_the_pictures_shape_and_leaves_what_the_map_leaves() -> None:
    image = np.full((40, 30), 100, dtype=np.uint8)
    cam = np.zeros((8, 8), dtype=np.float32)
    cam[6:, 6:] = 1
    found = overlay(image, cam)
    assert found.shape == (40, 30, 3)
    assert (found[:20, :15] == 100).all()
    assert found[-1, -1, 0] > 180  # bright and warm
    assert found[-1, -1, 2] < found[-1, -1, 0]
    faint = overlay(image, cam, 0.25)
    assert 100 < faint[-1, -1, 0] < found[-1, -1, 0]
    assert (overlay(image, cam, 0) == 100).all()


@pytest.fixture(scope="module")
def test_part() -> tuple[Split, Evaluation]:
    rng = np.random.default_rng(0)
    n = 40
    labels = torch.from_numpy(rng.integers(0, 2, n))
    names = np.array([f"s{i // 4:02}<" for i in range(n)])
    labels = labels[::4].repeat_interleave(4)
    split = Split(
        name="test",
        pixels=torch.from_numpy(rng.integers(0, 255, (n, 64, 64), dtype=np.uint8)),
        labels=labels,
        studies=names,
        patients=names,
        paths=np.array([f"i{i}.png" for i in range(n)]),
    )
    logits = torch.from_numpy(rng.normal(size=(n, 1)))
    return split, evaluate_logits(logits, split, choose_decision(average_split(logits, split)))


def test_the_gallery_shows_the_surest_first(test_part: tuple[Split, Evaluation]) -> None:
    _, test = test_part
    studies, cut = test.studies, test.decision.threshold
    shown = []
    for kind in cases.CASE_KINDS:
        rows = cases.rank_studies(test, kind)
        assert all(studies.labels[rows] == kind.label)
        assert all((studies.scores[rows] >= cut) == kind.called)
        distance = np.abs(studies.scores[rows] - cut)
        assert (np.diff(distance) <= 0).all()
        shown += rows
    assert sorted(shown) == list(range(10))


def picture(path: str) -> np.ndarray:
    """A radiograph that is twice as high as wide."""
    return np.full((400, 200), int(path[1:].removesuffix(".png")), dtype=np.uint8)


def show(gallery: cases.Gallery) -> str:
    return page.render_html("gallery.html.j2", gallery=gallery)


def test_the_gallery_escapes_names_and_shows_views_with_and_without_a_map(
    test_part: tuple[Split, Evaluation],
) -> None:
    split, test = test_part
    found = show(cases.find_cases(build_network("cnn"), split, test, 2, picture))
    shown = found.count("<figure>")
    assert found.count("<img") == shown * cases.MOST_VIEWS * 2
    assert found.count("view 3 of 4:") == shown
    assert "s00<" not in found
    size = 160  # of timm's test transformer
    wide = Split(
        "test",
        torch.zeros(40, size, size, dtype=torch.uint8),
        split.labels,
        split.studies,
        split.patients,
        split.paths,
    )
    bare = show(cases.find_cases(build_network("test_vit"), wide, test, 1, picture))
    assert bare.count("<img") == bare.count("<figure>") * cases.MOST_VIEWS


def test_a_view_that_says_little_has_a_faint_map(test_part: tuple[Split, Evaluation]) -> None:
    split, test = test_part
    rows = [np.arange(12)]
    maps = cases.map_views(build_network("cnn", seed=1), split, test, rows)
    raw = compute_gradcam(
        build_network("cnn", seed=1), to_input(split.pixels[:12], torch.device("cpu"))
    )
    most = raw.amax((1, 2)).numpy()
    usual = np.median(most[test.views.scores[:12] >= test.decision.threshold])
    assert most.max() > usual > 0
    for row, found in maps.items():
        assert found.cam.max() == pytest.approx(float(most[row] > 0))  # some say nothing at all
        assert found.strength == pytest.approx(min(1, most[row] / usual), abs=1e-6)


def test_the_commands_of_a_page_give_the_study_that_was_searched() -> None:
    sets = [
        "arch=cnn",
        "size=96",
        "finetune.lr=2.0e-5",
        "split.folds=3",
        "search.augment=null",
        "search.class_weight.high=2",
        "search.optimiser={choices: [adam, sgd]}",
        "final.patience=0",
        "budget.pruner.name=none",
    ]
    for area in ("XR_HUMERUS", "XR_MIXED", "ALL"):
        assert provenance.list_overrides(area, config.load_config(area)) == []
        study = config.load_config(area, [*sets, "budget.trials=3"])
        again = provenance.list_overrides(area, study)
        assert config.load_config(area, [*again, "budget.trials=3"]) == study


STORED = Path(__file__).parents[1] / "golden" / "release-2" / "bundle.json"
HOSTILE = "a$\\frac{$b <img src=x onerror=alert(1)>`*_|x"


def stored(**study: object) -> dict[str, Any]:
    """What a real release says, with other values under `study`."""
    values: dict[str, Any] = json.loads(STORED.read_text())
    values["study"] |= study
    return values


def parsed(values: dict[str, Any]) -> AbnormalityManifest:
    """The manifest that these values stand for."""
    manifest = parse_manifest(values, "bundle.json")
    assert isinstance(manifest, AbnormalityManifest)
    return manifest


def put(folder: Path, text: str) -> None:
    """A neighbour of which the index reads the manifest alone."""
    folder.mkdir(parents=True)
    (folder / "bundle.json").write_text(text)
    checksums.write_checksums(folder)


def test_an_index_survives_its_neighbours(tmp_path: Path) -> None:
    good = stored()
    put(tmp_path / "XR_WRIST", json.dumps(good))
    put(tmp_path / HOSTILE, json.dumps(good | {"data": good["data"] | {"name": HOSTILE}}))
    bad = json.loads(json.dumps(good))
    bad["metrics"]["test"]["studies"] = "<img src=x onerror=alert(1)>"
    put(tmp_path / "injected", json.dumps(bad))
    put(tmp_path / "cut", STORED.read_text()[:-9])
    put(tmp_path / "list", "[]")
    put(tmp_path / "unmeasured", json.dumps({**good, "metrics": None}))
    put(tmp_path / "changed", json.dumps(good))
    (tmp_path / "changed" / "bundle.json").write_text(json.dumps(good | {"arch": "other"}))
    put(tmp_path / "unsummed", json.dumps(good))
    (tmp_path / "unsummed" / "SHA256SUMS").unlink()
    said: list[str] = []
    index.write_index(tmp_path, said.append)
    assert len(said) == 6
    for name in ("injected", "cut", "list", "unmeasured", "changed", "unsummed"):
        (line,) = (one for one in said if f"/{name}/" in one)
        assert "left out of index.html" in line
        assert "Error" not in line
    page_text = (tmp_path / "index.html").read_text()
    assert page_text.count("report.html") == 2
    assert "<img" not in page_text
    assert "a$\\frac{$b" in page_text  # a name is no formula
    results = (tmp_path / "RESULTS.md").read_text()
    assert "<img" not in results
    assert "[XR_WRIST](XR_WRIST/report.html)" in results
    assert "\\|x](a%24%5Cfrac%7B%24b%20%3Cimg" in results


def test_an_index_links_folders_of_any_name(tmp_path: Path) -> None:
    for name in (b"R\xf6", b"a\x1bb"):
        put(tmp_path / os.fsdecode(name), json.dumps(stored()))
    index.write_index(tmp_path, lambda line: None)
    page_text, results = ((tmp_path / one).read_text() for one in ("index.html", "RESULTS.md"))
    for text in (page_text, results):
        assert "R%F6/report.html" in text
        assert "a%1Bb/report.html" in text
    assert "[R\\\\xf6](" in results


def test_text_in_markdown_is_shown_as_it_is() -> None:
    assert page.escape_markdown("XR_WRIST (left), v1.1-b") == "XR_WRIST (left), v1.1-b"
    assert page.escape_markdown("_a_ <b>|`c`\n# d") == "\\_a\\_ &lt;b&gt;\\|\\`c\\` \\# d"
    assert page.markdown_code("a/b.png") == "`a/b.png`"
    assert page.markdown_code("a`b\n```") == "```` a`b ``` ````"


def test_a_chart_takes_a_dollar_sign_for_one() -> None:
    found = charts.draw_chart(
        HOSTILE, HOSTILE, "y", lambda axes: axes.plot([1], [1], label=HOSTILE)
    )
    assert found.count("a$\\frac{$b &lt;img") >= 3
    assert "<img" not in found


def training(values: dict[str, Any]) -> str:
    """What a page says of the search and the final training."""
    manifest = parsed(values)
    return page.render_html(
        "training.html.j2",
        manifest=manifest,
        provenance=provenance.describe_provenance(manifest),
        charts={"training": charts.draw_training(manifest.search, manifest.training)},
    )


def test_the_interval_of_a_search_is_told_with_the_studies_it_was_measured_on() -> None:
    folds = stored()
    folds["study"]["config"]["split"]["folds"] = 3
    assert "n = 10" in training(stored())
    assert "n = " not in training(folds)  # an earlier release does not say it
    folds["study"]["dev_studies"] = 178
    assert "n = 178" in training(folds)


def test_the_mean_over_new_seeds_stands_before_the_score_that_picked_the_trial() -> None:
    mean = {"value": 0.931, "low": 0.86, "high": 0.97, "studies": 210, "patients": 190}
    page = " ".join(
        training(stored(new_seeds=mean, baseline_new_seeds=mean | {"value": 0.9})).split()
    )
    first = "Over new seeds its mean dev study AUC was 0.931 [0.860, 0.970], n = 210"
    assert first in page
    assert "that of the default recipe was 0.900 [0.860, 0.970] (in the search: " in page
    assert page.index(first) < page.index("(in the search: ")
    assert "one seed, picked for it)" in page
    alone = " ".join(training(stored()).split())
    assert "Over new seeds" not in alone
    assert "for which it was picked" in alone


def test_the_flow_of_patients_is_from_what_was_found_to_what_is_used() -> None:
    values = stored()
    assert provenance.describe_provenance(parsed(values)).flow_rows == []
    values["data"] |= {
        "found": {"images": 300, "studies": 120, "patients": 100},
        "left_out": [{"kind": "unreadable", "path": f"{i}.png", "detail": ""} for i in range(3)],
    }
    manifest = parsed(values)
    rows = provenance.describe_provenance(manifest).flow_rows
    counts = manifest.data.counts.values()
    used = [sum(split[key] for split in counts) for key in ("images", "studies", "patients")]
    assert rows == [
        ("in the dataset", 300, 120, 100),
        ("left out: unreadable", 3, "", ""),
        ("used", *used),
    ]


def test_commands_of_a_page_and_a_card_can_be_pasted() -> None:
    name = "left wrist (2)"
    manifest = parsed(stored(name=name))
    found = provenance.describe_provenance(manifest)
    text = page.render_html("reproduction.html.j2", manifest=manifest, provenance=found)
    block = html.unescape(re.findall(r"<pre>(.*?)</pre>", text, re.DOTALL)[0])
    tune, final, evaluated, verified = block.replace("\\\n", "").splitlines()
    assert shlex.split(tune)[2:5] == ["XR_WRIST", "--search", name]
    assert shlex.split(final)[2] == name
    assert shlex.split(evaluated)[3] == shlex.split(verified)[2] == f"releases/{name}"
    card = render_card(manifest)
    (infer,) = (line for line in card.splitlines() if line.startswith("mura infer"))
    assert shlex.split(infer)[3] == f"releases/{name}"


@pytest.mark.parametrize(
    ("pretrained", "digest", "description"),
    [
        ("none", None, "random weights"),
        ("imagenet", None, "timm's ImageNet weights"),
        ("imagenet", "5793" * 16, f"packaged ImageNet weights (sha256 `{'5793' * 4}`)"),
        ("starts/wrist.pt", "5793" * 16, f"`wrist.pt` (sha256 `{'5793' * 4}`)"),
    ],
)
def test_a_card_says_what_training_began_with(
    pretrained: str, digest: str | None, description: str
) -> None:
    values = stored() | {"start_sha256": digest}
    values["recipe"] |= {"pretrained": pretrained}
    assert description in render_card(parsed(values))


def test_a_page_and_a_card_show_the_supplement_of_test_and_do_without_an_older_ones(
    test_part: tuple[Split, Evaluation],
) -> None:
    _, test = test_part
    old, new = stored(), stored()
    new["metrics"]["test"] = test.to_json()
    found, before = parsed(new), parsed(old)
    assert tabulate_supplement(before.metrics.dev, before.metrics.test) is None
    assert "Calibration slope" not in render_card(before)
    tables = tabulate_supplement(found.metrics.dev, found.metrics.test)
    assert tables is not None
    card = render_card(found)
    own = test.supplement
    assert f"| Calibration slope | | {own.recalibration.slope.brief()} |" in card
    assert f"| 5% | {own.predictive_values[0].ppv.brief()} |" in card
    assert test.calibration_errors["after"].ece.brief() in card
    assert "Scores by number of views, net benefit" in card
    text = page.render_html(
        "abnormality_supplement.html.j2", supplement=tables, test=found.metrics.test
    )
    assert text.count("<details>") == 4
    assert own.net_benefit[test.decision.recommended].gain.signed() in text
    assert "3 or more views (fewer than 10 patients of a class)" in text
    shown = "".join(charts.draw_curves(test))
    assert re.findall(r'aria-label="([^:"]+)', shown)[-2:] == [
        "Net benefit",
        "Errors and abstention",
    ]


def test_a_card_says_how_a_study_is_answered_and_prints_tests_error_without_a_band() -> None:
    values = stored()
    values["abstain"] |= {"low": 0.3, "high": 0.3, "share": 0.0}
    values["metrics"]["test"]["abstain"] = {"studies": 0, "error": 0.25, "error_without": 0.25}
    n = values["metrics"]["test"]["studies"]
    error = f"{n / 4:.0f} of {n} are answered wrong, 0.250"
    older = render_card(parsed(values))
    assert "the sigmoid, the mean over the study's views" in older
    assert error in older
    values |= {"schema": 3}
    values["calibration"]["aggregation"] = "sigmoid of the mean logit"
    values["abstain"] |= {"bound": 0.4, "chosen": "no band can promise an error of 0.10"}
    newer = render_card(parsed(values))
    assert "the mean over the study's views, the sigmoid" in newer
    assert "no band of doubt (no band can promise an error of 0.10)" in newer
    assert error in newer
    for point in values["operating_points"].values():
        assert point["chosen"] in newer


def test_a_card_is_no_html_whatever_it_tells() -> None:
    values = stored(name=HOSTILE)
    values["data"] |= {
        "name": HOSTILE,
        "left_out": [
            {"kind": "unreadable", "path": f"{HOSTILE}\n# x", "detail": ""},
        ],
    }
    card = render_card(parsed(values))
    assert not re.search(r"^ *([-+*]|\d+[.)]) \d", card, re.MULTILINE)  # no number opens a list
    outside = re.sub(r"```.*?```|(`+) .*? \1|`[^`]*`", "", card, flags=re.DOTALL)
    assert "<img" not in outside
    assert "\n# x" not in outside


def test_a_test_split_that_nobody_published_is_called_none() -> None:
    values = stored()
    assert "Test is the published valid split of " in " ".join(render_card(parsed(values)).split())
    values["metrics"]["test"]["split"] = HELD_OUT_TEST
    values["data"]["name"] = "hospital"
    found = parsed(values)
    words = "a fifth of the patients of hospital, which publishes no test split"
    assert f"Test is {words}" in " ".join(render_card(found).split())
    assert f"Measured on {words}" in index.render_results([index.ListedRelease("A", found)])
    data = page.render_html(
        "data.html.j2",
        manifest=found,
        dataset="hospital",
        test_set=provenance.name_test(found.metrics.test, "hospital"),
        provenance=provenance.describe_provenance(found),
    )
    assert words in " ".join(data.split())


def test_results_stand_under_the_set_they_were_measured_on() -> None:
    sets = {"A": "MURA-v1.1", "B": "phantoms", "C": "MURA-v1.1"}
    releases = []
    for folder, name in sets.items():
        values = stored()
        values["data"]["name"] = name
        releases.append(index.ListedRelease(folder, parsed(values)))
    found = index.render_results(releases)
    sections = found.split("\n## ")[1:]
    assert [s.splitlines()[0] for s in sections] == [
        "Measured on the published valid split of MURA-v1.1",
        "Measured on the published valid split of phantoms",
        "For orientation: MURA's hidden test set",
        "For orientation: MURA's published valid split",
    ]
    assert "[A]" in sections[0] and "[C]" in sections[0] and "[B]" not in sections[0]  # noqa: PT018 - one section
    assert "0.705" in sections[2] and "0.705" not in sections[3]  # noqa: PT018 - one score
    assert index.render_index(releases).count("<h2>") == 4
