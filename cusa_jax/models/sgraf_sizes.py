"""Sizes and options of the models over regions and words, under the names of the authors' code (its opts.py)."""

from __future__ import annotations

import dataclasses
from typing import Literal

from cusa_jax.errors import InputError
from cusa_jax.inputs import Inputs, Regions, Text

VOCABULARY = {"f30k": 8481, "coco": 11353}  # words in the authors' vocabulary files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sides:
    """Regions and words, and the space they are embedded in. The defaults are those of the paper, for Flickr30K.

    regions, img_dim: of an image's features. max_words: to which captions are cut, <start> and <end> included.
    num_layers, bi_gru: of the GRU, whose directions are averaged. no_imgnorm, no_txtnorm: leave embedded regions and
    words at their lengths. dropout: of words and of self-attention.
    """

    regions: int = 36
    img_dim: int = 2048
    vocab_size: int = VOCABULARY["f30k"]
    max_words: int = 96
    word_dim: int = 300
    embed_size: int = 1024
    num_layers: int = 1
    bi_gru: bool = True
    no_imgnorm: bool = False
    no_txtnorm: bool = False
    dropout: float = 0.4

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and not isinstance(value, bool) and value < 1:
                raise InputError(f"model: {field.name} {value} must be at least 1")
        if not 0 <= self.dropout < 1:
            raise InputError(f"model: dropout {self.dropout} must be at least 0 and below 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SgrafSizes(Sides):
    """SGR or SAF. sim_dim: of a similarity vector. sgr_step: graph reasoning steps of SGR.

    uni_dim: of the uni-modal heads, one layer a side over the global representation; the paper leaves it open.
    """

    module_name: Literal["SGR", "SAF"] = "SGR"
    sim_dim: int = 256
    sgr_step: int = 3
    uni_dim: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.module_name not in ("SGR", "SAF"):
            raise InputError(f"model: module_name '{self.module_name}' is neither SGR nor SAF")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VseSizes(Sides):
    """VSE++ over regions: the mean of embedded regions against the GRU's last state."""

    bi_gru: bool = False
    dropout: float = 0.0


def inputs(sizes: Sides, tokenizer: str = "") -> Inputs:
    """Regions and words; padding behind a caption may be cut, since nothing sees it.

    tokenizer: the vocabulary's file; there is none that all data sets share.
    """
    text = Text(sizes.max_words, sizes.vocab_size, tokenizer, cleaned=False)
    return Inputs(Regions(sizes.regions, sizes.img_dim), text)


SGRAF_PRESETS = {
    "sgr": SgrafSizes(module_name="SGR"),
    "saf": SgrafSizes(module_name="SAF"),
    "sgr_coco": SgrafSizes(module_name="SGR", vocab_size=VOCABULARY["coco"]),
    "saf_coco": SgrafSizes(module_name="SAF", vocab_size=VOCABULARY["coco"]),
}
VSE_PRESETS = {"vse": VseSizes(), "vse_coco": VseSizes(vocab_size=VOCABULARY["coco"])}
