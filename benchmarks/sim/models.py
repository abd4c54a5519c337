"""Targets and drafts with known text: the next token is a function of the prefix, as it stands in a KV cache.

Position p has a KV entry `c(p) = mix(s(p - 1) + A token(p) + B p)` modulo 2^64, and `s(p)` is the target's
salt and the sum of the entries 0 to p: a token depends on every entry before it, as in attention. So a stale
or misplaced entry anywhere changes the text. `mix` is SplitMix64's finaliser (Steele, Lea, Flood 2014).

The tokenizer is a byte-level BPE of 1,024 tokens made here: any text can be encoded, ids 0 to 9 are special,
10 to 265 single bytes, the others pairs and triples of letters.

A target named `recorded_name(pair)` says what a real one said after the prompts of `replayed(pair)`, and its
draft what the real draft did (`benchmarks.sim.agreements`); after anything else it is like the others.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from benchmarks.sim.agreements import RecordedAnswer, Said, read_pair
from edge_agent.api import Sampling, TokenizerBundle
from edge_agent.sampling import DraftToken, SampledPicker, TokenPicker
from edge_agent.sampling.adjustment import adjusts_logits
from pipesd_vllm.wire import Fingerprint, common_prefix_length, fingerprint

__all__ = [
    "CHAT_TEMPLATE",
    "EOS_ID",
    "HABITUAL",
    "VOCAB_SIZE",
    "KnownDraft",
    "KnownTarget",
    "Prefix",
    "ReplayedAnswer",
    "bundle",
    "picker_of",
    "recorded_name",
    "reference",
    "replayed",
    "target_files",
    "target_fingerprint",
    "tokenizer",
    "vocabulary",
]

VOCAB_SIZE: Final = 1024
EOS_ID: Final = 0
_NUM_SPECIAL: Final = 10
_NUM_BYTES: Final = 256
_FIRST_WORD: Final = _NUM_SPECIAL + _NUM_BYTES
_NUM_WORDS: Final = VOCAB_SIZE - _FIRST_WORD
_MASK: Final = 2**64 - 1
_TOKEN: Final = 0x9E3779B97F4A7C15
_POSITION: Final = 0xD1B54A32D192ED03
_MIX_1: Final = 0xBF58476D1CE4E5B9
_MIX_2: Final = 0x94D049BB133111EB
_EOS_ONE_IN: Final = 256
_LETTER_ONE_IN: Final = 32
_LEAD_BYTE: Final = 0xC3
"""First byte of two-byte letters: a detokenizer has to wait for the second."""
_LEAD_ID: Final = _NUM_SPECIAL + _LEAD_BYTE
_NUM_QUANTILES: Final = 1024
_RECORDED: Final = "recorded:"
HABITUAL: Final = "habitual"
"""A target that repeats itself: mostly a token depends on the one before it only."""
_SURPRISE_ONE_IN: Final = 12
_NUM_HABITS: Final = 40
"""Words that follow out of habit."""

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def _entry(total: int, token: int, position: int) -> int:
    return _mix((total + token * _TOKEN + position * _POSITION) & _MASK)


def _total_after(total: int, token: int, position: int) -> int:
    return (total + _entry(total, token, position)) & _MASK


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * _MIX_1) & _MASK
    z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
    return z ^ (z >> 31)


# -- tokenizer ----------------------------------------------------------------------------


@cache
def tokenizer() -> Tokenizer:
    """The tokenizer of all targets and drafts."""
    letters = [*map(chr, range(ord("a"), ord("z") + 1))]
    specials = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    specials += [f"<|reserved_{i}|>" for i in range(_NUM_SPECIAL - len(specials))]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), key=_byte_order)
    merges = [("Ġ", letter) for letter in letters] + [(a, b) for a in letters for b in letters]
    merges += [("Ġ" + a, b) for a in "aeiost" for b in letters][: _NUM_WORDS - len(merges)]
    tokens = [*specials, *alphabet, *(a + b for a, b in merges)]
    vocab = {token: i for i, token in enumerate(tokens)}
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(special, special=True, normalized=False) for special in specials])
    return made


def _byte_order(character: str) -> int:
    """The byte that stands behind a character of the byte-level alphabet."""
    return next(byte for byte, each in _byte_characters().items() if each == character)


@cache
def _byte_characters() -> dict[int, str]:
    """GPT-2's table: printable bytes stand for themselves, the others for characters from 256 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return {byte: chr(byte) if byte in printable else chr(next(others)) for byte in range(256)}


@cache
def vocabulary() -> tuple[str, ...]:
    """Token strings in id order."""
    made = tokenizer()
    return tuple(made.id_to_token(i) or "" for i in range(VOCAB_SIZE))


@cache
def target_fingerprint() -> Fingerprint:
    """Of the whole vocabulary."""
    return fingerprint(vocabulary())


@cache
def bundle() -> TokenizerBundle:
    """The tokenizer as an edge gets it."""
    return TokenizerBundle(
        tokenizer_json=tokenizer().to_str(),
        chat_template=CHAT_TEMPLATE,
        special_tokens={"eos_token": "<|end|>"},
        eos_token_ids=(EOS_ID,),
        content_format="string",
    )


# -- target -------------------------------------------------------------------------------


class KnownTarget:
    """A target model by `name`; the text of another name is another one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.salt = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
        self.script = _script(name, self.salt) if name.startswith(_RECORDED) else _Script()

    def begin(self, prompt: Sequence[int]) -> None:
        """A request for what follows `prompt` has come: a target by a script learns what to say."""

    def entry(self, total: int, token: int, position: int) -> int:
        """The KV entry of `token`, computed over entries whose sum with the salt is `total`."""
        return _entry(total, token, position)

    def greedy(self, total: int, token: int) -> int:
        """The most likely token after `token`, whose own entry is in `total`."""
        if (scripted := self.script.tokens.get(total)) is not None:
            return scripted
        z = _mix(total ^ _TOKEN)
        if self.name == HABITUAL and token != _LEAD_ID and z % _SURPRISE_ONE_IN:
            return _FIRST_WORD + _mix(self.salt ^ token) % _NUM_HABITS
        if token == _LEAD_ID:
            return _NUM_SPECIAL + 0x80 + z % 64
        if not z % _EOS_ONE_IN:
            return EOS_ID
        if not (z >> 16) % _LETTER_ONE_IN:
            return _LEAD_ID
        return _FIRST_WORD + (z >> 24) % _NUM_WORDS

    def logits(self, total: int, token: int) -> NDArray[np.float32]:
        """`[VOCAB_SIZE]`; the argmax is `greedy`, a few others come close."""
        logits = _noise(total) * np.float32(6.0)
        logits[1:_NUM_SPECIAL] = -30.0
        logits[self.greedy(total, token)] = 7.0
        return logits


def _noise(state: int) -> NDArray[np.float32]:
    """Uniform in [0, 1), `[VOCAB_SIZE]`; unsigned integers of NumPy wrap around."""
    z = np.arange(1, VOCAB_SIZE + 1, dtype=np.uint64) * np.uint64(_TOKEN)
    z += np.uint64(state)
    z ^= z >> np.uint64(30)
    z *= np.uint64(_MIX_1)
    z ^= z >> np.uint64(27)
    z *= np.uint64(_MIX_2)
    uniform: NDArray[np.float32] = (z >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    return uniform


class Prefix:
    """Sums over the KV entries of a sequence that grows or rewinds, without a cache of blocks."""

    def __init__(self, target: KnownTarget) -> None:
        self._tokens: list[int] = []
        self._totals: list[int] = [target.salt]

    def total(self, tokens: Sequence[int]) -> int:
        """The salt and the sum of the entries of `tokens`."""
        known, totals = self._tokens, self._totals
        keep = len(known)
        if len(tokens) < keep or list(tokens[:keep]) != known:
            keep = common_prefix_length(known, tokens)
            del known[keep:], totals[keep + 1 :]
        for position in range(keep, len(tokens)):
            totals.append(_total_after(totals[-1], tokens[position], position))
            known.append(tokens[position])
        return totals[-1]


def picker_of(sampling: Sampling, prompt_length: int) -> TokenPicker | None:
    """Picks from the target's logits what its sampler would; None: the most likely token, no logits needed.

    The edge's own picker: on the target's logits, with the seed's noise, it is the target's sampler.
    """
    if sampling.temperature == 0 and not adjusts_logits(sampling):
        return None
    return SampledPicker(sampling, prompt_length, (EOS_ID,))


def reference(target: str, prompt: Sequence[int], sampling: Sampling) -> list[int]:
    """The answer of the target named `target` alone: what every verified token must equal.

    `sampling.structure` and `bad_words` are not followed: see `benchmarks.sim.world.answer_alone`.
    """
    model = KnownTarget(target)
    prefix, picker = Prefix(model), picker_of(sampling, len(prompt))
    tokens = list(prompt)
    stops = set(sampling.stop_token_ids) | (set() if sampling.ignore_eos else {EOS_ID})
    for num in range(1, sampling.max_tokens + 1):
        total = prefix.total(tokens)
        if picker is None:
            token = model.greedy(total, tokens[-1])
        else:
            token = picker.pick(model.logits(total, tokens[-1]), tokens).token_id
        tokens.append(token)
        if token in stops and num >= sampling.min_tokens:
            break
    return tokens[len(prompt) :]


# -- replay of recorded answers -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReplayedAnswer:
    """A recorded answer in the simulated vocabulary. No prompt is like another one."""

    name: str
    category: str
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    drafts: tuple[DraftToken, ...]
    """By position of the answer."""
    detours: dict[int, tuple[DraftToken, ...]]
    """By position of a wrong draft: what the draft goes on with after it."""
    constructed: bool = False
    """Written by hand: no target said it."""


@dataclass(frozen=True, slots=True)
class _Script:
    """What a recorded target and its draft say, by the sum of the salt and the entries before."""

    tokens: dict[int, int] = field(default_factory=dict)
    drafts: dict[int, DraftToken] = field(default_factory=dict)


def recorded_name(pair: str) -> str:
    """Name of the target that replays the recorded pair `pair`."""
    return _RECORDED + pair


@cache
def replayed(pair: str) -> tuple[ReplayedAnswer, ...]:
    """The answers of a recorded pair, in its order. Raises `CliError`."""
    return tuple(_replayed(number, answer) for number, answer in enumerate(read_pair(pair).answers))


def _replayed(number: int, answer: RecordedAnswer) -> ReplayedAnswer:
    """Ids become words in the order in which they first come, so that what repeats itself still does.

    More ids than there are words share them, but a draft stays as right or wrong as it was.
    """
    words: dict[int, int] = {}

    def word(token_id: int) -> int:
        return _FIRST_WORD + (words.setdefault(token_id, len(words)) + number) % _NUM_WORDS

    def draft(said: Said, right: int | None) -> DraftToken:
        made = word(said.token_id)
        if right is not None and (said.token_id == right) != (made == word(right)):
            made = _FIRST_WORD + (made - _FIRST_WORD + 1) % _NUM_WORDS
        return DraftToken(made, said.probability)

    return ReplayedAnswer(
        name=answer.name,
        category=answer.category,
        prompt=(_FIRST_WORD + number % _NUM_WORDS, *map(word, answer.prompt)),
        tokens=tuple(map(word, answer.tokens)),
        drafts=tuple(draft(*each) for each in zip(answer.picks, answer.tokens, strict=True)),
        detours={at: tuple(draft(said, None) for said in after) for at, after in answer.detours.items()},
        constructed=answer.constructed,
    )


@cache
def _script(name: str, salt: int) -> _Script:
    script = _Script()
    for answer in replayed(name.removeprefix(_RECORDED)):
        total = salt
        for position, token in enumerate(answer.prompt):
            total = _total_after(total, token, position)
        start = len(answer.prompt)
        for number, (token, draft) in enumerate(zip(answer.tokens, answer.drafts, strict=True)):
            script.tokens[total], script.drafts[total] = token, draft
            aside, last = total, draft.token_id
            for ahead, following in enumerate(answer.detours.get(number, ())):
                aside = _total_after(aside, last, start + number + ahead)
                script.drafts[aside], last = following, following.token_id
            total = _total_after(total, token, start + number)
    return script


# -- draft --------------------------------------------------------------------------------


class KnownDraft:
    """Drafts the greedy token of `target` at position p with a probability c(p), which it also says.

    c(p) is drawn from a Beta distribution with mean `agreement` and the concentration `confidence`; `seed`,
    the position and the first token of the sequence decide.
    """

    def __init__(self, target: str, seed: int, agreement: float, confidence: float = 2.0) -> None:
        self._target = KnownTarget(target)
        self._prefixes: dict[int, Prefix] = {}
        self._seed = seed
        self._quantiles = _beta_quantiles(agreement, confidence) if agreement < 1 else (1.0,) * _NUM_QUANTILES

    def token(self, sequence: int, tokens: Sequence[int]) -> DraftToken:
        """The draft after `tokens` of the sequence number `sequence`, greedily."""
        total = self._total(sequence, tokens)
        if (scripted := self._target.script.drafts.get(total)) is not None:
            return scripted
        right = self._target.greedy(total, tokens[-1])
        confidence, is_right = self._coin(tokens)
        if is_right:
            return DraftToken(right, confidence)
        shift = 1 + (len(tokens) * 31) % (_NUM_WORDS - 1)
        return DraftToken(_FIRST_WORD + (right - _FIRST_WORD + shift) % _NUM_WORDS, confidence)

    def logits(self, sequence: int, tokens: Sequence[int]) -> NDArray[np.float32]:
        """The target's own where the draft is right, others where it is not."""
        total = self._total(sequence, tokens)
        _, is_right = self._coin(tokens)
        return self._target.logits(total if is_right else _mix(total + 1), tokens[-1])

    def _total(self, sequence: int, tokens: Sequence[int]) -> int:
        if sequence not in self._prefixes:
            self._prefixes[sequence] = Prefix(self._target)
        return self._prefixes[sequence].total(tokens)

    def _coin(self, tokens: Sequence[int]) -> tuple[float, bool]:
        z = _mix((self._seed * _TOKEN + len(tokens) * _POSITION + tokens[0]) & _MASK)
        confidence = self._quantiles[z % _NUM_QUANTILES]
        return confidence, (z >> 11) * 2.0**-53 < confidence


@cache
def _beta_quantiles(agreement: float, confidence: float) -> tuple[float, ...]:
    """Equally likely values of Beta(confidence * agreement, confidence * (1 - agreement)), at least 0.01."""
    rng = random.Random(f"{agreement}/{confidence}")
    per_value = 16
    draws = sorted(
        rng.betavariate(confidence * agreement, confidence * (1 - agreement))
        for _ in range(_NUM_QUANTILES * per_value)
    )
    return tuple(max(0.01, value) for value in draws[per_value // 2 :: per_value])


def target_files() -> dict[str, str]:
    """Files of a model folder that vLLM reads a configuration and a tokenizer from: no weights."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "eos_token_id": EOS_ID,
        "bos_token_id": EOS_ID,
        "torch_dtype": "float32",
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|end|>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    return {
        "config.json": json.dumps(config),
        "tokenizer.json": tokenizer().to_str(),
        "tokenizer_config.json": json.dumps(settings),
        "generation_config.json": json.dumps({"eos_token_id": EOS_ID}),
    }
