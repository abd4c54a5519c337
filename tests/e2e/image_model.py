"""A target that takes images, small and random: BLIP-2's layers, weights drawn here, a tokenizer of bytes.

What it writes means nothing, and is another text for another image. Of vLLM's models that take images most
need torchvision, which has no build beside this torch; this one does not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

__all__ = ["NAME", "make_image_model"]

NAME: Final = "images"
"""What the server calls it."""
_MARKS: Final = ("<|im_start|>", "<|im_end|>", "<image>")
_TEMPLATE: Final = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
_IMAGE_SIZE: Final = 56
_PATCH_SIZE: Final = 14
_IMAGE_TOKENS: Final = 16


def make_image_model(folder: Path) -> None:
    """Write its files into `folder`. An image is `_IMAGE_TOKENS` tokens in front of the prompt."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        BlipImageProcessorPil,
        PreTrainedTokenizerFast,
    )

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({byte: token_id for token_id, byte in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_tokens([AddedToken(mark, special=True) for mark in _MARKS])
    end, image = (len(alphabet) + _MARKS.index(mark) for mark in ("<|im_end|>", "<image>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|im_end|>", chat_template=_TEMPLATE
    )
    size = {"height": _IMAGE_SIZE, "width": _IMAGE_SIZE}
    Blip2Processor(BlipImageProcessorPil(size=size), tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    layers = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Blip2Config(
        text_config=layers
        | {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "num_key_value_heads": 2,
            "vocab_size": len(alphabet) + len(_MARKS),
            "max_position_embeddings": 4096,
            "eos_token_id": end,
            "bos_token_id": end,
        },
        vision_config=layers | {"image_size": _IMAGE_SIZE, "patch_size": _PATCH_SIZE},
        qformer_config=layers | {"encoder_hidden_size": 64, "cross_attention_frequency": 1},
        num_query_tokens=_IMAGE_TOKENS,
        image_token_index=image,
    )
    torch.manual_seed(0)
    model = Blip2ForConditionalGeneration(config).float()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:  # far from each other, so that no two tokens are as likely
                weight.normal_(0.0, 0.6 if "lm_head" in name or "embed_tokens" in name else 0.15)
    model.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end}), encoding="utf-8")
