"""Stop strings: found at any overlap, never leaked."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from t5kit.decoding.stops import StopMatcher, StopTextStream, answer_text, find_first_stop, num_characters_held
from t5kit.text import ByteTokenizer


class PieceDetokenizer:
    """Id i writes pieces[i]; the last `delay` pieces are held back, as bytes of an unfinished character are."""

    def __init__(self, pieces: list[str], *, delay: int = 0) -> None:
        self._pieces, self._delay = pieces, delay
        self._held: list[str] = []

    def push(self, token_id: int) -> str:
        self._held.append(self._pieces[token_id])
        return self._held.pop(0) if len(self._held) > self._delay else ""

    def finish(self) -> str:
        rest = "".join(self._held)
        self._held.clear()
        return rest


TEXT = st.text("ab.", max_size=24)
STOPS = st.lists(st.text("ab.", min_size=1, max_size=5), min_size=1, max_size=4)


@st.composite
def pieces(draw: st.DrawFn) -> list[str]:
    """Any text cut into tokens at any places, empty tokens among them."""
    text = draw(TEXT)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=10)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def cut_character_by_character(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The rule, said slowly: read on until some stop string is complete; the longest of those counts."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(text=TEXT, stops=STOPS)
def test_a_text_ends_where_the_first_stop_string_is_complete(text: str, stops: list[str]) -> None:
    expected, stop = cut_character_by_character(text, stops)
    found = find_first_stop(text, stops)
    assert (text, None) == (expected, stop) if found is None else (text[: found[0]], found[1]) == (expected, stop)


@given(pieces=pieces(), stops=STOPS, delay=st.integers(0, 2))
def test_the_cut_does_not_depend_on_where_tokens_end(pieces: list[str], stops: list[str], delay: int) -> None:
    text = answer_text(range(len(pieces)), PieceDetokenizer(pieces, delay=delay), stops)
    assert text == cut_character_by_character("".join(pieces), stops)[0]


@given(pieces=pieces(), stops=STOPS, delay=st.integers(0, 2))
def test_a_stream_never_shows_what_it_would_have_to_take_back(pieces: list[str], stops: list[str], delay: int) -> None:
    whole = "".join(pieces)
    final, stop = cut_character_by_character(whole, stops)
    stream = StopTextStream(PieceDetokenizer(pieces, delay=delay), stops)
    shown = ""
    for token in range(len(pieces)):
        shown += stream.push([token])
        assert final.startswith(shown)
        if stream.stop_string is None:  # no stop string that has begun may have begun in what is shown
            read = "".join(pieces[: max(0, token + 1 - delay)])
            assert not any(stop.startswith(read[start:]) for start in range(len(shown)) for stop in stops)
    shown += stream.finish()
    assert shown == final
    assert stream.stop_string == stop
    if stop is not None:
        assert stream.push(range(len(pieces))) + stream.finish() == ""


@given(pieces=pieces(), stops=STOPS)
def test_the_matcher_names_the_token_that_completes_the_stop_string(pieces: list[str], stops: list[str]) -> None:
    found = StopMatcher(PieceDetokenizer(pieces), stops).push_all(range(len(pieces)))
    _, stop = cut_character_by_character("".join(pieces), stops)
    if stop is None:
        assert found is None
    else:
        assert found is not None
        num_tokens, found_stop = found
        assert found_stop == stop
        assert cut_character_by_character("".join(pieces[:num_tokens]), stops)[1] == stop
        assert cut_character_by_character("".join(pieces[: num_tokens - 1]), stops)[1] is None


@given(text=TEXT, stops=STOPS)
def test_what_is_held_back_is_the_longest_beginning_of_a_stop_string(text: str, stops: list[str]) -> None:
    beginnings = {stop[:n] for stop in stops for n in range(1, len(stop) + 1)}
    expected = max((n for n in range(len(text) + 1) if text[len(text) - n :] in beginnings), default=0)
    assert num_characters_held(text, stops) == expected


@given(text=st.text(alphabet="aé→𝄞 \n", max_size=12), start=st.integers(0, 11), length=st.integers(1, 3))
def test_stop_strings_are_found_in_characters_of_many_byte_tokens(text: str, start: int, length: int) -> None:
    tokenizer = ByteTokenizer()
    stop = text[start : start + length] or "?"
    ids = tokenizer.encode(text, add_eos=True)
    stream = StopTextStream(tokenizer.detokenizer(), [stop])
    pieces = [stream.push([token]) for token in ids] + [stream.finish()]
    assert "".join(pieces) == text.split(stop, 1)[0] == answer_text(ids, tokenizer.detokenizer(), [stop])
    assert (stream.stop_string == stop) == (stop in text)


def test_without_stop_strings_text_passes_through() -> None:
    stream = StopTextStream(PieceDetokenizer(["a", "b"], delay=1), ())
    assert [stream.push(np.array([0])), stream.push(np.array([1])), stream.finish()] == ["", "a", "b"]
