from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from openai_gateway.local.text.transcript import StopScanner


def naive(text: str, stops: list[str], num_exempt: int = 0) -> str:
    """Cut `text` at the stop string that ends first behind `num_exempt` characters, the longest of those."""
    for end in range(num_exempt + 1, len(text) + 1):
        hits = [stop for stop in stops if text[:end].endswith(stop)]
        if hits:
            return text[: end - max(map(len, hits))]
    return text


def scan(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    scanner = StopScanner(stops)
    shown = ""
    for piece in pieces:
        text, stopped = scanner.push(piece)
        shown += text
        if stopped:
            return shown, True
    return shown + scanner.flush(), False


few_letters = st.text("ab\n", max_size=6)


@given(st.lists(few_letters, max_size=12), st.lists(few_letters.filter(bool), max_size=4))
def test_same_as_searching_the_whole_text(pieces: list[str], stops: list[str]) -> None:
    """However the text is cut, what is shown is what a naive search over the whole text shows."""
    text = "".join(pieces)
    shown, stopped = scan(pieces, stops)
    assert shown == naive(text, stops)
    assert stopped == any(stop in text for stop in stops)


@given(
    st.lists(few_letters, max_size=4),
    st.lists(few_letters, max_size=4),
    st.lists(few_letters.filter(bool), max_size=4),
)
def test_exempt_text(exempt: list[str], rest: list[str], stops: list[str]) -> None:
    """A stop string that ends in exempt text is text; one that only begins there is a hit."""
    scanner = StopScanner(stops)
    shown = "".join(scanner.push(piece, may_stop=False)[0] for piece in exempt)
    stopped = False
    for piece in rest:
        text, stopped = scanner.push(piece)
        shown += text
        if stopped:
            break
    text = "".join(exempt + rest)
    expected = naive(text, stops, num_exempt=len("".join(exempt)))
    assert shown + ("" if stopped else scanner.flush()) == expected
    assert stopped == (expected != text)


@given(st.lists(few_letters, max_size=12), st.lists(few_letters.filter(bool), min_size=1, max_size=4))
def test_holds_back_no_more_than_needed(pieces: list[str], stops: list[str]) -> None:
    """Before a hit, the text held back is the longest end of the text that begins a stop string."""
    scanner = StopScanner(stops)
    text = shown = ""
    for piece in pieces:
        more, stopped = scanner.push(piece)
        if stopped:
            return
        text, shown = text + piece, shown + more
        held = text[len(shown) :]
        assert text == shown + held
        longest = max(
            (n for stop in stops for n in range(len(stop)) if text.endswith(stop[:n])),
            default=0,
        )
        assert len(held) == longest


def test_stop_string_over_three_pieces() -> None:
    """A stop string is found across piece boundaries and neither it nor what follows is shown."""
    assert scan(["one E", "N", "D two"], ["END"]) == ("one ", True)


def test_false_start_is_released() -> None:
    """Text that began like a stop string is shown as soon as it cannot become one."""
    scanner = StopScanner(["\n\nQ:"])
    assert scanner.push("a\n\n") == ("a", False)
    assert scanner.push("b") == ("\n\nb", False)


def test_flush_returns_the_held_text_once() -> None:
    """What was held back when the text ends is shown, once."""
    scanner = StopScanner(["END"])
    scanner.push("the EN")
    assert (scanner.flush(), scanner.flush()) == ("EN", "")


def test_no_stop_strings_hold_nothing_back() -> None:
    """Without stop strings all text passes through, and the scanner is false."""
    scanner = StopScanner([])
    assert not scanner
    assert scanner.push("anything") == ("anything", False)


def test_the_string_that_ended_the_text_is_known() -> None:
    """Of those that end together the longest is named; before that, none."""
    scanner = StopScanner(["c", "bc"])
    scanner.push("ab")
    assert scanner.found is None
    scanner.push("c")
    assert scanner.found == "bc"
