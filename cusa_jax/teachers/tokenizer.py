"""The tokenizer of a text teacher's folder, read without ever running code that comes with it."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer

from cusa_jax.errors import InputError, needs, one_line
from cusa_jax.teachers.folder import read_json

# Letters of a script that vocabularies do not have: ids for them need an unknown token, or bytes.
_UNKNOWN_WORD = "𓀀𓂀"


def read_tokenizer(folder: Path) -> Tokenizer:
    """The folder's tokenizer.json; where there is none, what `transformers` makes of vocab.txt and the like.

    Raises InputError where there is no tokenizer, it cannot be read, it would have to run code of its own, it has
    no token for unknown words, or tokenizer_config.json contradicts it.
    """
    saved = folder / "tokenizer.json"
    config_file = folder / "tokenizer_config.json"
    config = read_json(config_file) if config_file.is_file() else {}
    try:
        tokenizer = Tokenizer.from_file(str(saved)) if saved.is_file() else _converted(folder, config)
    except InputError:
        raise
    except Exception as error:
        # The tokenizers library raises bare Exceptions, and transformers whatever a damaged file leads to.
        raise InputError(f"{saved}: the tokenizer is missing or cannot be read ({_reason(error)})") from error
    lower_case = config.get("do_lower_case")
    if saved.is_file() and isinstance(lower_case, bool) and _lower_cases(saved) is (not lower_case):
        raise InputError(
            f"{config_file}: do_lower_case is {json.dumps(lower_case)}, and tokenizer.json says the opposite; "
            "make them agree"
        )
    try:
        tokenizer.encode(_UNKNOWN_WORD)
    except Exception as error:
        raise InputError(
            f"{folder}: the tokenizer has no token for words that it does not know ({_reason(error)}); "
            "a vocabulary of BERT's kind needs [UNK]"
        ) from error
    return tokenizer


def _converted(folder: Path, config: dict) -> Tokenizer:
    if "auto_map" in config:
        raise InputError(
            f"{folder}/tokenizer_config.json: auto_map asks for code of the folder's own, which is never run; "
            "save the tokenizer as tokenizer.json"
        )
    # Imported here because most folders have a tokenizer.json, and transformers takes seconds.
    with needs("teachers"):
        from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    ).backend_tokenizer


def _lower_cases(saved: Path) -> bool | None:
    """Whether a tokenizer.json with BERT's normaliser lower-cases; None for any other."""
    normalizer = read_json(saved).get("normalizer")
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        return None
    return normalizer.get("lowercase") is True


def _reason(error: Exception) -> str:
    return one_line(" ".join(str(error).split()))
