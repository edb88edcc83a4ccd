"""What MkDocs does besides rendering, so that pages also read well as plain Markdown.

Links: on a page, a link to a file outside of docs/ is relative, and works where the repository is read as it is. In the
site it leads to a page with the file's text; if the link is a name in backticks, to the line that defines the name.

Pages of runs: the default run and each study with results have one, in the site alone. docs/reports.md leads to them.

Formulas: w_t, w_{t+1} and F^q get their subscripts and superscripts.
"""

import ast
import os
import re
from collections.abc import Iterator
from contextlib import chdir, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

from fedpipe.results.report import answer, page, question
from fedpipe.results.run import read_run
from fedpipe.results.source import Revision
from fedpipe.studies import outputs
from fedpipe.studies.commands import missing_of, recorded
from fedpipe.system.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[(?P<text>[^\[\]]*)\]\((?P<path>(?:\.\./)+[^)#\s]*[^)#\s/])\)")
SUBSCRIPT = re.compile(r"(?:(?<=Δ)|(?<![\w.]))([^\W\d_])_(?:\{([^{}]+)\}|(\w)(?![\w.]))")
SUPERSCRIPT = re.compile(r"\^(?:\(([^()]+)\)|(\w+(?:<sub>[^<>]+</sub>)?))")
INDEX, PLACE = "reports.md", "<!-- pages -->"  # the page that leads to those of runs, and where on it
PICTURES = (".png", ".svg")
LANGUAGES = {
    ".ipynb": "json", ".json": "json", ".md": "markdown", ".py": "python", ".toml": "toml", ".yaml": "yaml",
    ".yml": "yaml",
}  # fmt: skip


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the files that pages link to."""
    for one in pages_of_runs():
        files.append(File.generated(config, one.file, content=one.html))
    linked = {target for page in files.documentation_pages() for _, target in outside(page.src_uri)}
    for target in sorted(linked):
        if target.suffix in PICTURES:
            files.append(File.generated(config, f"code/{target}", abs_src_path=str(ROOT / target)))
        else:
            files.append(
                File.generated(config, f"code/{target}.md", content=_shown(target), inclusion=InclusionLevel.NOT_IN_NAV)
            )


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at the added pages."""
    here = page.file.src_uri
    if here == INDEX:
        rows = [f"| [{one.name}]({one.file}) | {one.about} |" for one in pages_of_runs()]
        markdown = markdown.replace(PLACE, "\n".join(["| page | |", "| --- | --- |", *rows]))

    def pointed(link: re.Match[str]) -> str:
        target = _target(here, link["path"])
        if target is None:
            return link[0]
        name = defined_name(link["text"])
        line = f"#__span-0-{line_of(target, name)}" if name and target.suffix == ".py" else ""
        page_of = target if target.suffix in PICTURES else f"{target}.md"
        return f"[{link['text']}]({os.path.relpath(f'code/{page_of}', PurePosixPath(here).parent)}{line})"

    return LINK.sub(pointed, markdown)


@dataclass(frozen=True)
class PageOfRun:
    """Hold a page that the site has of a run or a study."""

    name: str
    file: str
    about: str
    html: str


@lru_cache
def pages_of_runs() -> tuple[PageOfRun, ...]:
    """Return the pages of the default run and of each study of which results are committed, made from them."""
    with chdir(ROOT):
        run = read_run(Revision("HEAD"))
        found = [PageOfRun("The default run", "reports/default.html", f"{question(run)} {answer(run)}", page(run))]
        for file in sorted(Path("studies").glob("*.yaml")):
            with suppress(UserError):  # nothing is recorded
                state, records, of_other_code = recorded(file, say=lambda line: None)
                about = f"{state.study.question} {len(records):,} runs."
                html = outputs.page(state.study, records, file.stem, missing_of(state, of_other_code))
                found.append(PageOfRun(f"Study {file.stem}", f"reports/{file.stem}.html", about, html))
        return tuple(found)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Set subscripts and superscripts, everywhere but in blocks of code."""
    pieces = re.split(r"(<pre.*?</pre>|<[^<>]+>)", html, flags=re.DOTALL)
    return "".join(piece if piece.startswith("<") else scripts(piece) for piece in pieces)


def scripts(text: str) -> str:
    """Return text in which w_t, w_{t+1} and F^q have subscripts and superscripts, and per_client has none."""
    text = SUBSCRIPT.sub(lambda found: f"{found[1]}<sub>{found[2] or found[3]}</sub>", text)
    return SUPERSCRIPT.sub(lambda found: f"<sup>{found[1] or found[2]}</sup>", text)


def outside(page: str) -> Iterator[tuple[str, PurePosixPath]]:
    """Yield the links of a page of docs/ to files outside of it: their text, and the file's path in the repository."""
    source = ROOT / "docs" / page
    for link in LINK.finditer(source.read_text()) if source.is_file() else ():
        target = _target(page, link["path"])
        if target is not None:
            yield link["text"], target


def defined_name(text: str) -> str | None:
    """Return the name of a link's text if it is one in backticks, such as `Scaffold.on_client`."""
    name = re.fullmatch(r"`([A-Za-z_][\w.]*)`", text)
    return name[1] if name and "/" not in text and not text.endswith(".py`") else None


def line_of(file: PurePosixPath, name: str) -> int:
    """Return the line of a Python file that defines a class, function, method, field or constant.

    Raises:
        ValueError: the file defines no such name.
    """
    body, line = _parsed(file).body, 0
    for part in name.split("."):
        found = next((node for node in body if _defines(node, part)), None)
        if found is None:
            raise ValueError(f"{file} defines no {name}")
        body, line = getattr(found, "body", []), found.lineno
    return line


@lru_cache
def _parsed(file: PurePosixPath) -> ast.Module:
    return ast.parse((ROOT / file).read_text())


def _defines(node: ast.stmt, name: str) -> bool:
    match node:
        case ast.ClassDef() | ast.FunctionDef():
            return node.name == name
        case ast.Assign(targets=[ast.Name(id=one)]) | ast.AnnAssign(target=ast.Name(id=one)):
            return one == name
    return False


def _target(page: str, link: str) -> PurePosixPath | None:
    """Return the path in the repository of a link's file, or None if the file is a page of docs/."""
    path = PurePosixPath(os.path.normpath(PurePosixPath("docs", page).parent / link))
    return None if path.parts[0] in ("docs", "..") else path


def _shown(file: PurePosixPath) -> str:
    text = (ROOT / file).read_text().rstrip("\n")
    return (
        f"---\ntitle: {file}\nsearch:\n  exclude: true\nhide: [toc, navigation]\n---\n"
        f"# {file.name}\n\n`{file}`\n\n~~~~~~{LANGUAGES.get(file.suffix, 'text')}\n{text}\n~~~~~~\n"
    )
