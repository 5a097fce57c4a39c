"""A model of two layers and adapters for it, in the formats of the Hugging Face hub: nothing is downloaded.

The model has no weights: vLLM makes them up (``--load-format dummy``), the same ones every time. Its tokens are the
256 bytes and two marks.
"""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

__all__ = ["MAX_MODEL_LEN", "write_adapter", "write_model"]

MAX_MODEL_LEN = 512
_HIDDEN, _HEADS, _LAYERS = 64, 2, 2
_BEGIN, _END = 256, 257
_TARGETS = ("q_proj", "v_proj", "o_proj")


def write_model(folder: Path) -> None:
    """Configuration and tokenizer of a Llama."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": _HIDDEN,
        "intermediate_size": 2 * _HIDDEN,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _HEADS,
        "head_dim": _HIDDEN // _HEADS,
        "vocab_size": _END + 1,
        "max_position_embeddings": MAX_MODEL_LEN,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "hidden_act": "silu",
        "bos_token_id": _BEGIN,
        "eos_token_id": _END,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "model_max_length": MAX_MODEL_LEN,
        "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
    }
    for name, content in (
        ("config", config),
        ("tokenizer", _tokenizer()),
        ("tokenizer_config", settings),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content), "utf-8")


def _tokenizer() -> dict[str, object]:
    """Byte-level BPE without merges: the characters that stand for bytes are those of GPT-2's tokenizer."""
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [0x100 + n for n in range(256 - len(shown))]
    vocabulary = {chr(code): index for index, code in enumerate(shown + others)}
    bytes_to_text = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    marks = [
        {"id": number, "content": text, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for number, text in ((_BEGIN, "<s>"), (_END, "</s>"))
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": marks,
        "normalizer": None,
        "pre_tokenizer": bytes_to_text,
        "post_processor": None,
        "decoder": bytes_to_text,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary | {"<s>": _BEGIN, "</s>": _END},
            "merges": [],
        },
    }


def write_adapter(folder: Path, *, rank: int, seed: int) -> None:
    """A LoRA adapter (PEFT) with random weights; large ones, so that it answers otherwise than the base."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(_TARGETS),
        "base_model_name_or_path": "random",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    values, head, data = random.Random(seed), dict[str, object](), bytearray()
    for layer in range(_LAYERS):
        for target in _TARGETS:
            for part, shape in (("A", (rank, _HIDDEN)), ("B", (_HIDDEN, rank))):
                begin, count = len(data), rank * _HIDDEN
                data += struct.pack(f"<{count}f", *(values.gauss(0.0, 1.0) for _ in range(count)))
                name = f"base_model.model.model.layers.{layer}.self_attn.{target}.lora_{part}.weight"
                head[name] = {"dtype": "F32", "shape": shape, "data_offsets": (begin, len(data))}
    # safetensors: the length of the head (eight bytes, little endian), the head as JSON, the values.
    text = json.dumps(head).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
