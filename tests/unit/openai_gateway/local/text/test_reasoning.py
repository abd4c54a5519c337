from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from openai_gateway.local import ChatRequest, both_names, parse_request
from openai_gateway.local.text.reasoning import ReasoningSplitter, split_message

MARKS = ("<a>", "</a>")
TEXTS = st.lists(st.sampled_from([*MARKS, "<", "</", "a", ">", "x\n", ""]), max_size=8).map("".join)


def naive(text: str) -> tuple[str, str]:
    """By one look at the whole text."""
    reasoning, _, content = text.removeprefix(MARKS[0]).partition(MARKS[1])
    return reasoning, content


@given(TEXTS, st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_same_as_looking_at_the_whole_text(text: str, cuts: list[int]) -> None:
    """However the text is cut into pieces, reasoning and content are those of the whole."""
    splitter = ReasoningSplitter(MARKS)
    start, reasoning, content, turn = 0, "", "", 0
    while start < len(text):
        end = start + cuts[turn % len(cuts)]
        more, other = splitter.push(text[start:end])
        reasoning, content = reasoning + more, content + other
        start, turn = end, turn + 1
    assert (reasoning + splitter.flush(), content) == naive(text)


def test_holds_back_only_what_may_be_a_mark() -> None:
    """Thoughts are shown as they come."""
    splitter = ReasoningSplitter(MARKS)
    assert [splitter.push(piece) for piece in ("<", "a>so", " <", "b</", "a>", "yes")] == [
        ("", ""),
        ("so", ""),
        (" ", ""),
        ("<b", ""),
        ("", ""),
        ("", "yes"),
    ]
    assert splitter.flush() == ""


def test_whole_message() -> None:
    """The reasoning has both names; content that is nothing but reasoning is null."""
    message = {"role": "assistant", "content": "<a>so</a>yes"}
    assert split_message(message, MARKS) == {"role": "assistant", "content": "yes", **both_names("so")}
    assert split_message(message | {"content": "so"}, MARKS)["content"] is None
    assert both_names("") == {}


def test_what_is_split_may_come_back() -> None:
    """A message with nothing but thoughts, or with nothing at all, is a message of a later request."""
    for text in ("hm</a>", "hm", "</a>", ""):
        message = split_message({"role": "assistant", "content": text}, MARKS)
        assert parse_request(ChatRequest, {"messages": [message]})
