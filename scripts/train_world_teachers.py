"""Trains the embedded world's two teachers, each on one modality of scenes that no student sees.

python scripts/train_world_teachers.py --out=cusa_jax/assets/world_teachers

The image teacher (UNICOM's architecture) learns to name the attributes of scenes, with 5 % of the names
wrong. The text teacher (MPNet's) learns by InfoNCE which captions are of the same scene, as
all-mpnet-base-v2 did. Neither sees an image with its caption, nor what is relevant to what.
"""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from cusa_jax.data import world
from cusa_jax.data.images import normalise
from cusa_jax.data.world.scenes import ATTRIBUTES, BACKGROUNDS, NONE
from cusa_jax.teachers import checkpoints
from cusa_jax.teachers.live import load_image_teacher, load_text_teacher
from cusa_jax.teachers.mpnet import MPNet, MPNetConfig
from cusa_jax.teachers.text import pool
from cusa_jax.teachers.unicom import Unicom, UnicomConfig
from cusa_jax.types import Params

OUT = flags.DEFINE_string("out", "cusa_jax/assets/world_teachers", "Folder to write image/ and text/ to.")
SCENES = flags.DEFINE_integer("scenes", 20_000, "Scenes of the teacher split to train on.")
STEPS = flags.DEFINE_integer("steps", 1500, "Steps of each teacher.")

IMAGE = UnicomConfig(image_size=32, patch_size=8, dim=64, depth=3, num_heads=2)
LABEL_NOISE = 0.05
TAU = 0.1
BATCH = 128
LEARNING_RATE = 2e-3
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
HELD_OUT_SEED, HELD_OUT_SCENES = 1, 500

Loss = Callable[[Params, Any], jax.Array]


def main(_: list[str]) -> None:
    out = Path(OUT.value)
    scenes = world.generate("teacher", SCENES.value)
    train_image_teacher(scenes, out / "image")
    train_text_teacher(scenes, out / "text")
    quality = measure(out)
    print(json.dumps(quality, indent=2))
    (out / "quality.json").write_text(json.dumps(quality, indent=2) + "\n")


def train_image_teacher(scenes: world.World, folder: Path) -> None:
    """Multi-label classification from every token, so that the tokens CUSA compares tell of the whole scene."""
    rng = np.random.default_rng(0)
    labels = attribute_labels(scenes.scenes, rng)
    backbone, head = Unicom(IMAGE), nn.Dense(labels.shape[1])

    def loss(params: Params, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        pixels, named = batch
        features = cast(jax.Array, backbone.apply({"params": params["backbone"]}, normalise(pixels)))
        tokens = features.reshape(len(pixels), IMAGE.patches, IMAGE.dim)
        logits = head.apply({"params": params["head"]}, tokens)
        return optax.sigmoid_binary_cross_entropy(logits, named[:, None]).mean()

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        while True:
            rows = rng.integers(0, len(labels), BATCH)
            yield scenes.images[rows], labels[rows]

    pixels = jnp.zeros((1, IMAGE.image_size, IMAGE.image_size, 3))
    params = {
        "backbone": backbone.init(jax.random.key(0), pixels)["params"],
        "head": head.init(jax.random.key(1), jnp.zeros((1, IMAGE.dim)))["params"],
    }
    params = fit("image", loss, params, batches())
    checkpoints.save(folder, IMAGE, half(params["backbone"]))


def attribute_labels(scenes: world.Scenes, rng: np.random.Generator) -> np.ndarray:
    """Which backgrounds, shapes, colours and sizes are there: float32 [N, 4 + 6 + 6 + 2], some named wrongly."""

    def named(values: np.ndarray, kinds: int) -> np.ndarray:
        wrong = (rng.random(values.shape) < LABEL_NOISE) & (values != NONE)
        names = np.where(wrong, rng.integers(0, kinds, values.shape), values)
        return (names[:, :, None] == np.arange(kinds)).any(1)

    columns = [named(scenes.background[:, None], len(BACKGROUNDS))]
    columns += [named(scenes.objects[:, :, n], len(values)) for n, values in enumerate(ATTRIBUTES)]
    return np.concatenate(columns, axis=1).astype(np.float32)


def train_text_teacher(scenes: world.World, folder: Path) -> None:
    """InfoNCE between two captions of the same scene, the batch's other captions being negatives."""
    rng = np.random.default_rng(0)
    tokenizer = word_tokenizer(scenes.captions)
    tokenizer.enable_padding(pad_id=SPECIAL_TOKENS.index("<pad>"), pad_token="<pad>")
    encodings = tokenizer.encode_batch(scenes.captions)
    ids, mask = (np.array([getattr(e, name) for e in encodings]) for name in ("ids", "attention_mask"))
    tokenizer.no_padding()
    config = MPNetConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=256,
        max_position_embeddings=ids.shape[1] + 2,
        relative_attention_num_buckets=32,
        layer_norm_eps=1e-5,
        pad_token_id=SPECIAL_TOKENS.index("<pad>"),
    )
    model = MPNet(config)

    def loss(params: Params, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        states = cast(jax.Array, model.apply({"params": params}, *batch))
        first, second = jnp.split(pool(states, batch[1], "mean"), 2)
        return optax.softmax_cross_entropy_with_integer_labels(
            first @ second.T / TAU, jnp.arange(len(first))
        ).mean()

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        per_scene = len(ids) // len(scenes.scenes)
        while True:
            scene = rng.choice(len(scenes.scenes), BATCH, replace=False)
            first, second = rng.random((BATCH, per_scene)).argsort(axis=1)[:, :2].T
            rows = np.r_[scene * per_scene + first, scene * per_scene + second]
            yield ids[rows], mask[rows]

    params = fit("text", loss, model.init(jax.random.key(0), ids[:1], mask[:1])["params"], batches())
    checkpoints.save(folder, config, half(params))
    tokenizer.save(str(folder / "tokenizer.json"))


def word_tokenizer(captions: list[str]) -> Tokenizer:
    """One token for each word that occurs, lower-cased; sentences are <s> words </s>."""
    words = sorted({word for caption in captions for word in caption.split()})
    vocabulary = {token: n for n, token in enumerate((*SPECIAL_TOKENS, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(token, vocabulary[token]) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return tokenizer


def fit(name: str, loss: Loss, params: Params, batches: Iterator[Any]) -> Params:
    """AdamW with warm-up and cosine decay over --steps steps, with progress on the console."""
    steps = STEPS.value
    schedule = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, min(100, steps // 2), steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.05))

    @jax.jit
    def step(params: Params, state: optax.OptState, batch: Any) -> tuple[Params, optax.OptState, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    state, start = optimizer.init(params), time.monotonic()
    for done in range(1, steps + 1):
        params, state, value = step(params, state, next(batches))
        if done % 100 == 0 or done == steps:
            rate = done / (time.monotonic() - start)
            print(
                f"{name} teacher: step {done}/{steps}  loss {value:.4f}  {rate:.1f} steps/s  "
                f"{(steps - done) / rate:.0f} s left",
                flush=True,
            )
    return params


def half(params: Params) -> Params:
    return jax.tree.map(lambda x: np.asarray(x, np.float16), params)


def measure(folder: Path) -> dict[str, float]:
    """Spearman's ρ between the teachers' cosines and the graded overlap of facts, on scenes not trained on."""
    unseen = world.generate("teacher", HELD_OUT_SCENES, HELD_OUT_SEED)
    image, image_params = load_image_teacher(str(folder / "image"))
    text, text_params = load_text_teacher(str(folder / "text"), max_length=64)
    assert text.tokenize is not None
    return {
        "image_spearman": agreement(
            image.apply(image_params, unseen.images), world.fact_overlap(unseen.scenes, unseen.scenes)
        ),
        "text_spearman": agreement(
            text.apply(text_params, text.tokenize(unseen.captions)),
            world.fact_overlap(unseen.forms, unseen.forms),
        ),
    }


def agreement(features: jax.Array, overlap: np.ndarray) -> float:
    """Spearman's ρ of cosine [N, N] and overlap [N, N] over all pairs of different samples."""
    unit = np.asarray(features) / np.linalg.norm(features, axis=1, keepdims=True)
    pairs = np.triu_indices(len(unit), 1)
    ranks = np.stack([rank(matrix[pairs]) for matrix in (unit @ unit.T, overlap)])
    return float(np.corrcoef(ranks)[0, 1])


def rank(values: np.ndarray) -> np.ndarray:
    """Ranks with ties at their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[inverse]


if __name__ == "__main__":
    app.run(main)
