"""Script of the mkdocs-gen-files plugin: one page for each public Python module, filled by mkdocstrings.

The pages exist only in the built site; their text is the docstrings.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOTS: Final = ("hyperbox.api", "hyperbox.client")
"""Packages and modules that are the public Python API; what is not there yet is left out."""


def modules(roots: tuple[str, ...] = ROOTS) -> Iterator[tuple[str, str]]:
    """Yield name and first docstring line of each public module, packages before their modules, by name.

    Nothing is imported but the parents of the roots: a page is made from the source, as mkdocstrings does.
    """
    for root in roots:
        spec = importlib.util.find_spec(root)
        if spec is None or spec.origin is None:
            continue
        top = Path(spec.origin)
        yield root, summary(top)
        if top.name != "__init__.py":
            continue
        for path in sorted(top.parent.rglob("*.py")):
            parts = path.relative_to(top.parent).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            if parts and not any(part.startswith("_") for part in parts):
                yield ".".join((root, *parts)), summary(path)


def summary(path: Path) -> str:
    """Give the first paragraph of a module's docstring as one line."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.partition("\n\n")[0].split())


def page(name: str) -> str:
    """Give the Markdown of one module's page."""
    return f"# {name}\n\n::: {name}\n"


def main() -> None:
    """Write the pages and their index into the site that is being built."""
    import mkdocs_gen_files

    index = ["# Python API", "", "The typed core of HyperBox, importable without root and without a daemon.", ""]
    for name, line in modules():
        path = f"reference/python/{name}.md"
        with mkdocs_gen_files.open(path, "w") as file:
            file.write(page(name))
        index.append(f"- [`{name}`]({name}.md): {line}")
    with mkdocs_gen_files.open("reference/python/index.md", "w") as file:
        file.write("\n".join([*index, ""]))


if __name__ == "<run_path>":  # how the plugin runs its scripts
    main()
