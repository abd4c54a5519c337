from __future__ import annotations

from typing import Any

import pytest

from openai_gateway.routing.parameters import PARAMETERS, Support
from openai_gateway.target.seeds import SEED_KEY, cloud_seed, with_seed
from pipesd_vllm.worker import sampling_rule


def seed_of(body: dict[str, Any], *causes: str) -> int | None:
    return cloud_seed(body, causes, lambda num_bits: num_bits)


@pytest.mark.parametrize(
    ("body", "seed"),
    [({}, 53), ({"temperature": 0.7, "seed": 7}, 7), ({"seed": 0}, 0), ({"temperature": 0, "seed": 7}, None)],
)
def test_the_clients_seed_or_a_drawn_one(body: dict[str, Any], seed: int | None) -> None:
    """What is sampled has a seed: the client's, or 53 bits that are drawn."""
    assert seed_of(body) == seed


@pytest.mark.parametrize("cause", ["n", "prompt", "vllm_xargs", "use_beam_search", "thinking_token_budget"])
def test_what_only_the_servers_own_sampler_can_do(cause: str) -> None:
    """Several answers, the client's own extensions and other ways to pick tokens are left as they are."""
    assert seed_of({"seed": 7}, "tools", cause) is None
    assert seed_of({"seed": 7}, "tools") == 7


def test_the_key_is_the_servers() -> None:
    """The request names the seed as the server's plugin reads it, in a field that is passed on."""
    assert SEED_KEY == sampling_rule.SEED_KEY
    assert with_seed(5, {"n": 1}) == {"n": 1, "vllm_xargs": {"pipesd_seed": 5}}
    assert PARAMETERS["vllm_xargs"].support is Support.CLOUD
    assert with_seed(None, {"n": 1}) == {"n": 1}
