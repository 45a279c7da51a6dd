"""MkDocs calls this while it builds the site: pages from the code, links to files beside docs/."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

HERE = Path(__file__).parent


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference pages, which no file holds, so that they are never out of date."""
    sys.path[:0] = [str(HERE.parents[1]), str(HERE)]  # MkDocs takes a hook's own path away
    import reference

    for path, page in reference.PAGES.items():
        files.append(File.generated(config, path, content=page()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Show a link to a file that is no page (`../studies/default.yaml`) as the file's name.

    On a code host such links work, and the link test follows them; the site has no such files.
    """
    up = "../" * (page.file.src_uri.count("/") + 1)
    return re.sub(rf"\[([^\]]+)\]\({re.escape(up)}(?!\.\./)[^)]+\)", r"\1", markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Mark short inline code, which the style sheet keeps on one line: `--every-area`."""
    return re.sub(r"<code>([^<\n]{1,28})</code>", r'<code class="short">\1</code>', html)
