"""What an edge may not send."""

import pytest

from pipesd_vllm.api.validation import CloseConnection, RefuseTurn, check_draft, check_open
from pipesd_vllm.wire import CloseReason, Draft, Fingerprint, Limits, Open, RefusalCode, Sampling, Welcome

WELCOME = Welcome(1, "target", 32, 100, Fingerprint(100, "x"), Limits(1 << 20, 256, 16))


@pytest.mark.parametrize("token", [100, 2**32 - 1])
def test_unknown_token_ids_close_the_connection(token: int) -> None:
    """An id outside the vocabulary never reaches the engine, wherever it stands."""
    for opened in (
        Open(1, [1, token], Sampling(4)),
        Open(1, [1], Sampling(4), committed=[token]),
        Open(1, [1], Sampling(4, stop_token_ids=[token])),
        Open(1, [1], Sampling(4, allowed_token_ids=[token])),
        Open(1, [1], Sampling(4, logit_bias={token: 1.0})),
    ):
        with pytest.raises(CloseConnection, match="bad_token") as caught:
            check_open(opened, WELCOME)
        assert (caught.value.code, caught.value.reason) == (1008, CloseReason.BAD_TOKEN)
    with pytest.raises(CloseConnection, match="bad_token"):
        check_draft(Draft(1, 1, 2, 0, [token]), WELCOME)


@pytest.mark.parametrize(
    ("opened", "code"),
    [
        (Open(1, [], Sampling(4)), RefusalCode.EMPTY_PROMPT),
        (Open(1, [1] * 32, Sampling(4)), RefusalCode.PROMPT_TOO_LONG),
        (Open(1, [1] * 30, Sampling(4), committed=[1, 1]), RefusalCode.PROMPT_TOO_LONG),
        (Open(1, [1], Sampling(2), committed=[1, 1]), RefusalCode.BAD_SAMPLING),
        (Open(1, [1], Sampling(2, temperature=0.5)), RefusalCode.BAD_SAMPLING),
        (Open(1, [1], Sampling(2), patience_ms=60_001), RefusalCode.BAD_SAMPLING),
    ],
)
def test_turns_that_cannot_run_are_refused(opened: Open, code: RefusalCode) -> None:
    """A turn that cannot run is refused by name; the connection goes on."""
    with pytest.raises(RefuseTurn) as caught:
        check_open(opened, WELCOME)
    assert caught.value.code is code


@pytest.mark.parametrize("parents", [[0], [-2], [-1, 1], [-1]])
def test_malformed_parents_close_the_connection(parents: list[int]) -> None:
    """Parents must name earlier nodes, one for each token."""
    with pytest.raises(CloseConnection, match="parents"):
        check_draft(Draft(1, 1, 2, 0, [5, 6], True, parents), WELCOME)


@pytest.mark.parametrize("confidences", [b"1", b"123"])
def test_confidences_of_other_drafts_close_the_connection(confidences: bytes) -> None:
    """One for each draft, or none."""
    with pytest.raises(CloseConnection, match="confidence"):
        check_draft(Draft(1, 1, 2, 0, [5, 6], confidences=confidences), WELCOME)


def test_good_frames_pass() -> None:
    """What the protocol allows is not refused."""
    check_draft(Draft(1, 1, 2, 0, [5, 6], confidences=b"12"), WELCOME)
    check_open(Open(1, [1, 2], Sampling(4), patience_ms=60_000), WELCOME)
    check_draft(Draft(1, 1, 2, 0, [5, 6], True, [-1, 0]), WELCOME)
