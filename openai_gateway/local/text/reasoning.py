"""Reasoning and content of a chat's text, cut at the marks that the server names. Pure."""

from __future__ import annotations

from openai_gateway.chat_service import Json

__all__ = ["ReasoningSplitter", "both_names", "split_message"]
Marks = tuple[str, str]


class ReasoningSplitter:
    """Cuts a text that arrives in pieces: what is before the end mark is reasoning, the rest content.

    A start mark at the very beginning is left out. Holds back no more than what may become a mark.
    """

    def __init__(self, marks: Marks) -> None:
        self._start, self._end = marks
        self._held = ""
        self._has_begun = False
        self._has_ended = False

    def push(self, text: str) -> tuple[str, str]:
        """Read `text`; returns more reasoning and more content."""
        if self._has_ended:
            return "", text
        self._held += text
        if not self._begin():
            return "", ""
        reasoning, mark, content = self._held.partition(self._end)
        if mark:
            self._has_ended, self._held = True, ""
            return reasoning, content
        num_shown = len(reasoning) - _overlap(reasoning, self._end)
        self._held = reasoning[num_shown:]
        return reasoning[:num_shown], ""

    def flush(self) -> str:
        """The reasoning that was held back, once no more text will come."""
        held, self._held = self._held, ""
        return held

    def _begin(self) -> bool:
        """Whether the text held so far is past the place where a start mark may stand."""
        if not self._has_begun:
            if len(self._held) < len(self._start) and self._start.startswith(self._held):
                return False
            self._held = self._held.removeprefix(self._start)
            self._has_begun = True
        return True


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end of `text` begin `mark`."""
    return next((n for n in range(min(len(text), len(mark) - 1), 0, -1) if text.endswith(mark[:n])), 0)


def split_message(message: Json, marks: Marks) -> Json:
    """A whole chat message with its reasoning taken out of its content, which is null if that was all."""
    splitter = ReasoningSplitter(marks)
    reasoning, content = splitter.push(message["content"])
    reasoning += splitter.flush()
    return {**message, "content": content or (None if reasoning else ""), **both_names(reasoning)}


def both_names(reasoning: str) -> Json:
    """Reasoning is `reasoning` to some clients and `reasoning_content` to others; none has no name."""
    return {"reasoning": reasoning, "reasoning_content": reasoning} if reasoning else {}
