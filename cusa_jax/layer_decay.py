"""Layer-wise decay of the learning rate: lower layers of a pretrained tower move less (Clark et al. 2020, ELECTRA)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cusa_jax.errors import InputError

_BLOCK = re.compile(r"(?:lora/)?(image|text)/.*?block_(\d+)/.*")
# What comes before the first block.
_EMBEDDING = re.compile(
    r"(image|text)/(patch_embedding|token_embedding|position_embedding|class_embedding|ln_pre)(/.*)?"
)


def factors(names: Sequence[str], decay: float) -> dict[str, float]:
    """{path: factor of the learning rate}. names: paths such as 'image/transformer/block_0/attn/in_proj/kernel'.

    A tower's topmost block has `decay`, each below it `decay` times more, the embeddings once more; what comes after
    the blocks, heads and scalars have 1. Raises InputError where no tower has blocks, as a ResNet has none.
    """
    if decay == 1:
        return dict.fromkeys(names, 1.0)
    depth: dict[str, int] = {}
    for name in names:
        if block := _BLOCK.fullmatch(name):
            depth[block[1]] = max(depth.get(block[1], 0), int(block[2]) + 1)
    if not depth:
        raise InputError(f"config.optim.layer_decay={decay}: the model has no numbered blocks; set it to 1")

    def one(name: str) -> float:
        if block := _BLOCK.fullmatch(name):
            return decay ** (depth[block[1]] - int(block[2]))
        if (embedding := _EMBEDDING.fullmatch(name)) and embedding[1] in depth:
            return decay ** (depth[embedding[1]] + 1)
        return 1.0

    return {name: one(name) for name in names}
