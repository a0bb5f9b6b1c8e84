"""CLIP's sizes: of any model, and of those that were released."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from cusa_jax.errors import InputError
from cusa_jax.inputs import CLIP_MEAN, CLIP_STD, Resampling, Resize

DEEPEST = 200  # layers; a hostile file may claim a billion
WIDEST = 2**24  # of any other size; the largest of a known model is its vocabulary


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSizes:
    """Sizes of CLIP's text tower. Heads default to one per 64 channels, and MLPs to 4 x their tower: OpenAI's rules.

    activation: of transformers. text_mlp: width of the hidden layer of their MLPs.

    Raises InputError, which does not name a file, for sizes that make no model.
    """

    embed_dim: int
    text_width: int
    text_layers: int
    context_length: int = 77
    vocab_size: int = 49408
    activation: str = "quick_gelu"
    text_heads: int = 0
    text_mlp: int = 0

    def __post_init__(self) -> None:
        for name, size in self._numbers().items():
            # A ResNet has no layers of a ViT; heads and MLPs that are not said follow from the width.
            low = 0 if name == "vision_layers" or name.endswith(("heads", "mlp")) else 1
            check_size(name, size, low)
        self._default("text_heads", self.text_width // 64)
        self._default("text_mlp", 4 * self.text_width)

    def _numbers(self) -> dict[str, int]:
        """All sizes by their names."""
        return {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.type == "int"
        }

    def _default(self, name: str, value: int) -> None:
        if not getattr(self, name):
            object.__setattr__(self, name, value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipConfig(TextSizes):
    """Sizes of a CLIP model.

    patch_size: pixels per side of what one visual token covers; 32 in every ResNet.
    vision_width: of a ViT, or the channels behind a ResNet's stem.
    vision_layers: blocks of a ViT; 0 in a ResNet, whose four stages have `resnet_blocks` bottlenecks each.
    activation, vision_mlp: as of the text tower; a ResNet has ReLU, and no MLP.
    mean, std, resize, resampling: of the pixels it was trained on (`inputs.Pixels`).
    """

    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    vision_heads: int = 0
    resnet_blocks: tuple[int, ...] = ()
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    vision_mlp: int = 0
    resize: Resize = "crop"
    resampling: Resampling = "bicubic"

    def __post_init__(self) -> None:
        super().__post_init__()
        # A ResNet pools over the channels of its last stage: 32 times the stem's.
        self._default("vision_heads", self.vision_width * (32 if self.resnet_blocks else 1) // 64)
        if not self.resnet_blocks:
            self._default("vision_mlp", 4 * self.vision_width)
        if self.image_size % self.patch_size:
            raise InputError(
                f"model: image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )

    def _numbers(self) -> dict[str, int]:
        blocks = {f"resnet_blocks[{stage}]": count for stage, count in enumerate(self.resnet_blocks)}
        return super()._numbers() | blocks


def check_size(name: str, size: Any, low: int = 1) -> None:
    """Raises InputError unless a size of a model is a whole number within bounds."""
    high = DEEPEST if "layers" in name or "blocks" in name else WIDEST
    if type(size) is not int or not low <= size <= high:
        raise InputError(f"model: {name} is {str(size)[:30]}, not a whole number from {low} to {high}")


def _vit(
    embed: int, pixels: int, patch: int, width: int, layers: int, text_width: int, text_layers: int = 12
) -> ClipConfig:
    return ClipConfig(
        embed_dim=embed,
        image_size=pixels,
        patch_size=patch,
        vision_width=width,
        vision_layers=layers,
        text_width=text_width,
        text_layers=text_layers,
    )


def _laion(embed: int, width: int, layers: int, mlp: int, text_width: int, text_layers: int) -> ClipConfig:
    plain = _vit(embed, 224, 14, width, layers, text_width, text_layers)
    return dataclasses.replace(plain, vision_heads=16, vision_mlp=mlp, activation="gelu")


def _resnet(embed: int, pixels: int, stem: int, blocks: tuple[int, ...], text_width: int) -> ClipConfig:
    return ClipConfig(
        embed_dim=embed,
        image_size=pixels,
        patch_size=32,
        vision_width=stem,
        vision_layers=0,
        resnet_blocks=blocks,
        text_width=text_width,
        text_layers=12,
    )


PRESETS = {
    "vit_b_32": _vit(embed=512, pixels=224, patch=32, width=768, layers=12, text_width=512),
    "vit_b_16": _vit(embed=512, pixels=224, patch=16, width=768, layers=12, text_width=512),
    "vit_l_14": _vit(embed=768, pixels=224, patch=14, width=1024, layers=24, text_width=768),
    "vit_l_14_336": _vit(embed=768, pixels=336, patch=14, width=1024, layers=24, text_width=768),
    # LAION's, whose vision towers have fewer, wider heads.
    "vit_h_14": _laion(embed=1024, width=1280, layers=32, mlp=5120, text_width=1024, text_layers=24),
    "vit_g_14": _laion(embed=1024, width=1408, layers=40, mlp=6144, text_width=1024, text_layers=24),
    "vit_bigg_14": _laion(embed=1280, width=1664, layers=48, mlp=8192, text_width=1280, text_layers=32),
    "rn50": _resnet(embed=1024, pixels=224, stem=64, blocks=(3, 4, 6, 3), text_width=512),
    "rn101": _resnet(embed=512, pixels=224, stem=64, blocks=(3, 4, 23, 3), text_width=512),
    "rn50x4": _resnet(embed=640, pixels=288, stem=80, blocks=(4, 6, 10, 6), text_width=640),
    "rn50x16": _resnet(embed=768, pixels=384, stem=96, blocks=(6, 8, 18, 8), text_width=768),
    "rn50x64": _resnet(embed=1024, pixels=448, stem=128, blocks=(3, 15, 36, 10), text_width=1024),
    # The embedded world's student: same code, real tokens, two minutes on two cores.
    "toy": _vit(embed=64, pixels=32, patch=8, width=64, layers=2, text_width=64, text_layers=2),
}


def check_pixels(pixels: jax.Array, image_size: int) -> None:
    """Raises InputError unless pixels are [B, image_size, image_size, 3]."""
    if pixels.shape[1:] != (image_size, image_size, 3):
        raise InputError(f"images of shape {pixels.shape[1:]}, but the model takes {image_size} px squares")
