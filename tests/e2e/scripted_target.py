"""A server whose target says what a script tells it, in real time on a real port: for tools and their users.

vLLM's app with its parsers, `AsyncLLM` and our scheduler are real, and so is what verifies drafts. The model
is the simulator's, with the tokenizer of a real one: passes and accepted drafts are those of a target with
this text. Only how long a step takes is made up.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import uvicorn
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from benchmarks.sim.engine import BLOCK_SIZE, SimEngine
from benchmarks.sim.log import EventLog
from benchmarks.sim.models import KnownTarget
from benchmarks.sim.plan import ServerPlan, StepCost
from openai_gateway.cli.processes import free_port
from pipesd_vllm import compat
from pipesd_vllm.api.endpoint import PluginState, router
from pipesd_vllm.api.metrics import ServerMetrics
from pipesd_vllm.api.model_info import build_welcome
from pipesd_vllm.api.session_engine import SessionEngine
from pipesd_vllm.settings import ServerSettings
from tests.integration.scripted_server import connectable
from tests.servers import QuietServer

__all__ = ["TOOL_SAID", "ScriptedTarget", "scripted_server"]

TOOL_SAID: Final = "<|im_start|>tool"
"""What stands in a prompt before each tool's result."""
_TEMPLATE: Final = """\
{%- if tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}

{% endif %}# Tools
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}Call one with <tool_call>
{"name": ..., "arguments": ...}
</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}{% if not (tools and loop.first and message.role == 'system') -%}
<|im_start|>{{ message.role }}
{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endif %}{% endfor %}<|im_start|>assistant

"""
_CONTEXT: Final = 65_536
_PLAN: Final = ServerPlan(
    target="scripted",
    step=StepCost(base_s=0.02, token_s=0.00005),
    num_blocks=4 * _CONTEXT // BLOCK_SIZE,
    max_num_seqs=8,
    max_draft=48,
    ipc_s=0.0,
)


class ScriptedTarget(KnownTarget):
    """Says `says(prompt)` after a prompt, as text, and then ends."""

    def __init__(self, tokenizer: Any, says: Callable[[str], str]) -> None:
        super().__init__("scripted")
        self._tokenizer = tokenizer
        self._says = says

    def begin(self, prompt: Sequence[int]) -> None:
        answer = self._says(self._tokenizer.decode(list(prompt)))
        tokens = [*self._tokenizer.encode(answer, add_special_tokens=False), self._tokenizer.eos_token_id]
        total = self.salt
        for position, token in enumerate([*prompt, *tokens]):
            if position >= len(prompt):
                self.script.tokens[total] = token
            total = (total + self.entry(total, token, position)) % 2**64

    def logits(self, total: int, token: int) -> NDArray[np.float32]:
        logits = np.zeros(len(self._tokenizer), dtype=np.float32)
        logits[self.greedy(total, token)] = 100.0
        return logits


@asynccontextmanager
async def scripted_server(
    model: Path, folder: Path, says: Callable[[str], str], *flags: str
) -> AsyncIterator[str]:
    """A server with the tokenizer of `model`, gives its address. `folder` is its own, empty.

    `flags` are vLLM's. One in a process.
    """
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app

    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
    ):
        if (model / name).exists():
            shutil.copyfile(model / name, folder / name)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config["max_position_embeddings"] = _CONTEXT
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "template.jinja").write_text(_TEMPLATE, encoding="utf-8")
    argv = ["--model", str(folder), "--served-model-name", "scripted"]
    argv += ["--chat-template", str(folder / "template.jinja"), *flags]
    args = compat.make_arg_parser().parse_args(argv)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    engine = SimEngine(_PLAN, ScriptedTarget(tokenizer, says), EventLog(lambda: 0.0), folder)
    compat.allow_min_p_and_logit_bias(engine)
    app = build_app(args, ("generate",))
    app.include_router(router)
    await init_app_state(engine, app.state, args, ("generate",))
    metrics = ServerMetrics(CollectorRegistry())
    welcome = build_welcome(engine, args)
    app.state.pipesd = PluginState(engine, args, ServerSettings(), metrics, welcome, b"scripted" * 4)
    compat.put_under_handlers(app.state, SessionEngine(engine))
    port = free_port("127.0.0.1")
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", lifespan="off")
    server = QuietServer(config)
    serving = asyncio.create_task(server.serve())
    try:
        await connectable(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await serving
        engine.stop()
