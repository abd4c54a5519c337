"""Commands survive the trip through `extra_args`."""

import msgspec
import pytest

from pipesd_vllm.scheduling import (
    AddDrafts,
    CloseSession,
    Command,
    DecodeAlone,
    OpenSession,
    PassReport,
    SetEager,
    Suspend,
    pack_command,
    unpack_command,
)


@pytest.mark.parametrize(
    "command",
    [
        OpenSession(eager=True, committed=[7, 8]),
        AddDrafts(3, 17, 2, True, [-1, 0]),
        AddDrafts(3, 17, 2, False, None),
        AddDrafts(3, 17, 2, False, None, b"\x00\xff"),
        OpenSession(False, [7], False, {"chat_template_kwargs": {"a": True}}),
        DecodeAlone(40),
        DecodeAlone(),
        SetEager(True),
        Suspend(),
        CloseSession(),
    ],
)
def test_commands_survive_serialisation(command: Command) -> None:
    """Packing, msgpack and unpacking give the same command."""
    crossed = msgspec.msgpack.decode(msgspec.msgpack.encode(pack_command(command)))
    assert unpack_command(crossed) == command


def test_ordinary_requests_have_no_command() -> None:
    """Requests of vLLM's own API are left alone."""
    assert unpack_command(None) is None
    assert unpack_command({"other": 1}) is None


def test_a_client_of_the_plain_api_cannot_send_commands() -> None:
    """Whatever JSON can express under our key is an ordinary request."""
    (key,) = pack_command(Suspend())
    for forged in (["suspend"], ["draft", 1, 2, 3, True, None], "suspend", 7, None):
        assert unpack_command({key: forged}) is None


def test_reports_survive_serialisation() -> None:
    """A report reaches the service as it left the scheduler."""
    report = PassReport(3, 20, 17, 0.5, 23.0, cap=4)
    assert PassReport.unpack(msgspec.msgpack.decode(msgspec.msgpack.encode(report.pack()))) == report
    assert PassReport.unpack(None) is None
