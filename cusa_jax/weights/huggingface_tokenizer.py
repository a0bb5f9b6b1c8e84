"""CLIP's tokenizer as Hugging Face's library has it: vocab.json, merges.txt and what says which tokens are special."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cusa_jax.data.tokenize import VOCAB_SIZE, ClipTokenizer
from cusa_jax.errors import InputError, one_line
from cusa_jax.files import written_whole
from cusa_jax.jsonfile import read_json, write_json
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


# What tokenizer_config.json may say for texts to become CLIP's ids.
_ONLY: dict[str, tuple] = {
    "tokenizer_class": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "do_lower_case": (True,),
    "add_prefix_space": (False,),
    "bos_token": (_START,),
    "eos_token": (_END,),
    "split_special_tokens": (False,),
    "truncation_side": ("right",),
    "padding_side": ("right",),
}
# Padding follows the end of the text, which a causal tower does not see; the rest is how the library is called, or
# about bytes that no text has.
_IGNORED = {
    "unk_token", "pad_token", "errors", "name_or_path", "special_tokens_map_file", "tokenizer_file", "vocab_file",
    "merges_file", "added_tokens_decoder", "additional_special_tokens", "extra_special_tokens",
    "clean_up_tokenization_spaces", "processor_class", "return_token_type_ids", "backend", "is_local", "_commit_hash",
    "max_length", "stride", "truncation_strategy", "pad_to_multiple_of", "pad_token_type_id", "model_input_names",
    "local_files_only",
}  # fmt: skip


def check_tokenizer(folder: Path, sizes: ClipConfig) -> None:
    """Raises InputError naming the key by which a folder's tokenizer is not CLIP's, though its vocabulary is as large.

    A model with a vocabulary of another size is refused where texts become tokens (`data.tokenize.clip`).
    """
    if sizes.vocab_size != VOCAB_SIZE:
        return
    path = folder / "tokenizer_config.json"
    for key, value in (read_json(path, "get it again") if path.is_file() else {}).items():
        said = value.get("content") if isinstance(value, dict) and key.endswith("_token") else value
        if said is None or key in _IGNORED or (key in _ONLY and said in _ONLY[key]):
            continue
        if key == "model_max_length" and type(said) in (int, float) and said >= sizes.context_length:
            continue
        raise InputError(
            f"{path}: {one_line(key)[:80]}={one_line(repr(said))[:80]}: texts are tokenised as CLIP's, nothing else; "
            "remove a key that changes nothing of it"
        )
    for path, vocabulary in _vocabularies(folder):
        if vocabulary != ClipTokenizer().vocabulary:
            raise InputError(f"{path}: another vocabulary than CLIP's, whose ids mean other words")


def _vocabularies(folder: Path) -> Iterator[tuple[Path, Any]]:
    """(file, {token: id}) of every file that has it."""
    if (path := folder / "vocab.json").is_file():
        yield path, read_json(path, "get it again")
    if (path := folder / "tokenizer.json").is_file():
        model = read_json(path, "get it again").get("model")
        yield path, model.get("vocab") if isinstance(model, dict) else None
