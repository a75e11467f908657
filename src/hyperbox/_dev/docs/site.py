"""MkDocs hook and Markdown pieces of the site.

The navigation comes from the folders, and a section's order from the links on its index page. So a page is added by
writing it and linking it where readers look for it; there is no second list to keep. A page that its section's index
does not link is an error of the strict build.
"""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

SECTIONS: Final[Mapping[str, str]] = {
    "start": "Start",
    "guides": "Guides",
    "concepts": "Concepts",
    "playbooks": "Playbooks",
    "reference": "Reference",
    "troubleshooting": "Troubleshooting",
    "contributing": "Contributing",
    "decisions": "Decisions",
}
"""Folders of `docs/` that readers see, in the order of the tabs."""

FENCE_OPTIONS: Final = frozenset({"needs", "timeout", "check"})
"""Attributes of a fence that are for the harness; the site carries them as `data-…` attributes."""

_LINK: Final = re.compile(r"\]\(([^)#\s]+\.md)(?:#[^)]*)?\)")

log: Final = logging.getLogger("mkdocs.hyperbox")


def section_order(index: str, folder: str, pages: Iterable[str]) -> tuple[list[str], list[str]]:
    """Order a section's pages by the links of its index page.

    Args:
        index: Markdown of `<folder>/index.md`.
        folder: the section's folder, relative to `docs/`.
        pages: source paths of all pages of the section but the index, relative to `docs/`.

    Returns:
        The linked pages in the order of their first links, and those that are not linked.
    """
    wanted = set(pages)
    linked = [posixpath.normpath(posixpath.join(folder, target)) for target in _LINK.findall(index)]
    ordered = [page for page in dict.fromkeys(linked) if page in wanted]
    return ordered, sorted(wanted - set(ordered))


def section(folder: str, sources: Mapping[str, str]) -> list[Any]:
    """Build the navigation of one folder: its index, then what the index links; sub-folders count by their index."""
    index = f"{folder}/index.md"
    members = set()
    for uri in sources:
        if uri.startswith(f"{folder}/") and uri != index:
            first, _, deeper = uri.removeprefix(f"{folder}/").partition("/")
            members.add(f"{folder}/{first}/index.md" if deeper else uri)
    ordered, missing = section_order(sources[index], folder, members)
    for page in missing:
        log.warning("docs/%s does not link %s: it would be in no menu", index, page)
    entries: list[Any] = [index]
    for page in ordered:
        child = posixpath.dirname(page)
        entries.append(page if child == folder else {_title(sources[page]): section(child, sources)})
    return entries


def _title(markdown: str) -> str:
    match = re.search(r"^# (.+)$", markdown, re.MULTILINE)
    return match[1] if match else "?"


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Set the navigation from the pages that there are, generated ones included."""
    sources = {file.src_uri: file.content_string for file in files.documentation_pages()}
    nav: list[dict[str, Any]] = [{"HyperBox": "index.md"}]
    for folder, title in SECTIONS.items():
        if f"{folder}/index.md" in sources:
            nav.append({title: section(folder, sources)})
        else:
            log.warning("docs/%s has no index.md", folder)
    config.nav = nav
    return files


def fence_validator(
    language: str, inputs: Mapping[str, str], options: dict[str, Any], attrs: dict[str, Any], md: Any
) -> bool:
    """Accept the harness' attributes beside those of the highlighter (a superfences validator)."""
    del language, attrs, md
    options.update(inputs)
    return set(inputs) <= FENCE_OPTIONS | {"title", "hl_lines", "linenums"}


def fence_format(source: str, language: str, class_name: str, options: dict[str, Any], md: Any, **kw: Any) -> Any:
    """Highlight a fence as usual and say above it what it needs (a superfences formatter)."""
    harness = {f"data-{name}": options[name] for name in FENCE_OPTIONS & options.keys() if name == "needs"}
    plain = {name: value for name, value in options.items() if name not in FENCE_OPTIONS}
    kw["attrs"] = {**(kw.get("attrs") or {}), **harness}
    fenced: Any = md.preprocessors["fenced_code_block"]
    return fenced.highlight(src=source, class_name=class_name, language=language, options=plain, md=md, **kw)
