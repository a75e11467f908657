"""Rules of pages, the order of the navigation, checks of examples, rewriting of pages."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperbox._dev.docs.checkers import checker_for
from hyperbox._dev.docs.fences import Fence, parse_page
from hyperbox._dev.docs.rules import PLAYBOOK_SECTIONS, fence_faults, missing_sections, unknown_names
from hyperbox._dev.docs.site import section, section_order
from hyperbox._dev.docs.update import PENDING, rewrite, write_pending

PAGE = Path("page.md")


@pytest.mark.parametrize(
    ("language", "body", "fault"),
    [
        ("console", "$ true\n", ""),
        ("text", "anything", ""),
        ("bash", "true\n", "page.md:1: a bash fence is not run"),
        ("", "x\n", "page.md:1: a fence without language is not run"),
        ("toml", "a = 1\n", ""),
        ("toml", "a =\n", "page.md:1: Invalid value"),
        ("yaml", "a: [\n", "page.md:1: while parsing"),
        ("ini", '--8<-- "examples/x.ini"\n', ""),
    ],
)
def test_fences_are_run_or_plainly_not_code(language: str, body: str, fault: str) -> None:
    faults = fence_faults(Fence(PAGE, 1, language, {}, body))
    assert len(faults) == bool(fault)
    assert all(found.startswith(fault) for found in faults)


def test_a_configuration_fence_is_read_by_the_daemon_s_parser() -> None:
    good = Fence(PAGE, 1, "toml", {"check": "config"}, "[store]\ngc_grace_seconds = 1\n")
    bad = Fence(PAGE, 1, "toml", {"check": "config"}, "[store]\nno_such_key = 1\n")
    assert fence_faults(good) == []
    assert "no_such_key" in fence_faults(bad)[0]
    assert fence_faults(Fence(PAGE, 1, "toml", {"check": "moon"}, "")) == ["page.md:1: no check is called 'moon'"]


def test_playbooks_have_their_sections_in_order() -> None:
    whole = "# T\n\n" + "".join(f"## {section}\n\nwords\n\n" for section in PLAYBOOK_SECTIONS)
    assert missing_sections(whole) == []
    assert missing_sections(whole.replace("## How to undo it\n", "")) == ["How to undo it"]
    assert missing_sections("# T\n" + "".join(f"## {s}\n" for s in reversed(PLAYBOOK_SECTIONS))) == ["their order"]
    assert missing_sections("---\nalert: DiskFull\n---\n# T\n## Meaning\n") == [
        "Impact",
        "Diagnosis",
        "Mitigation",
        "Validation",
    ]


def test_names_that_nothing_declares_are_found_with_their_line() -> None:
    text = """`hyperbox image ls -q`, `hyperbox image`, `hyperbox status`
HB-STORE-001 HB-STORE-999 HYPERBOX_SOCKET HYPERBOX_<SECTION>_<KEY>
$ sudo hyperbox image lss
HYPERBOX_SOCKETT
"""
    faults = unknown_names(
        {PAGE: text},
        codes=["HB-STORE-001"],
        variables=["HYPERBOX_SOCKET"],
        commands=[("hyperbox", "image", "ls"), ("hyperbox", "status")],
    )
    assert sorted(faults) == [
        "page.md:2: HB-STORE-999",
        "page.md:3: sudo hyperbox image lss",
        "page.md:4: HYPERBOX_SOCKETT",
    ]


def test_navigation_follows_the_links_of_the_index() -> None:
    index = "[b](b.md), [a](./a.md#x), [again](b.md), [out](../start/index.md), [deep](deep/index.md)"
    pages = ["g/a.md", "g/b.md", "g/c.md", "g/deep/index.md"]
    assert section_order(index, "g", pages) == (["g/b.md", "g/a.md", "g/deep/index.md"], ["g/c.md"])
    sources = {
        "g/index.md": index,
        "g/a.md": "",
        "g/b.md": "",
        "g/deep/index.md": "# Deep\n[x](x.md)",
        "g/deep/x.md": "",
    }
    assert section("g", sources) == ["g/index.md", "g/b.md", "g/a.md", {"Deep": ["g/deep/index.md", "g/deep/x.md"]}]


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("hyperbox.conf", "[daemon]\n", "[nonsense]\n"),
        ("other.toml", "a = 1\n", "a\n"),
        ("compose.yaml", "a: 1\n", "a: {\n"),
        ("daemon.json", "{}", "{,}"),
        ("client.py", "print(1)\n", "raise SystemExit(1)\n"),
        ("install.sh", "true\n", "if\n"),
    ],
)
def test_examples_are_checked_by_what_they_are_for(name: str, good: str, bad: str) -> None:
    checker = checker_for(name)
    assert checker is not None
    assert checker(good) == ""
    assert checker(bad) != ""


def test_a_file_of_unknown_kind_has_no_checker() -> None:
    assert checker_for("picture.bmp") is None


def test_pages_are_rewritten_in_place() -> None:
    text = "# T\n\n```console\n$ a\nold\n```\n\n- x\n\n  ```console\n  $ b\n  ```\n\nend\n"
    first, second = parse_page(PAGE, text)
    renewed = rewrite(text, [(first, "$ a\nnew\nmore\n"), (second, "$ b\nout\n")])
    assert renewed == ("# T\n\n```console\n$ a\nnew\nmore\n```\n\n- x\n\n  ```console\n  $ b\n  out\n  ```\n\nend\n")


def test_pending_bodies_survive_other_changes_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nx\n#> 1\nmore\n```\n\n```console\n$ a\nnow\n```\n")
    PENDING[page] = {1: "$ a\nthen\n"}
    write_pending()
    assert page.read_text() == "```python\nx\n#> 1\nmore\n```\n\n```console\n$ a\nthen\n```\n"
    assert not PENDING


@given(st.lists(st.sampled_from(["words", "", "```console\n$ a\nb\n```", "    ```text\n    x\n    ```"]), max_size=8))
def test_rewriting_with_what_is_there_changes_nothing(parts: list[str]) -> None:
    text = "".join(f"{part}\n" for part in parts)
    assert rewrite(text, [(fence, fence.body) for fence in parse_page(PAGE, text)]) == text
