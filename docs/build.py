"""Put the pages of the documentation together: `make docs`, then build/site/index.html.

    python docs/build.py build          # writes build/pages and build/mkdocs.yml, from which Zensical makes build/site

Most pages are the Markdown files of docs/ and of the repository's root as they are, with their links turned to where
the pages are on the site. Others are made: the tutorial from its notebook, which is not run; the commands from their
`--help`; the extractors and the keys from conf/.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbconvert import MarkdownExporter

from pipeline.cli import catalogue, extractors
from pipeline.config.networks import CONF, known_extractors, named_extractor

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
ELSEWHERE = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "bench/RESULTS.md": "measurements.md",
    "docs/tutorial.ipynb": "tutorial.md",
}
"""Pages that are not Markdown files of docs/, by their files in the repository."""
CATALOGUE = ("list", "show", "nearest", "compare", "images", "verify", "publish", "export", "import", "ranges")
EXTRACTORS = ("list", "show")
"""The commands' commands."""
LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\[\]]*)\]\((?P<target>[^)\s]+)\)")
OUTER = re.compile(r"(?P<before>\)\]\()(?P<target>[^)\s]+)\)")
"""A link, and the target of one around a picture."""


def pages() -> dict[str, str]:
    """Where each page is on the site, by its file in the repository."""
    pages = {f"docs/{path.relative_to(DOCS).as_posix()}": path.relative_to(DOCS).as_posix() for path in _files(".md")}
    if "docs/index.md" not in pages:
        pages["README.md"] = "index.md"
    return pages | ELSEWHERE


def _files(*endings: str) -> Iterator[Path]:
    yield from sorted(path for path in DOCS.rglob("*") if path.suffix in endings)


def turned(text: str, file: str, where: dict[str, str]) -> str:
    """A page's text with links that lead to other pages of the site. Of links to files that are not on it the words
    stay. Raises `ValueError` for a link to a file that is not there."""
    page = where[file]

    def target_of(target: str) -> str | None:
        if re.match(r"[a-z]+:|#", target):
            return target
        path, _, anchor = target.partition("#")
        named = posixpath.normpath(posixpath.join(posixpath.dirname(file), path))
        if not (ROOT / named).exists():
            raise ValueError(f"{file}: the link to {target} leads nowhere")
        if named in where:
            new = where[named]
        elif named.startswith("docs/") and Path(named).suffix == ".png":
            new = named.removeprefix("docs/")
        else:
            return None
        return posixpath.relpath(new, posixpath.dirname(page) or ".") + (f"#{anchor}" if anchor else "")

    def link(match: re.Match[str]) -> str:
        new = target_of(match["target"])
        return f"{match['picture']}[{match['text']}]({new})" if new else match["text"]

    def outer(match: re.Match[str]) -> str:
        return f"{match['before']}{target_of(match['target'])})"

    lines, fenced = [], False
    for line in text.splitlines():
        fenced ^= line.lstrip().startswith("```")
        if not fenced:
            line = OUTER.sub(outer, LINK.sub(link, line))
        lines.append(line)
    return "\n".join(lines) + "\n"


def tutorial() -> str:
    """The notebook with the outputs it was stored with."""
    notebook = nbformat.read(DOCS / "tutorial.ipynb", 4)
    text, resources = MarkdownExporter().from_notebook_node(notebook)
    if resources["outputs"]:
        raise ValueError("docs/tutorial.ipynb: pictures must be part of its HTML outputs")
    return str(text)


def commands() -> str:
    """The help of the commands."""
    asked: list[tuple[str, Callable[[list[str]], int], list[str]]] = [
        ("vdna-catalogue", catalogue.main, []),
        *((f"vdna-catalogue {name}", catalogue.main, [name]) for name in CATALOGUE),
        ("python -m pipeline.extractors", extractors.main, []),
        *((f"python -m pipeline.extractors {name}", extractors.main, [name]) for name in EXTRACTORS),
    ]
    made = (DOCS / "reference" / "commands.md").read_text()
    for title, main, given in asked:
        made += f"\n## {title}\n\n```text\n{_help(main, given)}```\n"
    return made


def _help(main: Callable[[list[str]], int], given: list[str]) -> str:
    written = io.StringIO()
    with redirect_stdout(written):
        try:
            main([*given, "--help"])
        except SystemExit as ended:
            if ended.code:
                raise
    return written.getvalue()


def keys() -> str:
    """conf/config.yaml, and the choices of its groups, each with the first line of its file."""
    made = (DOCS / "reference" / "keys.md").read_text()
    made += f"\n```yaml\n{(CONF / 'config.yaml').read_text()}```\n"
    for group in sorted(path for path in CONF.iterdir() if any(path.glob("*.yaml"))):
        made += f"\n## {group.name}\n\n| name | |\n|---|---|\n"
        for file in sorted(group.glob("*.yaml")):
            notes = [line for line in file.read_text().splitlines() if line.startswith("#") and "@package" not in line]
            made += f"| `{file.stem}` | {notes[0].lstrip('# ').replace('|', '&#124;') if notes else ''} |\n"
    return made


def networks() -> str:
    """The extractors of conf/extractor."""
    made = (DOCS / "reference" / "extractors.md").read_text()
    made += "\n| name | source | model | licence of the weights |\n|---|---|---|---|\n"
    for name in known_extractors():
        config = named_extractor(name)
        made += f"| `{name}` | `{config.source}` | `{config.model}` | {config.licence or 'see its model card'} |\n"
    return made


def navigation(given: list[Any], existing: list[str]) -> list[Any]:
    """The navigation with its patterns expanded to the pages that nothing else names. Raises `ValueError` for a page
    that is not there."""
    named = {page for page in _named(given) if "*" not in page}
    if missing := named - set(existing):
        raise ValueError(f"mkdocs.yml: there is no page {', '.join(sorted(missing))}")

    def expanded(item: Any) -> list[Any]:
        if isinstance(item, dict):
            ((title, inner),) = item.items()
            inner = [new for each in inner for new in expanded(each)] if isinstance(inner, list) else inner
            return [{title: inner}] if inner else []
        if "*" not in item:
            return [item]
        depth = item.count("/")
        return [page for page in existing if page not in named and page.count("/") == depth and fnmatch(page, item)]

    made = [new for item in given for new in expanded(item)]
    if lost := set(existing) - set(_named(made)):
        raise ValueError(f"mkdocs.yml: nothing leads to {', '.join(sorted(lost))}")
    return made


def _named(item: Any) -> Iterator[str]:
    """The pages of a part of the navigation."""
    if isinstance(item, str):
        yield item
    else:
        for inner in item.values() if isinstance(item, dict) else item:
            yield from _named(inner)


def write(folder: Path) -> None:
    """The pages and the configuration that the site is made from."""
    where = pages()
    made = {
        "docs/tutorial.ipynb": tutorial,
        "docs/reference/commands.md": commands,
        "docs/reference/keys.md": keys,
        "docs/reference/extractors.md": networks,
    }
    shutil.rmtree(folder / "pages", ignore_errors=True)
    for file, page in where.items():
        text = made[file]() if file in made else (ROOT / file).read_text()
        path = folder / "pages" / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(turned(text, file, where))
    for picture in _files(".png", ".svg", ".css"):
        target = folder / "pages" / picture.relative_to(DOCS)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, target)
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    config["nav"] = navigation(config["nav"], sorted(where.values()))
    config |= {"docs_dir": "pages", "site_dir": "site"}
    config["plugins"][1]["mkdocstrings"]["handlers"]["python"]["paths"] = [str(ROOT)]
    (folder / "mkdocs.yml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


if __name__ == "__main__":
    os.environ["COLUMNS"] = "100"  # of the commands' help
    write(Path(sys.argv[1]))
