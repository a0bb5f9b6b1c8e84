"""Random inputs, and random teachers of the paper's sizes: what a benchmark has in place of data and weights."""

import dataclasses
import functools
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from cusa_jax import sharding
from cusa_jax.models.clip import ClipConfig
from cusa_jax.teachers import own
from cusa_jax.teachers.live import unicom_teacher
from cusa_jax.teachers.mpnet import MPNet, MPNetConfig
from cusa_jax.teachers.projection import narrowed, projected_width
from cusa_jax.teachers.stored import look_up
from cusa_jax.teachers.text import pool
from cusa_jax.teachers.unicom import UnicomConfig
from cusa_jax.types import Batch, Params, Teacher, Teachers

Source = Literal["bank", "live"]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The two teachers, and the tokens of a caption for the student and for the text teacher."""

    image: UnicomConfig
    text: MPNetConfig
    student_tokens: int = 77
    teacher_tokens: int = 20


TEACHERS = {
    "real": Sizes(  # UNICOM ViT-B/32 and all-mpnet-base-v2, the paper's
        UnicomConfig(image_size=224, patch_size=32, dim=768, depth=12, num_heads=12),
        MPNetConfig(
            vocab_size=30527, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072,
            max_position_embeddings=514, relative_attention_num_buckets=32, layer_norm_eps=1e-5, pad_token_id=1,
        ),
    ),
    "toy": Sizes(
        UnicomConfig(image_size=32, patch_size=8, dim=64, depth=2, num_heads=2),
        MPNetConfig(
            vocab_size=1000, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256,
            max_position_embeddings=130, relative_attention_num_buckets=32, layer_norm_eps=1e-5, pad_token_id=1,
        ),
    ),
}  # fmt: skip


def batch(rows: int, clip: ClipConfig, sizes: Sizes, image: Source | None, text: Source | None) -> Batch:
    """`rows` samples on device, with the inputs of live teachers where these are. Traceable."""
    keys = iter(jax.random.split(jax.random.key(0), 4))

    def pixels(size: int) -> jax.Array:
        return jax.random.bits(next(keys), (rows, size, size, 3), jnp.uint8)

    def tokens(vocabulary: int, length: int) -> jax.Array:
        return jax.random.randint(next(keys), (rows, length), 2, vocabulary)

    ids = tokens(sizes.text.vocab_size, sizes.teacher_tokens)
    own_pixels = image == "live" and sizes.image.image_size != clip.image_size
    numbers = jnp.arange(rows)
    return Batch(
        image=pixels(clip.image_size),
        tokens=tokens(clip.vocab_size, min(sizes.student_tokens, clip.context_length)),
        image_index=numbers,
        caption_index=numbers,
        teacher_index_image=numbers,
        teacher_index_text=numbers,
        teacher_image=pixels(sizes.image.image_size) if own_pixels else None,
        teacher_text={"input_ids": ids, "attention_mask": jnp.ones_like(ids)} if text == "live" else None,
    )


def teachers(
    config: Any, image: Source | None, text: Source | None, sizes: Sizes, mesh: Mesh
) -> Teachers | None:
    """Teachers whose params are shapes, to be filled by `draw`; None where `image` is."""
    if image is None:
        return None
    unicom, mpnet = sizes.image, sizes.text
    return Teachers(
        image=narrowed(_live_image(unicom, config), config.teacher.width, mesh)
        if image == "live"
        else _bank(config, mesh, unicom.patches * unicom.dim),
        text=narrowed(_live_text(mpnet, config), config.teacher.width, mesh)
        if text == "live"
        else _bank(config, mesh, mpnet.hidden_size),
    )


def draw(shapes: Params) -> Params:
    """Random parameters of these shapes. Traceable."""
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(1), max(len(leaves), 1))[: len(leaves)]
    drawn = [
        jax.random.uniform(key, leaf.shape, leaf.dtype, -0.03, 0.03)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, drawn)


def shapes(teachers: Teachers | None, mesh: Mesh) -> Params:
    """Their parameters {'image': …, 'text': …} on the mesh as ShapeDtypeStructs; None without teachers."""
    if teachers is None:
        return None
    return {
        side: sharding.abstract_params(teacher.params, mesh) if teacher.inputs != "index" else teacher.params
        for side, teacher in (("image", teachers.image), ("text", teachers.text))
    }


def _live_image(sizes: UnicomConfig, config: Any) -> Teacher:
    return unicom_teacher("image", sizes, _shapes("unicom", sizes), jnp.dtype(config.teacher.dtype))


def _live_text(sizes: MPNetConfig, config: Any) -> Teacher:
    mpnet = MPNet(sizes, jnp.dtype(config.teacher.dtype))

    def encode(params: Params, inputs: dict[str, jax.Array]) -> jax.Array:
        mask = inputs["attention_mask"]
        states = cast(jax.Array, mpnet.apply({"params": params}, inputs["input_ids"], mask))
        return pool(states, mask, "mean")

    return Teacher("text", _shapes("mpnet", sizes), encode, "text")


def _shapes(family: str, sizes: Any) -> Params:
    return jax.eval_shape(functools.partial(own.FAMILIES[family].init, sizes))


def _bank(config: Any, mesh: Mesh, width: int) -> Teacher:
    """With a row for each sample of a batch: more change nothing in the time, and add only themselves to the memory."""
    rows = sharding.round_up(config.batch_size, mesh.size)
    shape = rows, projected_width(width, config.teacher.width)
    dtype = jnp.dtype(config.teacher.stored_dtype or "float32")
    table = jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.batch_sharding(mesh))
    return Teacher("bank", table, functools.partial(look_up, mesh=mesh), "index")
