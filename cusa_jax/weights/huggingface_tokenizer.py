"""CLIP's tokenizer as Hugging Face's library has it: vocab.json, merges.txt and what says which tokens are special."""

from __future__ import annotations

from pathlib import Path

from cusa_jax.data.tokenize import VOCAB_SIZE, ClipTokenizer
from cusa_jax.files import written_whole
from cusa_jax.jsonfile import write_json
from cusa_jax.models.clip import ClipConfig

_START, _END = "<|startoftext|>", "<|endoftext|>"


def write_tokenizer(folder: Path, sizes: ClipConfig) -> None:
    """Beside a model whose vocabulary is CLIP's; another has a tokenizer that nobody here knows."""
    if sizes.vocab_size != VOCAB_SIZE:
        return
    tokenizer = ClipTokenizer()
    write_json(folder / "vocab.json", tokenizer.vocabulary)
    with written_whole(folder / "merges.txt") as fresh:
        lines = ["#version: 0.2", *(" ".join(pair) for pair in tokenizer.merges), ""]
        fresh.write_text("\n".join(lines), encoding="utf8")
    special = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": _END}
    write_json(folder / "special_tokens_map.json", special)
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "CLIPTokenizer", "model_max_length": sizes.context_length, **special},
    )
