"""Console blocks: their parser, the shell that runs them, and what a reader sees of a failure."""

import os
import select
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperbox._dev.docs.budget import Budget
from hyperbox._dev.docs.capabilities import absent
from hyperbox._dev.docs.console import Step, complaint, parse_steps, render
from hyperbox._dev.docs.fences import Fence, PageError
from hyperbox._dev.docs.run import BlockFailed, PageRun
from hyperbox._dev.docs.session import CommandTimeout, Session, SessionEnded


def block(body: str, **options: str) -> Fence:
    return Fence(Path("docs/page.md"), 10, "console", options, body)


@pytest.fixture
def page(tmp_path: Path):
    with PageRun(tmp_path / "page", examples=tmp_path / "none", providers={}) as run:
        yield run


def test_steps_of_a_block() -> None:
    steps = parse_steps(block("$ cat <<E\n> a\n> E\na\n$ false\n? 1\n\n$ echo '> no command'\n> no command\n"))
    assert steps[0] == Step(11, "cat <<E\na\nE", ("a",), 0)
    assert steps[1] == Step(15, "false", (), 1)
    assert steps[2].command == "echo '> no command'\nno command"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("output\n", r"docs/page\.md:11: a console block begins with a command"),
        ("$ true\n? one\n", r"docs/page\.md:12: an exit status is a number, not 'one'"),
        ("$ true\n? 1\nmore\n", r"docs/page\.md:13: output after the exit status"),
        ("", r"docs/page\.md:10: the console block has no command"),
    ],
)
def test_malformed_blocks_are_named(body: str, message: str) -> None:
    with pytest.raises(PageError, match=message):
        parse_steps(block(body))


plain = st.text(alphabet="abc .", min_size=1, max_size=10).map(lambda text: f"x{text.rstrip()}")


@given(
    st.lists(
        st.builds(
            lambda lines, output, status: Step(0, "\n".join(lines), tuple(output), status),
            st.lists(plain, min_size=1, max_size=3),
            st.lists(plain, max_size=3),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_rendered_steps_parse_to_themselves(steps: list[Step]) -> None:
    again = parse_steps(block(render(steps)))
    assert [(s.command, s.output, s.status) for s in again] == [(s.command, s.output, s.status) for s in steps]


def test_the_shell_lives_on_between_commands(page: PageRun) -> None:
    page.run(block("$ mkdir a && cd a && X=5\n$ basename $PWD; echo $X\na\n5\n$ cat\n$ (exit 7)\n? 7\n"))
    page.run(block("$ echo out; echo err >&2\nout\nerr\n$ seq 100\n1\n...\n100\n"))


def test_a_failure_shows_page_line_and_difference(page: PageRun) -> None:
    with pytest.raises(BlockFailed) as caught:
        page.run(block("$ true\n$ printf 'one\\nthree\\n'\none\ntwo\n"))
    assert str(caught.value).splitlines() == [
        "docs/page.md:12",
        "$ printf 'one\\nthree\\n'",
        "- the page, + printed:",
        "  one",
        "- two",
        "+ three",
    ]
    assert page.failed == "docs/page.md:10"


def test_a_wrong_status_shows_what_was_printed() -> None:
    text = complaint(Step(1, "x", ("...",), 0), ["no such thing"], 5)
    assert text == "$ x\nexit status 5, the page says 0\nit printed:\n  no such thing"


def test_a_command_that_does_not_end_is_ended(page: PageRun) -> None:
    start = time.monotonic()
    with pytest.raises(BlockFailed, match=r"no end after 0\.2 s; printed so far:\nbegun"):
        page.run(block("$ echo begun; sleep 100\n", timeout="0.2"))
    assert time.monotonic() - start < 20


def test_a_command_that_prints_for_ever_is_ended(tmp_path: Path) -> None:
    with Session(tmp_path, os.environ) as session, pytest.raises(CommandTimeout):
        session.run("while echo; do sleep 0.01; done", 0.3)


def test_exit_ends_the_page(page: PageRun) -> None:
    with pytest.raises(BlockFailed, match="the shell ended"):
        page.run(block("$ exit 3\n"))


def test_the_session_ends_what_it_started(tmp_path: Path) -> None:
    session = Session(tmp_path, os.environ)
    lines, _ = session.run("sleep 1000 & echo $!")
    pidfd = os.pidfd_open(int(lines[0]))
    session.close()
    ended, _, _ = select.select([pidfd], [], [], 10)
    os.close(pidfd)
    assert ended


def test_an_ended_session_says_so(tmp_path: Path) -> None:
    with Session(tmp_path, os.environ) as session, pytest.raises(SessionEnded):
        session.run("echo last words; exit")


def test_a_recorded_block_keeps_its_wildcards(page: PageRun) -> None:
    fence = block("$ printf 'pid 12\\na\\nb\\nend\\n'\npid [..]\nA\nb\n...\n$ (exit 3)\n")
    expected = "$ printf 'pid 12\\na\\nb\\nend\\n'\npid [..]\na\nb\n...\n$ (exit 3)\n? 3\n"
    assert render(page.record(fence)) == expected


def test_unknown_capabilities_are_errors() -> None:
    assert absent(()) == ""
    with pytest.raises(KeyError, match="unknown capability 'moon'"):
        absent(("moon",))


def test_the_budget_is_exact() -> None:
    budget = Budget.parse('[unavailable]\ncluster = "none here"\n[pages]\n"a.md" = 1\n"gone.md" = 2\n')
    docs = Path("docs")
    fences = [
        Fence(docs / page, 1, "console", {"needs": need})
        for page, need in [("a.md", "cluster")] * 2 + [("b.md", "root")]
    ]
    assert budget.differences(fences, docs) == [
        "a.md: 2 blocks cannot be run, the budget says 1",
        "gone.md: 0 blocks cannot be run, the budget says 2",
    ]
    assert budget.allows(("root", "cluster"))
    assert not budget.allows(("root",))
