from __future__ import annotations

import pytest

from openai_gateway.errors import ApiError
from openai_gateway.translation.ollama.catalog import Catalog, Model


async def as_it_is(name: str) -> str:
    return name


CATALOG = Catalog(
    [Model("org/target", 4096, "{% if tools %}<think>{% endif %}"), Model("plain", 64)], 0.0, as_it_is
)


def test_lists() -> None:
    """Tags and running models have the fields that clients read, digests included."""
    [entry, other] = CATALOG.tags()["models"]
    assert entry["name"] == entry["model"] == "org/target"
    assert len(entry["digest"]) == 64
    assert entry["digest"] != other["digest"]
    assert entry["modified_at"] == "1970-01-01T00:00:00Z"
    assert CATALOG.running()["models"][1]["context_length"] == 64


async def test_show_finds_context_length_and_capabilities() -> None:
    """Clients find the context by the architecture's name, and what the template can say; tags are cut."""
    shown = await CATALOG.show("org/target")
    architecture = shown["model_info"]["general.architecture"]
    assert shown["model_info"][f"{architecture}.context_length"] == 4096
    assert shown["capabilities"] == ["completion", "tools", "thinking"]
    assert (await CATALOG.show("plain"))["capabilities"] == ["completion"]


@pytest.mark.parametrize("name", ["nobody", None])
async def test_an_unknown_model_is_a_404(name: str | None) -> None:
    """The error is in Ollama's words."""
    with pytest.raises(ApiError, match="not found") as caught:
        await CATALOG.show(name)
    assert caught.value.status == 404
