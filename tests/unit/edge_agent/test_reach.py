import asyncio

import pytest

from edge_agent.errors import CloudUnreachable
from edge_agent.fake_transport import FakeTransport, fake_welcome
from edge_agent.reach import ImpatientConnector
from pipesd_vllm.protocol import fingerprint

from .conftest import VOCABULARY, target_next


class Moody:
    """A connector that fails, hangs or works, as told."""

    def __init__(self) -> None:
        self.mood = "works"

    async def connect(self) -> FakeTransport:
        if self.mood == "hangs":
            await asyncio.Event().wait()
        if self.mood == "fails":
            raise CloudUnreachable("refused")
        return FakeTransport(target_next, fake_welcome(fingerprint(VOCABULARY)))


async def test_patience_ends_with_the_first_failure() -> None:
    """After a failure an attempt that hangs is given up; once one has worked, it is not."""
    moody = Moody()
    connector = ImpatientConnector(moody, retry_timeout_s=0.01)
    moody.mood = "fails"
    with pytest.raises(CloudUnreachable, match="refused"):
        await connector.connect()
    moody.mood = "hangs"
    with pytest.raises(CloudUnreachable, match="still"):
        await connector.connect()
    moody.mood = "works"
    assert (await connector.connect()).is_open
    moody.mood = "hangs"
    waiting = asyncio.create_task(connector.connect())
    done, _ = await asyncio.wait({waiting}, timeout=0.1)
    assert not done
    waiting.cancel()
