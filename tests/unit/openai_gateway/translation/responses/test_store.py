from __future__ import annotations

import pytest

from openai_gateway.errors import ApiError
from openai_gateway.translation.responses.store import ResponseStore, StoredResponse


def stored(name: str, text: str = "") -> StoredResponse:
    return StoredResponse({"id": name}, [{"role": "user", "content": text}])


def test_the_least_recently_used_goes_first() -> None:
    """Reading a response keeps it; the bound on their number drops the others."""
    store = ResponseStore(max_responses=2)
    store.put(stored("a"))
    store.put(stored("b"))
    store.get("a")
    store.put(stored("c"))
    assert store.get("a") == stored("a")
    with pytest.raises(ApiError) as caught:
        store.get("b")
    assert caught.value.status == 404


def test_size_is_bounded_too() -> None:
    """Long conversations push older ones out, and deleting gives room back."""
    store = ResponseStore(max_bytes=400)
    store.put(stored("a", "x" * 200))
    store.delete("a")
    store.put(stored("b", "x" * 200))
    store.put(stored("c"))
    assert store.get("b")
    store.put(stored("d", "x" * 200))
    with pytest.raises(ApiError):
        store.get("b")


def test_a_previous_response_that_is_gone_is_a_typed_error() -> None:
    """The error is OpenAI's own for that, with its code and parameter."""
    with pytest.raises(ApiError) as caught:
        ResponseStore().previous("resp_x")
    error = caught.value
    assert (error.status, error.code) == (400, "previous_response_not_found")
    assert error.param == "previous_response_id"
