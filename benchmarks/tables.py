"""Tables of measured numbers in README.md and docs/, made from benchmarks/results.

A page holds `<!-- table NAME -->` and `<!-- end -->`; what stands between them is this script's.
`python benchmarks/tables.py` writes all of them; with --check it exits with 1 if one is stale.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").rglob("*.md")]
MARK = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
DEMO = "XR_WRIST"
RELEASED = {"demo": "phantom wrists", "real": "226 real studies of three areas"}
NETWORKS = {"cnn": "small CNN", "tf_efficientnet_lite0": "EfficientNet-lite0"}
RATIO = r"([\d.]+) \(([\d.]+) to ([\d.]+)\)x"


def speed() -> str:
    """The pipeline against a search as a user would write it."""
    path, epoch = "data_path", "epoch_densenet121"
    grey, rgb = r"ours, %s: .*grey " + RATIO, r"ours, %s: .*RGB " + RATIO
    searches = [
        ("search_cnn", "ten trials of five epochs, small CNN at 64 px, caches built anew"),
        ("search_resnet18", "the same, ResNet-18 at 96 px on real radiographs"),
        ("search_densenet121", "the same, DenseNet-121 at 128 px on real radiographs"),
    ]
    rows = [
        ("a training image at 224 px, augmented, from 512 px files", path, grey % "train"),
        ("the same, against a loader of RGB images", path, rgb % "train"),
        ("an image for evaluation at 224 px", path, grey % "evaluate"),
        ("the same, against a loader of RGB images", path, rgb % "evaluate"),
        *((what, name, rf"\n  ours: .*peer / this {RATIO}") for name, what in searches),
        ("a later trial's epoch, DenseNet-121, head alone", epoch, rf"head, later: .*?{RATIO}"),
        ("the same, last stage", epoch, rf"last stage, later: .*?{RATIO}"),
    ]
    lines = [
        f"| {what} | **{_round(match[1])}** | {_round(match[2])} to {_round(match[3])} | "
        f"{_source(name)} |"
        for what, name, pattern in rows
        for match in [_search(name, pattern)]
    ]
    return _table("what | peer / ours, median | range | result", lines)


def ladder() -> str:
    """What each part of the pipeline brings to the small network's search."""
    steps = re.findall(r"from `(.+?)` to `(.+?)`: ([\d.]+)x", _text("search_cnn_ladder"))
    return _table("from | to | times as fast", [f"| {a} | {b} | {x} |" for a, b, x in steps])


def full_depth() -> str:
    """An epoch in which all stages train, over the bare training steps."""
    cases = [("epoch_densenet121", "DenseNet-121"), ("epoch_resnet18", "ResNet-18")]
    cases.append(("epoch", "the small CNN"))
    lines = []
    for name, network in cases:
        match = _search(name, rf"all, pixels: .*this / bare {RATIO}")
        lines.append(f"| {network} | {match[1]} | {match[2]} to {match[3]} | {_source(name)} |")
    return _table("network | epoch / bare steps, median | range | result", lines)


def coverage() -> str:
    """How often an interval holds the true value, in simulated test sets."""
    lines = []
    for block in re.split(r"\n\n", _text("coverage"))[1:]:
        patients = re.match(r"(\d+) patients", block.strip())
        assert patients is not None
        for row in re.findall(r"^(\S.*?)  +(\w+) +([\d.]+) +([\d.]+)$", block, re.MULTILINE):
            score, interval, covered, width = row
            lines.append(f"| {patients[1]} | {score} | {interval} | {covered} | {width} |")
    return _table("patients | score | interval | coverage | mean width", lines)


def calibration() -> str:
    """Calibration on new studies, as few dev patients choose it."""
    return _decisions(
        {
            "slope": "calibration slope (1 is right)",
            "log-loss above the least": "log-loss above the least there is",
        }
    )


def thresholds() -> str:
    """Operating points on new studies, as few dev patients choose them."""
    return _decisions(
        {
            "Youden index, recommended": "recommended: Youden index",
            "kappa, recommended": "recommended: kappa",
            "sensitivity of `sensitivity_90`": "sensitivity_90: sensitivity",
            "draws below .90": "  share of draws below .90",
        }
    )


def doubt() -> str:
    """The band of doubt on new studies, as few dev patients choose it."""
    return _decisions(
        {
            "promised": "band: share of draws that promise .10",
            "broken": "  of these, error on new studies above .10",
            "abstained": "  of these, share abstained",
        }
    )


def _decisions(columns: dict[str, str]) -> str:
    """Rows of `decision.txt`, before and now, for each network and number of dev patients."""
    lines = []
    blocks = re.split(r"^(.+): a pool of .*\n", _text("decision"), flags=re.MULTILINE)
    for title, block in zip(blocks[1::2], blocks[2::2], strict=True):
        for n in dict.fromkeys(re.findall(r"^ +(\d+)  ", block, re.MULTILINE)):
            cells: list[str] = []
            for row in columns.values():
                found = re.search(
                    rf"^ +{n}  {re.escape(row)}  +(\S.*?)  +(\S.*)$", block, re.MULTILINE
                )
                if found is None:
                    raise ValueError(f"results/decision.txt has no row {row!r} of {n} patients")
                cells += found.groups()
            lines.append(f"| {title} | {n} | {' | '.join(cells)} |")
    heads = [f"{name}, {when}" for name in columns for when in ("before", "now")]
    return _table(" | ".join(["network", "dev patients", *heads]), lines)


def heatmaps() -> str:
    """How much of a heatmap's top tenth lies on the phantoms' lesions."""
    lines = []
    for name in ("explain", "explain_224"):
        size = _search(name, r"at (\d+) px")[1]
        trained = _search(name, r"trained: ([\d.]+) x chance .*boxes ([\d.]+)")
        random = _search(name, r"random weights.*: ([\d.]+) x chance .*boxes ([\d.]+);")
        lines.append(f"| {size} | **{trained[1]}** | {random[1]} | {trained[2]} | {random[2]} |")
    head = "on the lesion | random weights | on another view's lesion | random weights"
    return _table(f"pixels a side | {head}", lines)


def starts() -> str:
    """Test AUC of an area of few patients, with and without a start from all areas."""
    lines = []
    pattern = (
        r"(XR_\w+): mean test AUC ([\d.]+) from random weights, ([\d.]+) with the start, "
        r"n = (\d+);\s+difference (\S+ \[.*?\]) by patient, (\S+ \(.*?\)) by seed"
    )
    for area, alone, start, n, patient, seed in re.findall(pattern, _text("pretrain")):
        lines.append(f"| {area} | {n} | {alone} | {start} | {patient} | {seed} |")
    head = "area | test studies | random weights | pooled start | difference, by patient | by seed"
    return _table(head, lines)


def models() -> str:
    """What each network costs and reaches on one small budget, on real radiographs."""
    block = _text("models").split("real radiographs", 1)[1]
    rows = re.findall(
        r"^(\S+) +([\d.]+) +(\d+) +([\d.]+) +study AUC +(\S+ \[.*?\]) +(\S+ \[.*?\])$",
        block,
        re.MULTILINE,
    )
    lines = [f"| {' | '.join(row)} |" for row in rows]
    head = "network | million parameters | stages | s / epoch | dev study AUC | test study AUC"
    return _table(head, lines)


def answer() -> str:
    """One study's answer, as the demo printed it."""
    match = _search("demo", r"\n(XR_WRIST: P\(abnormal\).*(?:\n  [\d.]+  .*)+)")
    views = [line.split()[1] for line in match[1].splitlines()[1:]]
    verb = f"mura infer --area {DEMO} --releases runs/demo/releases"
    call = " \\\n    ".join([verb, *(f"--image {view}" for view in views)])
    return f"```console\n$ {call}\n{match[1]}\n```"


def released() -> str:
    """Dev and test AUC of the releases that the demo and the real radiographs end in."""
    lines = []
    for name, what in RELEASED.items():
        row = r"{}.*\), (\d+) studies.*\n.*by image\n  AUC +(\S+ \[.*?\])"
        text = _text(name).rpartition("mura finalize")[2]
        dev, test = (re.search(row.format(split), text) for split in ("dev", "test"))
        assert dev is not None
        assert test is not None
        numbers = f"{dev[2]}, n = {dev[1]} | **{test[2]}**, n = {test[1]}"
        lines.append(f"| {what}, {_describe_search(name)} | {numbers} |")
    return _table("what | dev study AUC | test study AUC", lines)


def _describe_search(name: str) -> str:
    """Network, size, first weights, trials and command of a result's last search."""
    tune = re.findall(r"^.*(?:make|mura) tune .*arch=.*$", _text(name), re.MULTILINE)[-1]

    def value(pattern: str) -> str:
        found = re.search(pattern, tune)
        return found[1] if found else ""

    starts = {"": "ImageNet weights", "none": "random weights"}
    start = starts.get(value(r"pretrained=([^\s']+)"), "a model of three areas")
    options = value(r"ARGS='(.*?)'")
    command = "`make demo`"
    if options:
        trials = value(r"TRIALS=(\d+)")
        command = (
            f"`make tune AREA=XR_MIXED DATA=… TRIALS={trials} ARGS='{options}'`, "
            "`make finalize AREA=XR_MIXED DATA=…`"
        )
    return (
        f"{NETWORKS[value(r'arch=([^ ]+)')]} at {value(r'size=([0-9]+)')} px from {start}, "
        f"{value(r'(?:--trials |TRIALS=)([0-9]+)')} trials: {command}"
    )


def speed_short() -> str:
    """Three rows of the table of speed."""
    head, rule, *rows = speed().splitlines()
    return "\n".join([head, rule, rows[0], *rows[4:7]])


def gpu() -> str:
    """Training rates on a GPU: steps launched kernel by kernel, as one CUDA graph, and compiled."""
    pattern = (
        r"^densenet121, 224 px, batch (\d+), depth (\w+), "
        r"(captured|one by one|bare captured|compiled): (\d+) .*?images/s"
    )
    rates: dict[tuple[str, str], dict[str, int]] = {}
    for batch, depth, way, rate in re.findall(pattern, _text("gpu"), re.MULTILINE):
        rates.setdefault((batch, depth), {})[way] = int(rate)

    def cells(ways: dict[str, int], way: str) -> str:
        """A rate, and how many times that of kernels launched one by one it is."""
        return f"{ways[way]:,} | {ways[way] / ways['one by one']:.1f}" if way in ways else " | "

    lines = [
        f"| {batch} | {depth} | {ways['one by one']:,} | {cells(ways, 'captured')} | "
        f"{cells(ways, 'compiled')} |"
        for (batch, depth), ways in rates.items()
    ]
    head = "batch | depth | kernel by kernel, images/s | as one graph, images/s | ratio"
    return _table(f"{head} | compiled too, images/s | ratio", lines)


def recalibration() -> str:
    """A release elsewhere, before and after recalibration on a few patients."""
    row = re.compile(r" *(\d+)" + r" +([\d.]+) -> ([\d.]+) \+-[\d.]+" * 3 + r" +([\d.]+) ")
    lines, place = [], ""
    for line in _text("recalibrate").splitlines():
        if named := re.match(r"([\w ]+): \d+ studies of", line):
            place = named[1]
        elif found := row.match(line):
            patients, *figures, worse = found.groups()
            pairs = [f"{figures[at]} -> {figures[at + 1]}" for at in (0, 2, 4)]
            lines.append(f"| {' | '.join([place, patients, *pairs, worse])} |")
    return _table("place | patients | slope | Brier score | log-loss | worse", lines)


def subgroups() -> str:
    """By the size of a group: the worst of all worlds, for sensitivity and for the AUC."""
    row = re.compile(r"(like|worse|overlap) +[\d.]+ +(\d+) +(auc|sensitivity) +(.*)")
    worst: dict[tuple[int, str], list[list[float]]] = {}
    for line in _text("subgroups").splitlines():
        if found := row.match(line):
            world, size, metric, rest = found.groups()
            numbers = [float(number) for number in rest.split()]
            if world == "worse":  # nothing is called falsely there
                numbers = [*numbers[:4], 0.0, numbers[5], 0.0]
            worst.setdefault((int(size), metric), []).append(numbers)
    lines = []
    for (size, metric), rows in sorted(worst.items(), key=lambda each: (each[0][1], each[0][0])):
        group, width, ours, _, false, draws, drawn = zip(*rows, strict=True)
        cells = [f"{max(width):.2f}", *(f"{value:.3f}" for value in (min(group), min(ours)))]
        cells += [f"{max(false):.3f}", f"{min(draws):.3f}", f"{max(drawn):.3f}"]
        name = "AUC" if metric == "auc" else metric
        lines.append(f"| {' | '.join([name, str(size), *cells])} |")
    head = "metric | patients a class | width | holds | difference holds | called falsely"
    return _table(f"{head} | by draws holds | called falsely", lines)


def room() -> str:
    """Latency and memory of the reading room's server."""
    kinds = {
        "png": "512-pixel PNG",
        "dicom": "2,500 x 2,048 DICOM",
        "dicom, malloc as it is": "the same, malloc as it is",
    }
    lines: list[str] = []
    numbers: tuple[str, ...] = ()
    for block in re.split(r"\n(?=png|dicom)", _text("room"))[1:]:
        kind, _, what = block.partition("\n")[0].partition(": ")
        cells = [kinds[kind], what.rpartition(", ")[2]]
        for pattern in (
            r"first study: answer ([\d.]+)",
            r"then: answer ([\d.]+ \(.*?\))",
            r"then: shown ([\d.]+ \(.*?\))",
            r"of both, seconds of a core: ([\d.]+)",
            r"deletion score of a view: ([\d.]+)",
        ):
            cells.append(_first(pattern, block))
        memory, numbers = zip(*re.findall(r"(\d+) after (\d+)", block), strict=True)
        cells += [_first(r"(\d+) MB at the start", block), *memory]
        lines.append(f"| {' | '.join(cells)} |")
    times = "first answer, s | answer, s | shown, s more | seconds of a core | deletion score, s"
    after = " | ".join(f"after {number}" for number in numbers)
    head = f"three views | upload | {times} | MB at the start | {after} studies"
    return _table(head, lines)


def limits() -> str:
    """What is refused of each kind of pictures, a column a network, with its AUC."""
    row = re.compile(r"  (.{28}) +\d+  ([\d.]+ \[[\d., ]+\]) *([\d.]*)$")
    names: list[str] = []
    cells: dict[str, dict[str, str]] = {}
    for line in _text("limits").splitlines():
        if named := re.fullmatch(r"\w+ on [\w ]+", line):
            names.append(named[0])
        elif found := row.match(line):
            kind = found[1].strip()
            kind = "its own test studies" if kind.startswith("test, ") else kind
            told = f"; {found[3]}" if found[3] else ""
            cells.setdefault(kind, {})[names[-1]] = f"{found[2]}{told}"
    lines = [
        f"| {kind} | {' | '.join(own.get(name, '') for name in names)} |"
        for kind, own in cells.items()
    ]
    return _table(" | ".join(["pictures", *names]), lines)


def limits_rules() -> str:
    """The shares that the halves of the rule refuse, and for EfficientNet-Lite0 other rules."""
    shown = ("photographs", "text", "chest film", "empty frame", "noise")

    def cells(line: str) -> list[str]:
        return [line[at : at + 11].strip() for at in range(31, len(line), 12)]

    def shows(network: str, line: str) -> bool:
        return network.startswith("lite0") or line.startswith(("  as rel", "  features", "  pict"))

    lines, network, kinds = [], "", [""]
    for line in _text("limits").splitlines():
        if named := re.fullmatch(r"(\w+) on ([\w ]+)", line):
            network, kinds = f"{named[1]} on {named[2]}", [""]
        elif line.startswith("  share refused by"):
            kinds = cells(line)
        elif kinds[0] and line.startswith("  ") and shows(network, line):
            share = dict(zip(kinds, cells(line), strict=True))
            values = [share[kinds[0]], *(share[kind] for kind in shown)]
            lines.append(f"| {' | '.join([line[2:30].strip(), network, *values])} |")
    columns = ("distance", "release", "own test", *shown[:-2], "empty frames", "noise")
    return _table(" | ".join(columns), sorted(lines, key=lambda one: one.split("|")[2]))


def limits_cost() -> str:
    """What distances add to a pass."""
    row = re.compile(r"  (\w+) +([\d.]+), ([\d.]+): ratio ([\d.]+) \[([\d.]+), ([\d.]+)\]")
    rows = [found.groups() for found in map(row.match, _text("limits").splitlines()) if found]
    lines = [
        f"| {name} | {alone} | {whole} | {ratio} | {low} to {high} |"
        for name, alone, whole, ratio, low, high in rows
    ]
    return _table("network | pass, s | with distances, s | ratio | of rounds", lines)


TABLES: dict[str, Callable[[], str]] = {
    table.__name__: table
    for table in (
        *(answer, released, speed, speed_short, ladder),
        *(full_depth, coverage, heatmaps, starts, models, gpu),
        *(calibration, thresholds, doubt, recalibration, subgroups, room),
        *(limits, limits_rules, limits_cost),
    )
}


def fill(text: str) -> str:
    """The text of a page with each of its tables made anew. Raises KeyError for an unknown one."""
    return MARK.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}\n{match[3]}", text)


def stale() -> list[Path]:
    """The pages whose tables differ from benchmarks/results."""
    return [page for page in PAGES if fill(page.read_text("utf-8")) != page.read_text("utf-8")]


def _text(name: str) -> str:
    return (RESULTS / f"{name}.txt").read_text(encoding="utf-8")


def _search(name: str, pattern: str) -> re.Match[str]:
    match = re.search(pattern, _text(name))
    if match is None:
        raise ValueError(f"results/{name}.txt has no line like {pattern}")
    return match


def _first(pattern: str, block: str) -> str:
    """The first group of a pattern, which the block has to have."""
    match = re.search(pattern, block)
    if match is None:
        raise ValueError(f"no line like {pattern} in {block!r}")
    return match[1]


def _source(name: str) -> str:
    return f"`{name}.txt`"


def _round(number: str) -> str:
    """Two digits where they say something: 8.52 is 8.5, 172.87 is 173."""
    return f"{float(number):.0f}" if float(number) >= 20 else f"{float(number):.1f}"


def _table(head: str, lines: list[str]) -> str:
    columns = head.count("|") + 1
    return "\n".join([f"| {head} |", f"|{' --- |' * columns}", *lines])


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit("\n".join(f"{page}: run benchmarks/tables.py" for page in stale()) or None)
    for page in stale():
        page.write_text(fill(page.read_text("utf-8")), encoding="utf-8")
