"""Stop strings: what is found does not depend on how a text is cut, and what it costs grows with the text alone."""

from hypothesis import example, given
from hypothesis import strategies as st

from flashmoe.chat import stops
from flashmoe.chat.stops import StopStrings

LETTERS = st.text("ab", max_size=12)
STOPS = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4)


def first(text: str, marks: list[str]) -> tuple[str, str | None]:
    """The text before the mark that is complete first (the longest of those), and that mark; by trying every end."""
    for end in range(len(text) + 1):
        if ending := [mark for mark in marks if text[:end].endswith(mark)]:
            found = max(ending, key=len)
            return text[: end - len(found)], found
    return text, None


@given(st.lists(LETTERS, max_size=6), STOPS)
@example(["ab", "ab"], ["abab", "ba"])
@example(["aab"], ["b", "ab"])
def test_a_text_ends_before_the_stop_string_that_is_complete_first(pieces, marks):
    stream = StopStrings(marks)
    out = "".join(map(stream.push, pieces))
    if stream.found is None:
        out += stream.flush()
    assert (out, stream.found) == first("".join(pieces), marks)
    assert stream.push("more") == "" or stream.found is None


@given(st.lists(LETTERS, max_size=6), STOPS)
def test_only_what_may_begin_a_stop_string_is_held_back(pieces, marks):
    stream = StopStrings(marks)
    text, out = "", ""
    for piece in pieces:
        text, out = text + piece, out + stream.push(piece)
        if stream.found is not None:
            break
        held = text.removeprefix(out)
        beginnings = {mark[:length] for mark in marks for length in range(len(mark))}
        assert held == max((b for b in beginnings if text.endswith(b)), key=len, default="")


def test_a_step_of_the_automaton_costs_a_constant_however_long_the_stop_strings_are():
    looked_at = 0

    class Counted(dict):
        def __contains__(self, key):
            nonlocal looked_at
            looked_at += 1
            return super().__contains__(key)

    size = 2000
    automaton = stops._Automaton(["\n" * size + ending for ending in "abcdefghijklmnop"])
    automaton._next = [Counted(following) for following in automaton._next]
    text = "\n" * (3 * size) + "z" + "\n" * size
    state = 0
    for character in text:
        state = automaton.step(state, character)
    assert automaton.prefix(state) == "\n" * size
    assert looked_at <= 2 * len(text)
