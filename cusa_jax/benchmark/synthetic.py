"""Random inputs, and random teachers of the paper's sizes: what a benchmark has in place of data and weights."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cusa_jax import sharding
from cusa_jax.data.images import normalise
from cusa_jax.models.clip import ClipConfig
from cusa_jax.teachers import own
from cusa_jax.teachers.bank import look_up
from cusa_jax.teachers.mpnet import MPNet, MPNetConfig
from cusa_jax.teachers.text import pool
from cusa_jax.teachers.unicom import Unicom, UnicomConfig
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
    "real": Sizes(
        UnicomConfig(224, 32, 768, 12, 12), MPNetConfig(30527, 768, 12, 12, 3072, 514, 32, 1e-5, 1)
    ),
    "toy": Sizes(UnicomConfig(32, 8, 64, 2, 2), MPNetConfig(1000, 64, 2, 2, 256, 130, 32, 1e-5, 1)),
}


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
    """Teachers whose params are shapes, which `params` fills; None where `image` is."""
    if image is None:
        return None
    width = config.teacher.bank_width or sizes.image.patches * sizes.image.dim
    return Teachers(
        image=_live_image(sizes.image, config) if image == "live" else _bank(config, mesh, width),
        text=_live_text(sizes.text, config)
        if text == "live"
        else _bank(config, mesh, sizes.text.hidden_size),
    )


def params(teachers: Teachers | None, mesh: Mesh) -> Params:
    """Random parameters {'image': …, 'text': …} on the mesh; None without teachers."""
    if teachers is None:
        return None
    rng = np.random.default_rng(1)

    def fill(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            shape = np.empty(leaf.shape, bool)[index].shape
            return rng.uniform(-0.03, 0.03, shape).astype(leaf.dtype)

        return jax.make_array_from_callback(leaf.shape, leaf.sharding, part)

    return jax.tree.map(fill, shapes(teachers, mesh))


def shapes(teachers: Teachers | None, mesh: Mesh) -> Params:
    """What `params` makes, as ShapeDtypeStructs."""
    if teachers is None:
        return None
    return {
        side: sharding.abstract_params(teacher.params, mesh) if teacher.inputs != "index" else teacher.params
        for side, teacher in (("image", teachers.image), ("text", teachers.text))
    }


def _live_image(sizes: UnicomConfig, config: Any) -> Teacher:
    unicom = Unicom(sizes, config.teacher.dtype)

    def encode(params: Params, pixels: jax.Array) -> jax.Array:
        return cast(jax.Array, unicom.apply({"params": params}, normalise(pixels)))

    return Teacher("image", _shapes("unicom", sizes), encode, "pixels")


def _live_text(sizes: MPNetConfig, config: Any) -> Teacher:
    mpnet = MPNet(sizes, config.teacher.dtype)

    def encode(params: Params, inputs: dict[str, jax.Array]) -> jax.Array:
        mask = inputs["attention_mask"]
        states = cast(jax.Array, mpnet.apply({"params": params}, inputs["input_ids"], mask))
        return pool(states, mask, "mean")

    return Teacher("text", _shapes("mpnet", sizes), encode, "text")


def _shapes(family: str, sizes: Any) -> Params:
    init: Callable[[], Params] = lambda: own.FAMILIES[family].init(sizes)  # noqa: E731
    return jax.eval_shape(init)


def _bank(config: Any, mesh: Mesh, width: int) -> Teacher:
    """With a row for each sample of a batch: how many more there are changes nothing in the time."""
    rows = sharding.round_up(config.batch_size, mesh.size)
    dtype = jnp.dtype(config.teacher.bank_dtype)
    features = jax.ShapeDtypeStruct((rows, width), dtype, sharding=sharding.batch_sharding(mesh))
    return Teacher(
        "bank", {"features": features}, lambda p, index: look_up(p["features"], index, mesh), "index"
    )
