"""Drafts of one answer, on a real drafting thread."""

import asyncio
from collections.abc import Callable

import pytest

from edge_agent.api import GenerationRequest, Sampling
from edge_agent.drafting import DraftThread
from edge_agent.sampling import Pickers
from edge_agent.session.attachment import Attached, AttachmentEvent, DraftAttachment
from edge_agent.session.chain import DraftChain
from edge_agent.testing import FakeDrafter

PROMPT = (5, 17, 42)


@pytest.mark.parametrize("has_arrived", [True, False])
async def test_an_answer_that_ends_before_its_drafts_begin_leaves_their_place(
    make_drafter: Callable[..., FakeDrafter], has_arrived: bool
) -> None:
    """Whether or not the drafts had just begun, unseen: the next answer gets the only place."""
    worker = DraftThread(make_drafter(max_sequences=1))
    for _ in range(3):
        events: asyncio.Queue[AttachmentEvent] = asyncio.Queue()
        drafts = DraftAttachment(DraftChain(PROMPT), worker, Pickers(), events.put_nowait)
        drafts.attach(GenerationRequest("r", PROMPT, Sampling(8)), len(PROMPT), fp64_noise=False)
        if has_arrived:
            assert isinstance((await asyncio.wait_for(events.get(), 20)).event, Attached)
        drafts.detach()
    await asyncio.wait_for(worker.open(PROMPT, len(PROMPT), lambda _: None), 20)
    await worker.close()
