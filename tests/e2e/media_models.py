"""Targets that take images or sound, small and random: weights drawn here, a tokenizer of bytes.

What they write means nothing, and is another text for another image or sound. Of vLLM's models that take
images most need torchvision, which has no build beside this torch; BLIP-2 does not. Sound is Qwen2-Audio's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

__all__ = ["make_image_model", "make_sound_model"]

_END: Final = "<|im_end|>"
_MARKS: Final = ("<|im_start|>", _END, "<image>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
_TEMPLATE: Final = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% endif %}"
    "{% if part.type == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
_LAYERS: Final[dict[str, Any]] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_IMAGE_SIZE: Final = 56
_PATCH_SIZE: Final = 14
_IMAGE_TOKENS: Final = 16
_MEL_BINS: Final = 16


def make_image_model(folder: Path) -> None:
    """Write its files into `folder`. An image is `_IMAGE_TOKENS` tokens in front of the prompt."""
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        BlipImageProcessorPil,
    )

    tokenizer = _tokenizer()
    size = {"height": _IMAGE_SIZE, "width": _IMAGE_SIZE}
    Blip2Processor(BlipImageProcessorPil(size=size), tokenizer).save_pretrained(folder)
    config = Blip2Config(
        text_config=_text_layers(tokenizer, "llama", "LlamaForCausalLM"),
        vision_config=_LAYERS | {"image_size": _IMAGE_SIZE, "patch_size": _PATCH_SIZE},
        qformer_config=_LAYERS | {"encoder_hidden_size": 64, "cross_attention_frequency": 1},
        num_query_tokens=_IMAGE_TOKENS,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    _save(folder, tokenizer, lambda: Blip2ForConditionalGeneration(config))


def make_sound_model(folder: Path) -> None:
    """Write its files into `folder`. A second of sound is 25 tokens, where its part of the message is."""
    from safetensors.torch import load_file, save_file
    from transformers import (
        Qwen2AudioConfig,
        Qwen2AudioEncoderConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2AudioProcessor,
        WhisperFeatureExtractor,
    )

    tokenizer = _tokenizer()
    Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=_MEL_BINS), tokenizer).save_pretrained(folder)
    config = Qwen2AudioConfig(
        text_config=_text_layers(tokenizer, "qwen2", "Qwen2ForCausalLM"),
        audio_config=Qwen2AudioEncoderConfig(
            num_mel_bins=_MEL_BINS,
            d_model=64,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=128,
        ).to_dict(),
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    _save(folder, tokenizer, lambda: Qwen2AudioForConditionalGeneration(config))
    weights = load_file(folder / "model.safetensors")
    # transformers 5.19 nests the text model once more than vLLM and the published checkpoints.
    weights = {name.replace(".model.model.", ".model."): weight for name, weight in weights.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({byte: token_id for token_id, byte in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_tokens([AddedToken(mark, special=True) for mark in _MARKS])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=_END, pad_token=_END, chat_template=_TEMPLATE
    )


def _text_layers(tokenizer: PreTrainedTokenizerFast, model_type: str, architecture: str) -> dict[str, Any]:
    end = tokenizer.convert_tokens_to_ids(_END)
    return _LAYERS | {
        "model_type": model_type,
        "architectures": [architecture],
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 4096,
        "eos_token_id": end,
        "bos_token_id": end,
    }


def _save(folder: Path, tokenizer: PreTrainedTokenizerFast, build: Callable[[], PreTrainedModel]) -> None:
    import torch

    torch.manual_seed(0)
    model = build().float()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:  # far from each other, so that no two tokens are as likely
                weight.normal_(0.0, 0.6 if "lm_head" in name or "embed_tokens" in name else 0.15)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    end = tokenizer.convert_tokens_to_ids(_END)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end}), encoding="utf-8")
