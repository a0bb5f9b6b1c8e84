"""SigLIP's sizes: of any model of fixed resolution, and of those that were released, of SigLIP and of SigLIP 2.

Sizes of the released ones: Zhai et al. 2023 (arXiv:2303.15343), Tschannen et al. 2025 (arXiv:2502.14786), as Hugging
Face's `config.json` and open_clip's model configurations have them.
"""

from __future__ import annotations

import dataclasses
import math

from cusa_jax.errors import InputError
from cusa_jax.inputs import Resampling
from cusa_jax.models.clip_sizes import check_size
from cusa_jax.models.layers import ACTIVATIONS


@dataclasses.dataclass(frozen=True, kw_only=True)
class SiglipSizes:
    """Sizes of a SigLIP model. Its embeddings are as wide as its vision tower.

    image_size: pixels per side. What lies beyond its last whole patch, on the right and at the bottom, is not seen.
    *_mlp: width of the hidden layer of the MLPs; the vision tower's is that of its pooling head too.
    *_epsilon: of the layer norms.
    pad_id: the token that fills captions up to context_length. The text tower sees it, and pools its last position.
    mean, std, resampling: of the pixels it was trained on.

    Raises InputError, which does not name a file, for sizes that make no model.
    """

    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    vision_mlp: int
    text_width: int
    text_layers: int
    text_heads: int
    text_mlp: int
    vocab_size: int = 32_000
    context_length: int = 64
    pad_id: int = 1
    vision_activation: str = "gelu_tanh"
    text_activation: str = "gelu_tanh"
    vision_epsilon: float = 1e-6
    text_epsilon: float = 1e-6
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    resampling: Resampling = "bicubic"

    @property
    def embed_dim(self) -> int:
        return self.vision_width

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.type == "int":
                check_size(field.name, getattr(self, field.name), 0 if field.name == "pad_id" else 1)
        if self.image_size < self.patch_size:
            raise InputError(
                f"model: a patch of {self.patch_size} pixels is larger than the image, {self.image_size}"
            )
        if self.pad_id >= self.vocab_size:
            raise InputError(f"model: pad_id {self.pad_id} lies beyond the vocabulary of {self.vocab_size}")
        for tower in ("vision", "text"):
            self._check_tower(*(getattr(self, f"{tower}_{name}") for name in _TOWER))

    @staticmethod
    def _check_tower(width: int, heads: int, activation: str, epsilon: float) -> None:
        if width % heads:
            raise InputError(f"model: a tower of width {width} cannot have {heads} heads of equal width")
        if activation not in ACTIVATIONS:
            raise InputError(f"model: activation {activation!r} is none of {', '.join(ACTIVATIONS)}")
        if not 0 < epsilon < math.inf:
            raise InputError(f"model: the epsilon of a layer norm is a positive number, not {epsilon}")


_TOWER = ("width", "heads", "activation", "epsilon")  # what `_check_tower` looks at


def _tower(kind: str, width: int, layers: int, heads: int, mlp: int) -> dict[str, int]:
    return {f"{kind}_width": width, f"{kind}_layers": layers, f"{kind}_heads": heads, f"{kind}_mlp": mlp}


def _towers(width: int, layers: int, heads: int, mlp: int) -> dict[str, int]:
    """Most models have the same transformer twice."""
    return _tower("vision", width, layers, heads, mlp) | _tower("text", width, layers, heads, mlp)


_BASE = _towers(768, 12, 12, 3072)
_LARGE = _towers(1024, 24, 16, 4096)
_SO400M = _towers(1152, 27, 16, 4304)
_GIANT = _tower("vision", 1536, 40, 16, 6144) | _tower("text", 1152, 27, 16, 4304)
_I18N: dict[str, int] = {"vocab_size": 250_000}
# SigLIP 2 has Gemma's tokenizer.
_GEMMA: dict[str, int] = {"vocab_size": 256_000, "pad_id": 0}

_RELEASED: tuple[tuple[str, dict[str, int], int, tuple[int, ...], dict[str, int]], ...] = (
    ("siglip_b", _BASE, 16, (224, 256, 384, 512), {}),
    ("siglip_l", _LARGE, 16, (256, 384), {}),
    ("siglip_so400m", _SO400M, 14, (384,), {}),
    ("siglip_so400m", _SO400M, 14, (224,), {"context_length": 16}),
    ("siglip_i18n_b", _BASE, 16, (256,), _I18N),
    ("siglip_i18n_so400m", _SO400M, 16, (256,), _I18N),
    ("siglip2_b", _BASE, 32, (256,), _GEMMA),
    ("siglip2_b", _BASE, 16, (224, 256, 384, 512), _GEMMA),
    ("siglip2_l", _LARGE, 16, (256, 384, 512), _GEMMA),
    ("siglip2_so400m", _SO400M, 14, (224, 384), _GEMMA),
    ("siglip2_so400m", _SO400M, 16, (256, 384, 512), _GEMMA),
    ("siglip2_giant", _GIANT, 16, (256, 384), _GEMMA),
)

# siglip_b_16_224, …: architecture, pixels a patch, pixels an image.
PRESETS: dict[str, SiglipSizes] = {
    f"{name}_{patch}_{pixels}": SiglipSizes(image_size=pixels, patch_size=patch, **towers, **own)  # type: ignore[arg-type]
    for name, towers, patch, resolutions, own in _RELEASED
    for pixels in resolutions
}
