"""What the info route says of the target, as an edge reads it."""

from __future__ import annotations

import msgspec

from edge_agent.testing import fake_welcome
from edge_agent.verifier.cache import decode_info
from openai_gateway.routing import sampling_used
from pipesd_vllm.api.model_info import build_info
from pipesd_vllm.wire import fingerprint


def test_default_sampling_reaches_the_gateway() -> None:
    """What `generation_config` sets is told of an answer that leaves it out; what the request sets wins."""
    welcome = fake_welcome(fingerprint(["a", "b"]))
    told = build_info(welcome, sampling_defaults={"temperature": 0.6, "top_k": 20, "max_tokens": 9})
    target = decode_info(msgspec.json.encode(told)).target()
    used = sampling_used({"top_k": 3}, target)
    assert (used["temperature"], used["top_k"], used["top_p"]) == (0.6, 3, 1.0)
    older = {name: value for name, value in told.items() if name != "sampling_defaults"}
    assert sampling_used({}, decode_info(msgspec.json.encode(older)).target())["temperature"] == 1.0
