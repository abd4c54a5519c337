from __future__ import annotations

import dataclasses

import msgspec
import pytest
from tokenizers import AddedToken, Tokenizer, processors

from edge_agent.api import TokenizerBundle
from openai_gateway.errors import InvalidRequest
from openai_gateway.local import ChatRequest, TargetText, TargetTextCache, parse_request
from openai_gateway.local.text.tokenizer import LONG_PROMPT_CHARACTERS

CHAT = parse_request(ChatRequest, msgspec.json.encode({"messages": [{"role": "user", "content": "hi"}]}))


@pytest.fixture
def bos_bundle(bundle: TokenizerBundle) -> TokenizerBundle:
    """A tokenizer that puts token 0 in front and, left over from training, truncates to 4 tokens."""
    tokenizer = Tokenizer.from_str(bundle.tokenizer_json)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer.enable_truncation(4)
    return dataclasses.replace(bundle, tokenizer_json=tokenizer.to_str())


async def test_special_tokens_only_for_raw_prompts(bos_bundle: TokenizerBundle, tokenizer: Tokenizer) -> None:
    """A raw prompt gets the model's first token; a chat prompt gets none but the template's own."""
    text = TargetText(bos_bundle)
    assert await text.encode_prompt("hi") == (0, *tokenizer.encode("hi").ids)
    chat_ids = await text.encode_chat(CHAT)
    assert chat_ids[0] == tokenizer.token_to_id("<|im_start|>")
    assert tokenizer.decode(list(chat_ids), skip_special_tokens=False) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


async def test_long_prompts_are_whole(bos_bundle: TokenizerBundle, tokenizer: Tokenizer) -> None:
    """A long prompt, tokenised in a thread, has all its tokens, whatever truncation the file asks for."""
    prompt = "hello world " * LONG_PROMPT_CHARACTERS
    assert await TargetText(bos_bundle).encode_prompt(prompt) == (0, *tokenizer.encode(prompt).ids)


async def test_no_template(bundle: TokenizerBundle) -> None:
    """A model without a chat template still takes raw prompts; a chat request says what to do."""
    text = TargetText(dataclasses.replace(bundle, chat_template=None))
    assert await text.encode_prompt("hi")
    with pytest.raises(InvalidRequest, match="/v1/completions"):
        await text.encode_chat(CHAT)


def test_detokenizer_skips_special_tokens_only(bundle: TokenizerBundle) -> None:
    """Added tokens that are not special (a word of the model's) keep their text."""
    tokenizer = Tokenizer.from_str(bundle.tokenizer_json)
    tokenizer.add_tokens([AddedToken("<think>", special=False)])
    text = TargetText(dataclasses.replace(bundle, tokenizer_json=tokenizer.to_str()))
    added = tokenizer.get_vocab()["<think>"]
    assert text.detokenizer(()).push([1, added, 2]) == "<think>"


async def test_cache_loads_once_and_follows_the_target(bundle: TokenizerBundle) -> None:
    """An equal bundle is not loaded again; another target's is."""
    cache = TargetTextCache()
    first = await cache.load(bundle)
    assert await cache.load(dataclasses.replace(bundle)) is first
    assert await cache.load(dataclasses.replace(bundle, chat_template="x")) is not first
