"""What docs/extend.md adds to the project, section by section, as its blocks say it."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "extend.md"
BLOCK = re.compile(r'^```(\w+)(?: title="(.+?)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
SECTIONS = re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.MULTILINE)[1:]


def heading(section: str) -> str:
    return section.split("\n")[0]


def extend(section: str, project: Path) -> list[str]:
    """Change the files of a project as a section's blocks say; returns the section's commands.

    A diff's lines take the place of those that it has without `+`, which must stand there once.
    """
    commands = []
    for language, title, text in BLOCK.findall(section):
        if language == "sh":
            commands += text.splitlines()
        elif language == "diff":
            lines = text.splitlines(keepends=True)
            old = "".join(line[1:] for line in lines if line[0] != "+").removesuffix("\n")
            new = "".join(line[1:] for line in lines if line[0] != "-").removesuffix("\n")
            before = (project / title).read_text("utf-8")
            assert before.count(old) == 1, f"{PAGE.name}: {title} does not hold once:\n{old}"
            (project / title).write_text(before.replace(old, new), encoding="utf-8")
        else:
            assert not (project / title).exists(), f"{PAGE.name}: {title} exists"
            (project / title).write_text(text, encoding="utf-8")
    return commands
