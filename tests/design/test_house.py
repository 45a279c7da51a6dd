"""The rules of the house: imports go down, modules stay small, verbs are as documented."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from mura_tune.cli import mura

PACKAGE = Path(__file__).parents[2] / "mura_tune"
FLOORS = ("ground", "data", "learning", "tuning", "release", "reading", "top")
GROUND = {
    "__init__",
    "areas",
    "axes",
    "errors",
    "strict",
    "recipe",
    "config",
    "console",
    "files",
    "lines",
    "manifest",
    "names",
    "plain",
    "sums",
}
MODULES = sorted(PACKAGE.rglob("*.py"))
MAP = (PACKAGE.parent / "ARCHITECTURE.md").read_text(encoding="utf-8")
LONGEST = 450  # longer, and a module has two nouns


def floor_of(module: str) -> int:
    """The floor of `mura_tune.X.y`; the top one for the commands."""
    parts = module.split(".")
    if len(parts) > 1 and parts[1] in FLOORS:
        return FLOORS.index(parts[1])
    return 0 if len(parts) == 1 or parts[1] in GROUND else FLOORS.index("top")


def imports(source: str) -> set[str]:
    """Every module a source imports, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def climbs(module: str, source: str) -> list[str]:
    own = [name for name in imports(source) if name.split(".")[0] == "mura_tune"]
    return [name for name in own if floor_of(name) > floor_of(module)]


def name_of(path: Path) -> str:
    return ".".join(("mura_tune", *path.relative_to(PACKAGE).with_suffix("").parts))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down(path: Path) -> None:
    assert climbs(name_of(path), path.read_text(encoding="utf-8")) == []


def test_an_import_that_goes_up_is_caught() -> None:
    assert climbs("mura_tune.data.cache", "def f():\n    from mura_tune.tuning import search")
    assert climbs("mura_tune.learning.training", "import mura_tune.release.bundle")
    assert climbs("mura_tune.recipe", "from mura_tune.data.cache import build")
    assert not climbs("mura_tune.tuning.search", "from mura_tune.learning.models import build")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_tuning_imports_optuna(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports(path.read_text(encoding="utf-8"))}
    assert "tuning" in path.parts or not roots & {"optuna", "optuna_dashboard"}


@pytest.mark.parametrize("floor", FLOORS[:-1])
def test_the_map_names_every_module_once(floor: str) -> None:
    (row,) = (line for line in MAP.splitlines() if line.startswith(f"| {floor} |"))
    modules = {path.stem for path in MODULES if path.parent.name == floor}
    wanted = GROUND if floor == "ground" else modules
    assert sorted(re.findall(r"`(\w+)`", row)) == sorted(wanted - {"__init__"})


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_are_small_and_say_what_they_are(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    lines = len(source.splitlines())
    assert lines <= LONGEST
    assert ast.get_docstring(ast.parse(source)), "the first line says the module's one idea"


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
        "phantom",
        "report",
        "show",
        "study",
        "tune",
        "verify",
    ]


def test_every_verb_and_option_is_explained() -> None:
    verbs = dict(mura.commands)
    verbs |= {f"study {name}": c for name, c in verbs.pop("study").commands.items()}
    for name, command in verbs.items():
        assert command.help, name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.name}"


def test_help_loads_nothing_heavy() -> None:
    heavy = {"torch", "pandas", "optuna", "timm", "sklearn", "numpy", "yaml"}
    code = (
        "import sys, click\nfrom mura_tune.cli import mura\n"
        "try: mura.main(['--help'], standalone_mode=False)\nexcept click.exceptions.Exit: pass\n"
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert out.splitlines()[-1] == "[]"


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
