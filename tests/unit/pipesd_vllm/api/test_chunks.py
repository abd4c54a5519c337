"""What vLLM is handed of a turn."""

from pipesd_vllm.api.turn import later_chunk, opening_chunk
from pipesd_vllm.scheduling import AddDrafts, OpenSession, Suspend, unpack_command
from pipesd_vllm.wire import Mode, Open, Sampling


def test_the_first_chunk_is_the_whole_sequence_with_the_tenants_salt() -> None:
    """vLLM hashes the salt into the KV blocks; tokens brought along count as generated."""
    chunk = opening_chunk(Open(1, [1, 2, 3], Sampling(9), Mode.LATENCY, committed=[4]), "salt")
    assert chunk.prompt == {"type": "token", "prompt_token_ids": [1, 2, 3, 4], "cache_salt": "salt"}
    assert chunk.sampling_params.max_tokens == 8
    assert unpack_command(chunk.sampling_params.extra_args) == OpenSession(eager=True, num_committed=1)


def test_later_chunks_carry_commands() -> None:
    """With their drafts; one without drafts has a token all the same, as vLLM wants it."""
    drafts = AddDrafts(1, 4, 0, True, None)
    assert later_chunk(drafts, [5, 6]).prompt["prompt_token_ids"] == [5, 6]
    assert unpack_command(later_chunk(drafts, [5, 6]).sampling_params.extra_args) == drafts
    assert len(later_chunk(Suspend()).prompt["prompt_token_ids"]) == 1
