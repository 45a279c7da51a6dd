"""Documents: every link leads somewhere, every module that is named exists, tables are fresh."""

import ast
import importlib.util
import re
import shlex
import shutil
import sys
from pathlib import Path

import click
import pytest
from extensions import BLOCK, SECTIONS, extend, heading

from mura_tune.cli import mura

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "docs" / "scripts"), str(ROOT / "benchmarks")]
reference = importlib.import_module("reference")
PAGES = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
PACKAGE = ROOT / "mura_tune"
FOLDERS = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
MADE = {ROOT / "docs" / name for name in reference.PAGES}
SUFFIXES = ("py", "html", "md", "yaml", "json", "csv", "txt")  # `report.html` is a file, no module
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def prose(page: Path) -> str:
    """The text of a page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as MkDocs and code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path) -> list[str]:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue  # another server's; nothing here asks it
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if file in MADE:
            continue  # made from the code when the site is built, which checks its anchors
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(target)
    return dead


def named_modules(text: str) -> set[str]:
    """What stands between backticks, or in a link, like `folder.module` or mura_tune.x.y."""
    words = re.findall(r"`((?:\w+\.)+\w+)`|\b(mura_tune(?:\.\w+)+)", text)
    names = {(short or full).removeprefix("mura_tune.") for short, full in words}
    modules = {name for name in names if name.split(".")[0] in FOLDERS}
    return {name for name in modules if name.split(".")[-1] not in SUFFIXES}


def exists(name: str) -> bool:
    """Whether `folder.module` is a module, or `folder.module.NAME` is defined in one."""
    for count in range(name.count(".") + 1, 0, -1):
        path = PACKAGE.joinpath(*name.split(".")[:count])
        rest = name.split(".")[count:]
        if path.is_dir():
            return not rest
        if path.with_suffix(".py").is_file():
            source = path.with_suffix(".py").read_text("utf-8")
            return not rest or bool(re.search(rf"^(?:def |class )?{rest[0]}\b", source, re.M))
    return False


def test_the_site_lists_every_page() -> None:
    nav = (ROOT / "mkdocs.yml").read_text("utf-8")
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if page not in nav] == []


def can_import(module: str, name: str) -> bool:
    """Whether a module of the package names this at its top level, or is the folder of it."""
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(file.read_text("utf-8")) if file.is_file() else ast.Module([], [])
    nodes = [node for statement in tree.body for node in ast.walk(statement)]
    named = {node.id for node in nodes if isinstance(node, ast.Name)}
    named |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    named |= {alias.asname or alias.name for alias in nodes if isinstance(alias, ast.alias)}
    return name in named or (path / f"{name}.py").is_file() or (path / name).is_dir()


def test_benchmarks_import_what_there_is() -> None:
    names = [
        (str(node.module), alias.name)
        for script in (ROOT / "benchmarks").glob("*.py")
        for node in ast.walk(ast.parse(script.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("mura_tune")
        for alias in node.names
    ]
    assert len(names) > 50
    assert [one for one in names if not can_import(*one)] == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_modules_that_are_named_exist(page: Path) -> None:
    names = named_modules(prose(page))
    assert sorted(name for name in names if not exists(name)) == []


def test_a_dead_link_and_a_missing_module_are_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page\n[a](#a-page) [b](#gone) [c](gone.md) [d](https://example.org)\n")
    assert dead_links(page) == ["#gone", "gone.md"]
    assert named_modules("`data.gone`, `report.html`, mura_tune.search") == {"data.gone", "search"}
    assert exists("search")
    assert exists("training.fit.fit")
    assert not exists("data.gone")
    assert not exists("training.fit.gone")


def places(text: str) -> dict[str, list[str]]:
    """The rows of the table "Where is …?": what is looked for, and the names that have it."""
    _, _, section = text.partition("## Where is …?")
    section, _, _ = section.partition("\n## ")
    rows = re.findall(r"^\| (?!what |---)(.+?) \| (.+) \|$", section, re.M)
    return {what: re.findall(r"`([\w.]+)`", names) for what, names in rows}


def test_what_is_looked_for_is_where_the_map_says() -> None:
    where = places((ROOT / "ARCHITECTURE.md").read_text("utf-8"))
    assert len(where) >= 20
    assert [what for what, names in where.items() if not names] == []
    assert [name for names in where.values() for name in names if not exists(name)] == []
    words = [what.strip("`-").lower() for what in where]
    assert words == sorted(words)


def test_a_place_that_is_gone_is_seen() -> None:
    table = "## Where is …?\n\n| what | where |\n| --- | --- |\n| a | `config.gone` |\n\n## Next"
    assert places(table) == {"a": ["config.gone"]}
    assert not exists("config.gone")
    assert exists("config.load_config")


@pytest.mark.parametrize("section", SECTIONS, ids=heading)
def test_extensions_fit_the_code(section: str, tmp_path: Path) -> None:
    for _, title, _ in BLOCK.findall(section):
        (tmp_path / title).parent.mkdir(parents=True, exist_ok=True)
        if title and (ROOT / title).is_file():
            shutil.copy(ROOT / title, tmp_path / title)
    assert extend(section, tmp_path)


def calls(page: Path) -> list[list[str]]:
    """The words of each call of `mura` in a page's code blocks, and of whole calls in backticks."""
    text = page.read_text("utf-8").replace("\\\n", " ").replace("\\|", "|")
    blocks = re.findall(r"^```(?:sh|console)?\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    lines += [part for span in re.findall(r"`(mura [^`]+)`", text) for part in span.split("&&")]
    starts = re.compile(r"^\s*(?:[A-Z_]+=\S+ )?(?:\.venv/bin/)?mura (?!-)")
    return [
        shlex.split(starts.sub("", line), comments=True) for line in lines if starts.match(line)
    ]


# The page about extensions adds a verb of its own; tests/flow runs its commands.
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "extend.md"], ids=lambda page: page.name
)
def test_verbs_and_options_that_are_named_exist(page: Path) -> None:
    for words in calls(page):
        command: click.Command = mura
        while isinstance(command, click.Group):
            verb = words.pop(0)
            if "|" in verb or verb == "VERB":
                break
            assert verb in command.commands, f"mura {verb}"
            command = command.commands[verb]
        else:
            options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
            named = {word.split("=")[0] for word in words if word.startswith("--")}
            assert named - options - {"--help"} == set(), words


def test_the_readme_of_benchmarks_names_each_script_and_result() -> None:
    folder = ROOT / "benchmarks"
    names = re.findall(r"`(\w+\.(?:py|txt))`", (folder / "README.md").read_text("utf-8"))
    files = [*folder.glob("*.py"), *(folder / "results").glob("*.txt")]
    assert {path.name for path in files} == set(names)


def test_a_benchmark_that_fails_is_named() -> None:
    quick = importlib.import_module("quick")
    outcome = quick.run(["gone"])
    assert outcome.failed
    assert str(outcome).startswith("gone ")
    assert "gone.py" in str(outcome)


def test_tables_are_those_of_the_results() -> None:
    tables = importlib.import_module("tables")
    assert tables.stale() == [], "run benchmarks/tables.py"


def test_reference_pages_can_be_made() -> None:
    assert all(page().startswith("# ") for page in reference.PAGES.values())


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").split()) < 1000
