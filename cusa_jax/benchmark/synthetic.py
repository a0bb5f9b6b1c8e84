"""Random inputs, and random teachers of the paper's sizes: what a benchmark has in place of data and weights."""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from cusa_jax import sharding
from cusa_jax.inputs import Inputs, Regions
from cusa_jax.teachers import checkpoints
from cusa_jax.teachers.live import text_encoder, unicom_teacher
from cusa_jax.teachers.mpnet import MPNetConfig
from cusa_jax.teachers.projection import narrowed, projected_width
from cusa_jax.teachers.stored import look_up
from cusa_jax.teachers.text import sentence_features
from cusa_jax.teachers.unicom import UnicomConfig
from cusa_jax.types import Batch, Params, Teacher, Teachers

# Where a teacher's features come from.
Features = Literal["bank", "live"]


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


def batch(rows: int, inputs: Inputs, sizes: Sizes, image: Features | None, text: Features | None) -> Batch:
    """`rows` samples on device for a student of these inputs, and those of live teachers. Traceable."""
    keys = iter(jax.random.split(jax.random.key(0), 4))

    def pixels(size: int) -> jax.Array:
        return jax.random.bits(next(keys), (rows, size, size, 3), jnp.uint8)

    def tokens(vocabulary: int, length: int) -> jax.Array:
        return jax.random.randint(next(keys), (rows, length), 2, vocabulary)

    ids = tokens(sizes.text.vocab_size, sizes.teacher_tokens)
    student = inputs.image
    own_pixels = image == "live" and (isinstance(student, Regions) or student.size != sizes.image.image_size)
    numbers = jnp.arange(rows)
    return Batch(
        image=jax.random.normal(next(keys), (rows, student.count, student.width))
        if isinstance(student, Regions)
        else pixels(student.size),
        tokens=tokens(inputs.text.vocab_size, min(sizes.student_tokens, inputs.text.length)),
        image_index=numbers,
        caption_index=numbers,
        teacher_index_image=numbers,
        teacher_index_text=numbers,
        teacher_image=pixels(sizes.image.image_size) if own_pixels else None,
        teacher_text={"input_ids": ids, "attention_mask": jnp.ones_like(ids)} if text == "live" else None,
    )


def teachers(
    config: Any, image: Features | None, text: Features | None, sizes: Sizes, mesh: Mesh
) -> tuple[Teachers, Params] | tuple[None, None]:
    """Teachers, and the shapes of their parameters {'image': …, 'text': …} on the mesh, to be filled by `draw`.

    (None, None) where `image` is None.
    """
    if image is None:
        return None, None
    unicom, mpnet, dtype = sizes.image, sizes.text, jnp.dtype(config.teacher.dtype)
    encoder = sentence_features(text_encoder(mpnet, dtype), "mean")
    live = {"image": unicom_teacher("image", unicom, dtype), "text": Teacher("text", encoder, "text")}
    live_shapes = {"image": _shapes("unicom", unicom), "text": _shapes("mpnet", mpnet)}
    widths = {"image": unicom.patches * unicom.dim, "text": mpnet.hidden_size}

    def one(side: str, origin: Features | None) -> tuple[Teacher, Params]:
        if origin != "live":
            return _bank(config, mesh, widths[side])
        shapes = sharding.abstract_params(live_shapes[side], mesh)
        return narrowed(live[side], config.teacher.width, mesh), shapes

    image_teacher, image_shapes = one("image", image)
    text_teacher, text_shapes = one("text", text)
    return Teachers(image_teacher, text_teacher), {"image": image_shapes, "text": text_shapes}


def draw(shapes: Params) -> Params:
    """Random parameters of these shapes. Traceable."""
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(1), max(len(leaves), 1))[: len(leaves)]
    drawn = [
        jax.random.uniform(key, leaf.shape, leaf.dtype, -0.03, 0.03)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, drawn)


def _shapes(model_type: str, sizes: Any) -> Params:
    return jax.eval_shape(functools.partial(checkpoints.FORMATS[model_type].init, sizes))


def _bank(config: Any, mesh: Mesh, width: int) -> tuple[Teacher, Params]:
    """A bank with a row for each sample of a batch: more rows would cost memory for themselves, and no time."""
    rows = sharding.round_up(config.batch_size, mesh.size)
    shape = rows, projected_width(width, config.teacher.width)
    dtype = jnp.dtype(config.teacher.stored_dtype or "float32")
    table = jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.batch_sharding(mesh))
    return Teacher("bank", functools.partial(look_up, mesh=mesh), "index"), table
