"""Comparison of promised and printed lines."""

from hypothesis import given
from hypothesis import strategies as st

from hyperbox._dev.docs.matching import align, difference, line_matches, matches, updated

words = st.text(alphabet="abc[].*+ ", max_size=8).filter(lambda text: text.strip() != "..." and "[..]" not in text)
texts = st.lists(words, max_size=8)


def test_any_text_inside_a_line() -> None:
    assert line_matches("pid [..] of [..]", "pid 12 of init")
    assert not line_matches("pid [..] of x", "pid 12 of init")
    assert line_matches("a.b", "a.b   ")
    assert not line_matches("a.b", "axb")


def test_any_lines() -> None:
    assert matches(["a", "...", "z"], ["a", "z"])
    assert matches(["a", "...", "z"], ["a", "b", "z", "z"])
    assert matches(["..."], [])
    assert not matches(["...", "z"], ["z", "a"])
    assert not matches([], ["unpromised"])


def test_a_difference_reads_as_one() -> None:
    promised = ["name  size", "...", "total 3", "done"]
    printed = ["name  size", "x     1", "y     2", "total 4", "done"]
    assert difference(promised, printed).splitlines() in (
        ["  name  size", "  ...", "- total 3", "+ total 4", "  done"],
        ["  name  size", "  ...", "- total 3", "  done"],
    )
    assert not matches(promised, printed)


@given(texts)
def test_a_text_matches_itself(text: list[str]) -> None:
    assert matches(text, text)
    assert [a.mark for a in align(text, text)] == [" "] * len(text)


@given(texts, texts, texts)
def test_any_lines_stand_for_any_lines(before: list[str], between: list[str], after: list[str]) -> None:
    assert matches([*before, "...", *after], [*before, *between, *after])


@given(texts, texts)
def test_alignment_and_verdict_agree(promised: list[str], printed: list[str]) -> None:
    same = all(aligned.mark == " " for aligned in align(promised, printed))
    assert same == matches(promised, printed)


@given(st.lists(st.one_of(words, st.just("..."), st.just("a[..]c")), max_size=8), texts)
def test_an_updated_promise_is_kept(promised: list[str], printed: list[str]) -> None:
    renewed = updated(promised, printed)
    assert matches(renewed, printed)
    assert updated(renewed, printed) == renewed
