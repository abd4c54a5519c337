"""An answer as the Responses API's events, and as the response object they add up to. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from openai_gateway.chat_service import Json
from openai_gateway.errors import ApiError
from openai_gateway.translation.answer import AnswerState, Block, BlockEvent, BlockKind, Closed, Grew, Opened
from openai_gateway.translation.responses.output import item, item_prefix, text_part
from openai_gateway.translation.responses.tools import ToolTable

__all__ = ["ResponsesEncoder"]

_DELTA_EVENTS = {BlockKind.REASONING: "reasoning_text", BlockKind.TEXT: "output_text"}
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class ResponsesEncoder:
    """`skeleton`: the response object's fields that the request decides, its id among them.

    `new_id(prefix)` makes ids of items and calls. `completed` gets the complete response and its blocks
    before the client does, whose next request may come at once.
    """

    def __init__(
        self,
        skeleton: Json,
        tools: ToolTable,
        new_id: Callable[[str], str],
        completed: Callable[[Json, Sequence[Block]], None] = lambda response, blocks: None,
    ) -> None:
        self.state = AnswerState(lambda: new_id("call_"))
        self._skeleton = skeleton
        self._tools = tools
        self._new_id = new_id
        self._completed = completed
        self._item_ids: list[str] = []
        self._sequence_number = 0

    def start(self) -> Iterator[Json]:
        for name in ("created", "in_progress"):
            yield self._event(f"response.{name}", response=self._response("in_progress"))

    def feed(self, chunk: Mapping[str, Any]) -> Iterator[Json]:
        for event in self.state.feed(chunk):
            yield from self._block_event(event)

    def end(self) -> Iterator[Json]:
        for event in self.state.close():
            yield from self._block_event(event)
        response = self.final()
        self._completed(response, self.state.tracker.blocks)
        yield self._event(f"response.{response['status']}", response=response)

    def fail(self, error: ApiError) -> Iterator[Json]:
        response = self._response("failed") | {
            "error": {"code": error.code or "server_error", "message": error.message},
            "output": self._output("incomplete"),
        }
        yield self._event("response.failed", response=response)

    def final(self) -> Json:
        """The response object of a complete answer."""
        reason = _INCOMPLETE.get(self.state.finish_reason)
        status = "completed" if reason is None else "incomplete"
        return self._response(status) | {
            "incomplete_details": reason and {"reason": reason},
            "output": self._output(status),
            "usage": self._usage(),
            **self.state.extension,
        }

    def _response(self, status: str) -> Json:
        return {
            **self._skeleton,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "output": [],
            "usage": None,
        }

    def _output(self, status: str) -> list[Json]:
        """All items; only the last can be cut short."""
        blocks = self.state.tracker.blocks
        return [
            item(block, self._item_id(block), self._tools, status if block is blocks[-1] else "completed")
            for block in blocks
        ]

    def _usage(self) -> Json:
        counts = self.state.counts
        return {
            "input_tokens": counts.num_prompt,
            "input_tokens_details": {"cached_tokens": counts.num_cached, "cache_write_tokens": 0},
            "output_tokens": counts.num_completion,
            "output_tokens_details": {"reasoning_tokens": counts.num_reasoning},
            "total_tokens": counts.num_prompt + counts.num_completion,
        }

    def _block_event(self, event: BlockEvent) -> Iterator[Json]:
        block = event.block
        match event:
            case Opened():
                yield from self._opened(block)
            case Grew(text=text):
                yield from self._grew(block, text)
            case Closed():
                yield from self._closed(block)

    def _opened(self, block: Block) -> Iterator[Json]:
        new = item(block, self._item_id(block), self._tools, "in_progress")
        yield self._event("response.output_item.added", output_index=block.index, item=new)
        if block.kind in _DELTA_EVENTS:
            yield self._part_event("response.content_part.added", block, part=text_part(block, ""))

    def _grew(self, block: Block, text: str) -> Iterator[Json]:
        if (kind := _DELTA_EVENTS.get(block.kind)) is not None:
            more: Json = {"logprobs": []} if block.kind is BlockKind.TEXT else {}
            yield self._part_event(f"response.{kind}.delta", block, delta=text, **more)
        elif not self._is_custom(block):
            yield self._item_event("response.function_call_arguments.delta", block, delta=text)

    def _closed(self, block: Block) -> Iterator[Json]:
        if (kind := _DELTA_EVENTS.get(block.kind)) is not None:
            more: Json = {"logprobs": []} if block.kind is BlockKind.TEXT else {}
            yield self._part_event(f"response.{kind}.done", block, text=block.text, **more)
            yield self._part_event("response.content_part.done", block, part=text_part(block))
        else:
            yield from self._call_closed(block)
        is_cut = self.state.finish_reason in _INCOMPLETE and block is self.state.tracker.blocks[-1]
        done = item(block, self._item_id(block), self._tools, "incomplete" if is_cut else "completed")
        yield self._event("response.output_item.done", output_index=block.index, item=done)

    def _call_closed(self, block: Block) -> Iterator[Json]:
        done = item(block, self._item_id(block), self._tools, "completed")
        if self._is_custom(block):
            # The free text sits inside JSON: it is known when the JSON is whole.
            yield self._item_event("response.custom_tool_call_input.delta", block, delta=done["input"])
            yield self._item_event("response.custom_tool_call_input.done", block, input=done["input"])
        else:
            yield self._item_event(
                "response.function_call_arguments.done", block, arguments=block.text, name=done["name"]
            )

    def _is_custom(self, block: Block) -> bool:
        return self._tools.resolve(block.name).is_custom

    def _item_id(self, block: Block) -> str:
        while len(self._item_ids) <= block.index:
            self._item_ids.append(self._new_id(item_prefix(block, self._tools)))
        return self._item_ids[block.index]

    def _part_event(self, kind: str, block: Block, **fields: Any) -> Json:
        return self._item_event(kind, block, content_index=0, **fields)

    def _item_event(self, kind: str, block: Block, **fields: Any) -> Json:
        return self._event(kind, item_id=self._item_id(block), output_index=block.index, **fields)

    def _event(self, kind: str, **fields: Any) -> Json:
        event = {"type": kind, "sequence_number": self._sequence_number, **fields}
        self._sequence_number += 1
        return event
