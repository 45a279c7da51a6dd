"""The rules of the house: imports go down, modules stay small, verbs are as documented."""

import ast
import functools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

import mura_tune
from mura_tune.cli import mura

PACKAGE = Path(__file__).parents[2] / "mura_tune"
FLOORS = (
    "ground",
    "web",
    "metrics",
    "release_format",
    "phantoms",
    "imaging",
    "data",
    "transfer",
    "networks",
    "training",
    "database",
    "search",
    "cluster",
    "dashboard",
    "evaluation",
    "report",
    "release",
    "reading",
    "archive",
    "room",
    "api",
    "cli",
)
TOP = {"launch"}  # modules beside the folders that may import any of them
PUBLIC = set(mura_tune.__all__) - {"__version__"}  # what the package itself gives is above them
DOORS = 13  # modules in a folder; with more, it is two folders
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = {path: path.read_text(encoding="utf-8") for path in MODULES}
MAP = (PACKAGE.parent / "ARCHITECTURE.md").read_text(encoding="utf-8")


def floor_of(module: str) -> int:
    """The floor of `mura_tune.X.y`; the ground for what lies beside the folders."""
    folder = module.split(".")[1] if "." in module else ""
    if folder in TOP | PUBLIC:
        return len(FLOORS)
    return FLOORS.index(folder) if folder in FLOORS else 0


@functools.cache
def nodes_of(source: str) -> tuple[ast.AST, ...]:
    """Every node of a source's syntax tree, the module's own first."""
    return tuple(ast.walk(ast.parse(source)))


def imports(source: str) -> set[str]:
    """Every module a source imports, at the top or inside a function."""
    found = set()
    for node in nodes_of(source):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def climbs(module: str, source: str) -> list[str]:
    own = [name for name in imports(source) if name.split(".")[0] == "mura_tune"]
    return [name for name in own if floor_of(name) > floor_of(module)]


def name_of(path: Path) -> str:
    name = ".".join(("mura_tune", *path.relative_to(PACKAGE).with_suffix("").parts))
    return name.removesuffix(".__init__")


def circles(sources: dict[str, str]) -> list[set[str]]:
    """Modules that import one another, at whatever distance; type-checking imports count."""
    below: dict[str, set[str]] = {
        name: {
            module
            for wanted in imports(source)
            for module in (wanted, wanted.rpartition(".")[0])
            if module in sources and module != name
        }
        for name, source in sources.items()
    }
    grown = True
    while grown:
        grown = False
        for reached in below.values():
            more = set().union(*(below[one] for one in reached)) - reached
            reached |= more
            grown = grown or bool(more)
    return [
        {name} | {o for o in below[name] if name in below[o]}
        for name in below
        if name in below[name]
    ]


def test_imports_go_down() -> None:
    found = {
        name_of(path): climbs(name_of(path), source)
        for path, source in SOURCES.items()
        if path != PACKAGE / "__init__.py"
    }
    assert {name: climbing for name, climbing in found.items() if climbing} == {}


def test_an_import_that_goes_up_is_caught() -> None:
    assert climbs("mura_tune.data.cache", "def f():\n    from mura_tune.search import slots")
    assert climbs("mura_tune.training.fit", "import mura_tune.release.release")
    assert climbs("mura_tune.recipe", "from mura_tune.data.cache import open_cache")
    assert climbs("mura_tune.recipe", "from mura_tune import cli")
    assert climbs("mura_tune.cli.search", "from mura_tune import finalize")
    assert not climbs(
        "mura_tune.search.search", "from mura_tune.networks.network import build_network"
    )


def test_no_modules_import_one_another() -> None:
    sources = {name_of(path): source for path, source in SOURCES.items()}
    assert circles({name: text for name, text in sources.items() if name != "mura_tune"}) == []


def test_a_circle_is_caught() -> None:
    typed = "if TYPE_CHECKING:\n    from m.a import A"
    assert circles(
        {"m.a": "from m import b", "m.b": "import m.c", "m.c": typed, "m.d": "import m.a"}
    )
    assert not circles({"m.a": "from m import b", "m.b": "import json"})


def test_only_what_knows_searches_imports_optuna() -> None:
    found = {
        path.parent.name
        for path, source in SOURCES.items()
        if {"optuna", "optuna_dashboard"} & {name.split(".")[0] for name in imports(source)}
    }
    assert found == {"database", "search", "dashboard"}


TASK_HOMES = {"mura_tune.training.tasks", "mura_tune.release.release_tasks"}
TASK_WORDS = {"abnormality", "part", "multitask"}


def compared_tasks(source: str) -> list[int]:
    """Lines that compare something with a task, by its constant or its name in quotes."""
    lines = []
    for node in nodes_of(source):
        if not isinstance(node, ast.Compare):
            continue
        for side in (node.left, *node.comparators):
            constants = {n.id for n in ast.walk(side) if isinstance(n, ast.Name)}
            word = isinstance(side, ast.Constant) and side.value in TASK_WORDS
            if word or constants & {"ABNORMALITY_TASK", "ROUTER_TASK", "MULTI_TASK"}:
                lines.append(node.lineno)
    return lines


def test_a_task_is_asked_and_not_compared() -> None:
    found = {name_of(path): compared_tasks(source) for path, source in SOURCES.items()}
    assert {name for name, lines in found.items() if lines} <= TASK_HOMES, found


def test_a_comparison_with_a_task_is_caught() -> None:
    assert compared_tasks("task == ROUTER_TASK.name") == [1]
    assert compared_tasks('x = 1\nif manifest.task != "abnormality": pass') == [2]
    assert compared_tasks("TASKS[name] is not MULTI_TASK") == [1]
    assert not compared_tasks("task == other.task")


@pytest.mark.parametrize("path", sorted((PACKAGE / "metrics").glob("*.py")), ids=name_of)
def test_metrics_need_numpy_alone(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports(path.read_text(encoding="utf-8"))}
    assert roots <= {"mura_tune", "numpy", *sys.stdlib_module_names}


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES}), ids=lambda f: f.name)
def test_a_folder_has_few_doors(folder: Path) -> None:
    assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= DOORS


@pytest.mark.parametrize("floor", FLOORS)
def test_the_map_names_every_module_once(floor: str) -> None:
    (row,) = (line for line in MAP.splitlines() if re.match(rf"\| `?{floor}/?`? \|", line))
    folder = PACKAGE if floor == "ground" else PACKAGE / floor
    wanted = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    wanted -= TOP if floor == "ground" else set()
    assert sorted(re.findall(r"`(\w+)`", row.split("|", 2)[2])) == sorted(wanted)


def test_modules_say_what_they_are() -> None:
    """By a docstring, whose first line says the module's one idea."""
    silent = [
        name_of(path)
        for path, source in SOURCES.items()
        if not ast.get_docstring(nodes_of(source)[0])
    ]
    assert silent == []


def test_the_formatter_is_obeyed() -> None:
    marker = "# fmt" + ":"
    sources = [path for path in PACKAGE.parent.glob("*/**/*.py") if ".venv" not in path.parts]
    assert [path.name for path in sources if marker in path.read_text(encoding="utf-8")] == []


def test_verbs_are_the_documented_ones() -> None:
    assert sorted(mura.commands) == [
        "ablate",
        "best",
        "cache",
        "check",
        "compare",
        "dashboard",
        "evaluate",
        "explain",
        "export",
        "finalize",
        "infer",
        "launch",
        "listen",
        "phantom",
        "read",
        "recalibrate",
        "report",
        "search",
        "show",
        "status",
        "study",
        "tune",
        "verify",
    ]


def test_every_verb_and_option_is_explained() -> None:
    verbs = dict(mura.commands)
    assert verbs.pop("study").commands is verbs["search"].commands  # its older name
    for group in ("launch", "search"):
        verbs |= {f"{group} {name}": c for name, c in verbs.pop(group).commands.items()}
    for name, command in verbs.items():
        assert command.help, name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.name}"


def heavy_modules(code: str) -> str:
    """Which heavy packages are loaded after `code`, as a list in text."""
    heavy = {"torch", "pandas", "optuna", "timm", "sklearn", "numpy", "yaml"}
    code += f"\nimport sys\nprint(sorted({heavy!r} & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[
        -2
    ]


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import click\nfrom mura_tune.cli import mura\n"
        "try: mura.main(['--help'], standalone_mode=False)\nexcept click.exceptions.Exit: pass"
    )
    code += "\nimport sys\nassert 'mura_tune.cli.options' not in sys.modules, 'a verb is imported'"
    assert heavy_modules(code) == "[]"


def test_the_package_loads_nothing_heavy_before_a_name_is_used() -> None:
    assert heavy_modules("import mura_tune") == "[]"
    assert "pandas" in heavy_modules("import mura_tune\nmura_tune.check_data")


def test_the_public_names_are_those_that_type_checkers_see() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    names = {alias.name for node in typed.body for alias in node.names}
    assert names == PUBLIC
    assert all(getattr(mura_tune, name) for name in PUBLIC)


CLI = sorted((PACKAGE / "cli").glob("*.py"))
VERB_LINES = 25  # of a function's body in cli/: parse, call one function of api/, print


@pytest.mark.parametrize("path", CLI, ids=name_of)
def test_the_command_line_holds_no_logic(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    long = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = node.body[-1].end_lineno - body[0].lineno + 1 if body else 0
            if lines > VERB_LINES:
                long.append((node.name, lines))
    assert long == []


DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn"}


def test_every_package_that_is_imported_is_declared() -> None:
    """What comes with another package today may be gone with its next version."""
    about = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    groups = [about["dependencies"], *about["optional-dependencies"].values()]
    declared = {re.split(r"[\[<>=!~; ]", line)[0].lower() for group in groups for line in group}
    imported = {name.split(".")[0] for path in MODULES for name in imports(path.read_text())}
    others = imported - sys.stdlib_module_names - {"mura_tune", "_typeshed"}
    names = {DISTRIBUTIONS.get(name, name).replace("_", "-").lower() for name in others}
    assert names - {name.replace("_", "-") for name in declared} == set()
