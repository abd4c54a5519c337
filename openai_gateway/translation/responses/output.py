"""The parts of a response object: what the request decides, and the answer's blocks as output items. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from openai_gateway.chat_service import Json
from openai_gateway.translation.answer import Block, BlockKind
from openai_gateway.translation.responses.schema import ResponsesRequest
from openai_gateway.translation.responses.tools import ToolTable, custom_input

__all__ = [
    "conversation_after",
    "item",
    "item_prefix",
    "skeleton",
    "text_part",
]


def skeleton(request: ResponsesRequest, tools: ToolTable, response_id: str, created_s: int) -> Json:
    """The fields of a response object that the request decides.

    Tools are listed as the client sent them, except those that `tools` left out.
    """
    text = request.text
    offered = [tool for tool in request.tools or () if tool.get("type") not in tools.left_out]
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_s,
        "model": request.model or "default",
        "background": False,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "reasoning": _reasoning(request),
        "service_tier": "default",
        "store": request.store is not False,
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "text": {
            "format": (text and text.format) or {"type": "text"},
            "verbosity": (text and text.verbosity) or "medium",
        },
        "tool_choice": request.tool_choice or "auto",
        "tools": offered,
        "top_logprobs": 0,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "truncation": "disabled",
        "user": request.user,
    }


def _reasoning(request: ResponsesRequest) -> Json:
    return {"effort": request.reasoning and request.reasoning.effort, "summary": None}


def item_prefix(block: Block, tools: ToolTable) -> str:
    """How the ids of items of this kind begin."""
    match block.kind:
        case BlockKind.REASONING:
            return "rs_"
        case BlockKind.TEXT:
            return "msg_"
        case BlockKind.TOOL_CALL:
            return "ctc_" if tools.resolve(block.name).is_custom else "fc_"


def item(block: Block, item_id: str, tools: ToolTable, status: str) -> Json:
    """The output item for `block` so far. `status` is "in_progress", "completed" or "incomplete"."""
    is_new = status == "in_progress"
    match block.kind:
        case BlockKind.REASONING:
            content = [] if is_new else [text_part(block)]
            return {
                "type": "reasoning",
                "id": item_id,
                "summary": [],
                "content": content,
                "encrypted_content": None,
                "status": status,
            }
        case BlockKind.TEXT:
            content = [] if is_new else [text_part(block)]
            return {
                "type": "message",
                "id": item_id,
                "role": "assistant",
                "content": content,
                "status": status,
            }
        case BlockKind.TOOL_CALL:
            return _call(block, item_id, tools, status)


def text_part(block: Block, text: str | None = None) -> Json:
    """The only part of a message or of thoughts, with `text` in place of the block's own if given."""
    shown = block.text if text is None else text
    if block.kind is BlockKind.REASONING:
        return {"type": "reasoning_text", "text": shown}
    return {"type": "output_text", "text": shown, "annotations": [], "logprobs": []}


def conversation_after(conversation: Sequence[Json], blocks: Sequence[Block]) -> list[Json]:
    """The chat messages including this answer, for a request that continues them."""
    by_kind = {kind: [block for block in blocks if block.kind is kind] for kind in BlockKind}
    message: Json = {
        "role": "assistant",
        "content": "".join(block.text for block in by_kind[BlockKind.TEXT]) or None,
    }
    if thoughts := "".join(block.text for block in by_kind[BlockKind.REASONING]):
        message["reasoning"] = thoughts
    if calls := by_kind[BlockKind.TOOL_CALL]:
        message["tool_calls"] = [_chat_call(block) for block in calls]
    elif message["content"] is None:
        message["content"] = ""
    return [*conversation, message]


def _call(block: Block, item_id: str, tools: ToolTable, status: str) -> Json:
    tool = tools.resolve(block.name)
    namespace = {} if tool.namespace is None else {"namespace": tool.namespace}
    common = {"id": item_id, "call_id": block.call_id, "name": tool.name, **namespace, "status": status}
    if tool.is_custom:
        return {
            "type": "custom_tool_call",
            "input": custom_input(block.text) if block.text else "",
            **common,
        }
    return {"type": "function_call", "arguments": block.text, **common}


def _chat_call(block: Block) -> Json:
    function = {"name": block.name, "arguments": block.text}
    return {"id": block.call_id, "type": "function", "function": function}
