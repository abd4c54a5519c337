"""What a tool call may quote, as it stands there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.sim import models
from edge_agent.drafting.library import DraftLibrary
from edge_agent.drafting.quoting import MAX_QUOTED_CHARS, quotable, unnumbered

CODE = 'def total(items):\n    """The sum."""\n    return sum(items)\n'
QUOTED = json.dumps(CODE)[1:-1]
TOOLS = [{"type": "function", "function": {"name": "write"}}]


def body(*messages: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"messages": messages, "tools": TOOLS, **fields}).encode()


def said(content: Any, role: str = "tool") -> dict[str, Any]:
    return {"role": role, "content": content}


def called(arguments: Any) -> dict[str, Any]:
    call = {"id": "1", "type": "function", "function": {"name": "write", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def test_texts_are_quoted_and_quotations_are_not() -> None:
    """Each is there as the other side says it; what both say alike is in the prompt already."""
    parts = [{"type": "text", "text": CODE + "1"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    found = list(
        quotable(
            body(
                said(CODE),
                said(parts, "user"),
                said("one line that needs no quotes"),
                said("a\nb"),
                called(json.dumps({"edits": [{"text": CODE + "2"}], "path": "order.py, as long as that"})),
                called({"text": CODE + "3"}),
            )
        )
    )
    assert found == [QUOTED, QUOTED + "1", CODE + "2", CODE + "3"]


LINES = CODE.splitlines()


@pytest.mark.parametrize("mark", ["\t", "\u2192", ": ", "|", " | "])
def test_numbers_of_lines_are_not_quoted(mark: str) -> None:
    """As tools that read files put them, in whatever text around; the text itself keeps its indentation."""
    listing = "".join(f"{number:5}{mark}{line}\n" for number, line in enumerate((*LINES, "", "pass"), 9))
    plain = CODE + "\npass\n"
    assert unnumbered(f"order.py:\n{listing}<end>") == f"order.py:\n{plain}<end>"
    assert unnumbered(listing[:-1]) == plain[:-1]
    assert list(quotable(body(said(listing)))) == [plain, json.dumps(plain)[1:-1]]


@pytest.mark.parametrize(
    "text",
    [
        *(CODE, "1: a\n2: b", "7: a\n8: b\n12: c\n", "1. a\n2. b\n3. c", "1:\r2:\r3:\n" * 3),
        *("9" * 5000 + ":\n", "\u0661: a\n\u0662: b\n\u0663: c\n"),
    ],
)
def test_other_numbers_belong_to_the_text(text: str) -> None:
    """Too few, not in a row, those of a list, of too many digits, of other scripts."""
    assert unnumbered(text) == text


def test_the_newest_texts_are_taken_each_once() -> None:
    """A text that is said again counts as new."""
    long = "x\n" * (MAX_QUOTED_CHARS // 6)
    messages = [said(long + "1"), said(CODE), said(long + "2"), said(CODE)]
    assert [text[-1] for text in quotable(body(*messages))] == ["2", "n"]


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"no JSON",
        b"[]",
        b"7",
        b'{"prompt": "x"}',
        b'{"messages": 7}',
        body({}, said(None), said(7), said([7, {"text": 7}])),  # type: ignore[arg-type]
        b'{"messages": [7, null]}',
        body(called("no JSON"), called(7), called(None), {"tool_calls": [{}, 7]}, {"tool_calls": 7}),
    ],
)
def test_what_cannot_be_read_is_not_quoted(sent: bytes) -> None:
    """The server says what is wrong with it."""
    assert list(quotable(sent)) == []


def proposed(library: DraftLibrary, sent: bytes, text: str) -> str:
    tokenizer = models.tokenizer()
    sources = library.sources(sent, models.bundle())
    source = sources.after(tokenizer.encode(text, add_special_tokens=False).ids)
    return tokenizer.decode([draft.token_id for draft in source.propose(least=0.0)])


def test_a_call_is_drafted_from_what_a_tool_said(tmp_path: Path) -> None:
    """Beyond line ends, which are other tokens there; without tools nothing is quoted."""
    library = DraftLibrary((), tmp_path)
    sent = body(said(CODE))
    begun = f'{CODE}{{"content": "{QUOTED[:20]}'
    for _ in range(2):
        assert QUOTED[20:].startswith(proposed(library, sent, begun).rstrip("\ufffd"))
        assert len(proposed(library, sent, begun)) > 30
    assert library.sources(sent, models.bundle()).is_quick(1) is False
    assert library.sources(b"", models.bundle()).is_quick(1) is True
    assert "\\n" not in proposed(library, sent.replace(b"tools", b"other"), begun)
