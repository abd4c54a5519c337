from __future__ import annotations

import pytest

from openai_gateway.http.paths import repaired


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("//v1//chat/completions", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/api/chat", "/api/chat"),
        ("/api/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions ", "/v1/chat/completions"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/models", "/v1/models"),
        ("/messages/count_tokens", "/v1/messages/count_tokens"),
        ("/api/tags/", "/api/tags"),
        ("/", "/"),
        ("", "/"),
        ("//", "/"),
        ("/v1/models/org/name", "/v1/models/org/name"),
        ("/v1/models/v1/api/x", "/v1/models/v1/api/x"),
        ("/completions", "/completions"),
        ("/v1", "/v1"),
    ],
)
def test_paths_as_they_are_meant(path: str, meant: str) -> None:
    """Odd endings, doubled roots and left out ones; everything else stays as it is."""
    assert repaired(path) == meant
