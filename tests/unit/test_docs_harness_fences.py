"""Fences of pages: what is found, with which attributes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperbox._dev.docs.fences import PageError, parse_info, parse_page

PAGE = Path("page.md")


def test_fences_are_found_with_line_language_and_needs() -> None:
    text = """---
needs: root
---
# Title

```console needs="lab, docker" timeout="9"
$ true
```

- item

    ~~~~toml
    a = 1
    ~~~
      deeper
    ~~~~
"""
    console, toml = parse_page(PAGE, text)
    assert (console.line, console.language, console.needs) == (6, "console", ("root", "lab", "docker"))
    assert console.options["timeout"] == "9"
    assert (toml.line, toml.language, toml.indent) == (12, "toml", "    ")
    assert toml.body == "a = 1\n~~~\n  deeper\n"


def test_included_files_are_known() -> None:
    (fence,) = parse_page(PAGE, '```toml\n--8<-- "examples/config/hyperbox.conf:basics"\n```\n')
    assert fence.includes == ("examples/config/hyperbox.conf",)


def test_an_open_fence_is_an_error_with_its_line() -> None:
    with pytest.raises(PageError, match=r"page\.md:3: the fence is not closed"):
        parse_page(PAGE, "a\n\n```console\n$ true\n")


@pytest.mark.parametrize(
    ("info", "language", "options"),
    [
        ("", "", {}),
        ("python", "python", {}),
        ('console needs="root lab"', "console", {"needs": "root lab"}),
        ("{.toml check='config'}", "toml", {"check": "config"}),
        ("python requires", "python", {"requires": "requires"}),
    ],
)
def test_info_strings(info: str, language: str, options: dict[str, str]) -> None:
    assert parse_info(info) == (language, options)


bodies = st.lists(st.text(alphabet="ab $`~>.#", max_size=12), max_size=6).map("\n".join)


@given(st.lists(st.tuples(st.sampled_from(["console", "python", "text"]), bodies), max_size=5))
def test_whatever_stands_in_a_fence_comes_out_again(blocks: list[tuple[str, str]]) -> None:
    """A fence longer than any inside it delimits exactly its body."""
    text = "".join(f"words\n\n{'`' * 20}{language}\nx{body}\n{'`' * 20}\n\n" for language, body in blocks)
    fences = parse_page(PAGE, text)
    assert [(f.language, f.body) for f in fences] == [(language, f"x{body}\n") for language, body in blocks]
    lines = text.splitlines()
    assert all(lines[fence.line - 1].endswith(fence.language) for fence in fences)
