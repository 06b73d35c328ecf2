"""A hook of MkDocs: the site has the documents at their places in the repository, and a reference of the API.

So the links between the files work in both.
"""

import ast
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (
    "*.md", "docs/*.md", "benchmarks/*.md", "datasets/README.md", "projects/README.md", "projects/*/README.md",
    "nlvideo/model_zoo/*/README.md",
)  # fmt: skip
# Packages whose public names are a page of the reference each.
ROOMS = (
    "modeling", "layers", "config", "data", "solver", "checkpoint", "evaluation", "engine", "model_zoo", "export",
    "visualization",
)  # fmt: skip
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the pages of the reference in the navigation."""
    reference = next(part["API"] for part in config.nav if "API" in part)
    reference += [{f"nlvideo.{room}": f"api/{room}.md"} for room in (*ROOMS, "errors")]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Give the site the documents, what they link to and the reference, in place of the files of ``docs_dir``."""
    documents = sorted({path for pattern in DOCUMENTS for path in ROOT.glob(pattern)})
    linked = {target for document in documents for target in linked_files(document)}
    found = [file for file in files if file.src_dir != config.docs_dir]
    for path in sorted({*documents, *linked}):
        name = path.relative_to(ROOT).as_posix()
        found.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    for name, text in reference().items():
        found.append(File.generated(config, f"api/{name}.md", content=text))
    return Files(found)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to a folder to its README, or make them text where it has none: a site shows no folders."""
    here = (ROOT / page.file.src_uri).parent

    def rewrite(match: re.Match[str]) -> str:
        text, target = match[2], match[3]
        if "://" in target or not (here / target).is_dir():
            return match[0]
        return f"[{text}]({target.rstrip('/')}/README.md)" if (here / target / "README.md").is_file() else text

    return LINK.sub(rewrite, markdown)


def linked_files(document: Path) -> set[Path]:
    """Return the files of the repository that a document links to or shows."""
    targets = [match[3] for match in LINK.finditer(document.read_text(encoding="utf8")) if "://" not in match[3]]
    return {path for target in targets if (path := (document.parent / target).resolve()).is_file()}


def reference() -> dict[str, str]:
    """Return the pages of the API reference, as text for mkdocstrings, by name."""
    pages = {"nlvideo": "# nlvideo\n\n::: nlvideo\n    options: {members: false, show_root_heading: false}\n"}
    for room in ROOMS:
        module = ast.parse((ROOT / "nlvideo" / room / "__init__.py").read_text(encoding="utf8"))
        lists = [node.value for node in module.body if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"]
        head = f"# nlvideo.{room}\n\n{ast.get_docstring(module)}\n"
        pages[room] = head + "".join(f"\n::: nlvideo.{room}.{name}\n" for name in ast.literal_eval(lists[0]))
    pages["errors"] = "# nlvideo.errors\n\n::: nlvideo.errors\n    options: {show_root_heading: false}\n"
    return pages
