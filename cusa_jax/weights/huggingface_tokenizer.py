"""Tokenizers as Hugging Face's library has them: CLIP's, or the tokenizer.json that a model was trained with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import logging
from tokenizers import Tokenizer as Backend

from cusa_jax.data import tokenizer_file
from cusa_jax.data.tokenize import VOCAB_SIZE, ClipTokenizer
from cusa_jax.errors import InputError, one_line
from cusa_jax.files import written_whole
from cusa_jax.inputs import Text
from cusa_jax.jsonfile import read_json, write_json
from cusa_jax.models.clip import ClipConfig
from cusa_jax.weights.hub import Weights

CONFIG = "tokenizer_config.json"
_START, _END = "<|startoftext|>", "<|endoftext|>"
_SPECIAL = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": _END}


def write_tokenizer(folder: Path, weights: Weights) -> None:
    """Beside a model. A warning says where it is not known, as of a CLIP with another vocabulary that brought none."""
    text = weights.student().inputs.text
    if weights.tokenizer:
        held = tokenizer_file.content(weights.tokenizer)
        (folder / tokenizer_file.FILE).write_bytes(held)
        write_json(folder / CONFIG, _described(text, held))
    elif weights.family == "clip" and text.vocab_size == VOCAB_SIZE:
        _write_clip(folder, text.length)
    else:
        logging.warning(
            "%s: written WITHOUT A TOKENIZER, as the weights brought no %s: no program can give it texts",
            folder.name,
            tokenizer_file.FILE,
        )


def _write_clip(folder: Path, length: int) -> None:
    tokenizer = ClipTokenizer()
    write_json(folder / "vocab.json", tokenizer.vocabulary)
    with written_whole(folder / "merges.txt") as fresh:
        lines = ["#version: 0.2", *map(" ".join, tokenizer.merges), ""]
        fresh.write_text("\n".join(lines), encoding="utf8")
    write_json(folder / "special_tokens_map.json", _SPECIAL)
    write_json(folder / CONFIG, {"tokenizer_class": "CLIPTokenizer", "model_max_length": length, **_SPECIAL})


def _described(text: Text, held: bytes) -> dict[str, Any]:
    """tokenizer_config.json beside a tokenizer.json. held: the bytes of that."""
    try:
        pad = Backend.from_buffer(held).id_to_token(text.pad_id)
    except Exception:  # a vocabulary of words, which the library does not read; it raises bare Exception
        pad = None
    said: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": text.length,
        "model_input_names": ["input_ids"],
        "padding_side": "right",
    }
    if pad is None:
        return said
    flags = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    token = {"content": pad, "special": True, **flags}
    return said | {"pad_token": pad, "added_tokens_decoder": {str(text.pad_id): token}}


# --- and what comes in ----------------------------------------------------------------------------------------

# What tokenizer_config.json may say for texts to become the ids that they do here.
_SIDES: dict[str, tuple] = {
    "do_lower_case": (True,),
    "split_special_tokens": (False,),
    "truncation_side": ("right",),
    "padding_side": ("right",),
}
_CLIP = _SIDES | {
    "tokenizer_class": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "add_prefix_space": (False,),
    "bos_token": (_START,),
    "eos_token": (_END,),
}
# How the library is called, or about bytes that no text has. CLIP's padding follows the end of the text, which a causal
# tower does not see; SigLIP's is read elsewhere (`siglip_config`). Added tokens are looked at below.
_IGNORED = {
    "unk_token", "pad_token", "errors", "name_or_path", "special_tokens_map_file", "tokenizer_file", "vocab_file",
    "merges_file", "added_tokens_decoder", "additional_special_tokens", "extra_special_tokens",
    "clean_up_tokenization_spaces", "processor_class", "return_token_type_ids", "backend", "is_local", "_commit_hash",
    "max_length", "stride", "truncation_strategy", "pad_to_multiple_of", "pad_token_type_id", "model_input_names",
    "local_files_only",
}  # fmt: skip
# What tokenizer.json decides by itself, of which these settings are the origin; and what concerns conversations.
_SUBWORDS_IGNORED = _IGNORED | {
    "tokenizer_class", "bos_token", "eos_token", "sep_token", "cls_token", "mask_token", "sp_model_kwargs", "legacy",
    "spaces_between_special_tokens", "use_default_system_prompt", "chat_template", "extra_ids", "add_prefix_space",
    "add_bos_token", "add_eos_token",
}  # fmt: skip
# Case, contractions, digits, signs, white space, a special token and letters beyond ASCII.
_PROBE = "Two DOGS' tails:  it's 3,407 m… <|endoftext|> Čaféteria—naïve photo! #42\n犬"


def check_tokenizer(folder: Path, sizes: ClipConfig) -> None:
    """Raises InputError naming the key or file by which a folder's tokenizer is not CLIP's, though as large.

    A model with a vocabulary of another size is refused where texts become tokens (`data.tokenize.clip`).
    """
    if sizes.vocab_size != VOCAB_SIZE:
        return
    ours = ClipTokenizer()
    _check_settings(folder / CONFIG, sizes.context_length, _CLIP, _IGNORED, "as CLIP's")
    for path, token, number in _added(folder):
        if ours.vocabulary.get(token) != number:
            raise InputError(
                f"{path}: adds the token {one_line(repr(token))[:80]}, which CLIP's tokenizer has not"
            )
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    if vocabulary.is_file() and read_json(vocabulary, "get it again") != ours.vocabulary:
        raise InputError(f"{vocabulary}: another vocabulary than CLIP's, whose ids mean other words")
    if merges.is_file() and _merges(merges) != ours.merges:
        raise InputError(f"{merges}: other merges than CLIP's, which give texts other ids")
    if (path := folder / tokenizer_file.FILE).is_file():
        _check_backend(path, ours)


def check_subwords(folder: Path, length: int) -> None:
    """Raises InputError naming the key by which the library would make other ids than a folder's tokenizer.json.

    length: tokens of a text.
    """
    path = folder / CONFIG
    _check_settings(
        path, length, _SIDES, _SUBWORDS_IGNORED, f"in lower case, padded at the end, by {tokenizer_file.FILE}"
    )
    held, said = folder / tokenizer_file.FILE, _optional(path)
    if not held.is_file():
        return
    tokens = _backend(held).encode("a").tokens
    for end, place in (("bos", 0), ("eos", -1)):
        asked, token = said.get(f"add_{end}_token"), _content(said.get(f"{end}_token"))
        if (
            asked is not None
            and token is not None
            and asked != (tokens[place : place + 1 or None] == [token])
        ):
            raise InputError(
                f"{path}: add_{end}_token={one_line(repr(asked))[:80]}, unlike {tokenizer_file.FILE}, which decides "
                "here; make them agree"
            )


def _check_settings(path: Path, length: int, only: Mapping[str, tuple], ignored: set[str], way: str) -> None:
    for key, value in _optional(path).items():
        said = _content(value) if key.endswith("_token") else value
        if said is None or key in ignored or (key in only and said in only[key]):
            continue
        if key == "model_max_length" and type(said) in (int, float) and said >= length:
            continue
        raise InputError(
            f"{path}: {one_line(key)[:80]}={one_line(repr(said))[:80]}: texts are tokenised {way}, nothing else; "
            "remove a key that changes nothing of it"
        )


def _content(token: Any) -> Any:
    """Of a token that may be written with its flags."""
    return token.get("content") if isinstance(token, dict) else token


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path, "get it again") if path.is_file() else {}


def _added(folder: Path) -> Iterator[tuple[Path, Any, int]]:
    """(file, token, id) of what the files add to the vocabulary."""
    path = folder / CONFIG
    added = _optional(path).get("added_tokens_decoder") or {}
    for number, token in added.items() if isinstance(added, dict) else ():
        yield path, _content(token), int(number) if number.isdecimal() else -1
    path = folder / "added_tokens.json"
    for token, number in _optional(path).items():
        yield path, token, number


def _merges(path: Path) -> list[tuple[str, ...]]:
    try:
        lines = path.read_text(encoding="utf8").split("\n")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable list of merges ({error}); get it again") from error
    return [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version")]


def _check_backend(path: Path, ours: ClipTokenizer) -> None:
    """A tokenizer.json must have CLIP's vocabulary, and give a text with a little of everything CLIP's ids."""
    backend = _backend(path)
    if backend.get_vocab() != ours.vocabulary:
        raise InputError(f"{path}: another vocabulary than CLIP's, whose ids mean other words")
    if backend.encode(_PROBE).ids != [ours.sot, *ours.encode(_PROBE), ours.eot]:
        raise InputError(
            f"{path}: splits texts in another way than CLIP's tokenizer, which gives them other ids"
        )


def _backend(path: Path) -> Backend:
    try:
        backend = Backend.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        reason = one_line(" ".join(str(error).split()))[:200]
        raise InputError(f"{path}: not a readable tokenizer ({reason}); get it again") from error
    backend.no_padding()
    backend.no_truncation()
    return backend
