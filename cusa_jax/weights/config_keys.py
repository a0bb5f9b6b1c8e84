"""The keys of a Hugging Face config.json: each is honoured, ignored for a stated reason, or refused by its name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from cusa_jax.errors import InputError, one_line

# Of every configuration of the library: how it is called, how it generates text, how a training begins. A model of two
# encoders that is read from a folder depends on none; the ids of tokens are the tokenizer's.
IGNORED = {
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_name_or_path", "add_cross_attention",
    "architectures", "attn_implementation", "bad_words_ids", "begin_suppress_tokens", "bos_token_id",
    "chunk_size_feed_forward", "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty",
    "do_sample", "dtype", "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id",
    "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id", "forced_eos_token_id",
    "gradient_checkpointing", "id2label", "initializer_factor", "initializer_range", "is_decoder",
    "is_encoder_decoder", "label2id", "length_penalty", "logit_scale_init_value", "max_length", "min_length",
    "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences", "output_attentions",
    "output_hidden_states", "output_scores", "prefix", "problem_type", "remove_invalid_values",
    "repetition_penalty", "return_dict", "return_dict_in_generate", "sep_token_id", "suppress_tokens",
    "task_specific_params", "temperature", "tf_legacy_loss", "tie_encoder_decoder", "tie_word_embeddings",
    "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript", "transformers_version", "typical_p",
    "use_bfloat16", "use_cache",
}  # fmt: skip


def check_settings(
    name: str,
    section: Mapping[str, Any],
    honoured: Collection[str],
    only: Mapping[str, Any],
    *,
    what: str,
    path: Path,
) -> None:
    """Raises InputError for a key of a section that is neither honoured, nor ignored, nor the one value it may have.

    name: of the section, '' for the top. what: the kind of model, for the message.
    """
    for key, value in section.items():
        if key in honoured or value is None or (key in IGNORED and key not in only):
            continue
        if key not in only or value != only[key]:
            label = one_line(f"{name}.{key}" if name else key)
            wanted = f"must be {only[key]!r}" if key in only else "is not known here"
            raise InputError(
                f"{path}: {label[:80]}={one_line(repr(value))[:80]} {wanted}; remove it if it changes nothing of {what}"
            )
