"""Times the losses, dense against tiled, and the train step of each loss, on random inputs: no data, no weights.

python scripts/bench.py --config=configs/demo.py --teachers=toy [--config.batch_size=256 …] [--out=bench.json]

Variants run in alternating rounds; a figure is the median, beside it the spread (slowest minus fastest).
Memory is what the compiler plans. Without --teachers the teachers have the paper's sizes, with random weights.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from absl import flags

from cusa_jax import benchmark, objective, optim, sharding, temperatures
from cusa_jax.command import run
from cusa_jax.config import with_argument
from cusa_jax.data.images import normalise
from cusa_jax.experiment import build_model
from cusa_jax.step import Recipe, init_state, train_step
from cusa_jax.teachers import own
from cusa_jax.teachers.mpnet import MPNet, MPNetConfig
from cusa_jax.teachers.text import pool
from cusa_jax.teachers.unicom import Unicom, UnicomConfig
from cusa_jax.types import Batch, Embeddings, Teacher, Teachers

TABLES = flags.DEFINE_multi_enum("table", ["losses", "step"], ["losses", "step"], "What to measure.")
OUT = flags.DEFINE_string("out", "runs/bench.json", "JSON file for the tables.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds.")
BATCHES = flags.DEFINE_multi_integer("batch", [1024, 4096], "Rows of the losses table.")
DENSE_UP_TO = flags.DEFINE_integer("dense_up_to", 16384, "Rows above which only the tiled losses run.")
WIDTH = flags.DEFINE_integer("width", 64, "Width of all features of the losses table.")
TILE = flags.DEFINE_integer(
    "tile", 1024, "Side of a tile of the losses table; the step takes config.loss.tile."
)
TEACHERS = flags.DEFINE_enum("teachers", "real", ["real", "toy"], "Sizes of the step's teachers.")
TEXT_LENGTH = flags.DEFINE_integer("text_length", 77, "Tokens of the student's captions.")
TEACHER_TEXT_LENGTH = flags.DEFINE_integer("teacher_text_length", 20, "Tokens of the teacher's captions.")
MATMUL = flags.DEFINE_integer("matmul", 4096, "Side of the matrices that the device's rate is measured with.")

UNICOM = {"real": UnicomConfig(224, 32, 768, 12, 12), "toy": UnicomConfig(32, 8, 64, 2, 2)}
MPNET = {
    "real": MPNetConfig(30527, 768, 12, 12, 3072, 514, 32, 1e-5, 1),
    "toy": MPNetConfig(1000, 64, 2, 2, 256, 130, 32, 1e-5, 1),
}
# Row of the step table: which losses (see config.LOSSES), and where the teachers' features come from.
STEPS = {
    "contrastive": ("contrastive", None),
    "csa, precomputed": ("csa", "precomputed"),
    "usa, precomputed": ("usa", "precomputed"),
    "cusa, precomputed": ("cusa", "precomputed"),
    "cusa, live teachers": ("cusa", "live"),
}


def main(config, _config_name: str) -> None:
    tables = {}
    if "losses" in TABLES.value:
        tables["losses"] = [losses_row(config.loss, batch) for batch in BATCHES.value]
    if "step" in TABLES.value:
        tables["step"] = step_rows(config)
    for rows in tables.values():
        print(benchmark.table(rows), end="\n\n", flush=True)
    benchmark.write(Path(OUT.value), tables)
    print(f"written to {OUT.value}")


def losses_row(loss: Any, batch: int) -> dict[str, Any]:
    """Value and gradient of all three losses: time and memory of both ways, and how far apart they are."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(6, batch, WIDTH.value)).astype(np.float32)
    ids = rng.integers(0, batch, batch).astype(np.int32)
    specs = temperatures.temperatures(loss)
    taus = temperatures.clamp(temperatures.init(specs), specs)
    tiles = {"tiled": TILE.value} | ({"dense": 0} if batch <= DENSE_UP_TO.value else {})
    compiled = {}
    for name, tile in tiles.items():
        setting = loss.copy_and_resolve_references()
        setting.tile = tile
        total = functools.partial(loss_of_features, loss=setting)
        compiled[name] = jax.jit(jax.value_and_grad(total, argnums=(0, 3))).lower(
            features[:4], features[4:], ids, taus
        ).compile()  # fmt: skip
    calls = {
        name: functools.partial(function, features[:4], features[4:], ids, taus)
        for name, function in compiled.items()
    }
    seconds = benchmark.time_rounds(calls, REPEATS.value)
    row: dict[str, Any] = {"batch": batch, "width": WIDTH.value}
    for name in ("dense", "tiled"):
        time = benchmark.summary(seconds[name]) if name in calls else {"seconds": np.nan, "spread": np.nan}
        row |= {f"{name} s": time["seconds"], f"{name} ± s": time["spread"]}
        row[f"{name} MiB"] = benchmark.peak_bytes(compiled[name]) / 2**20 if name in calls else np.nan
    row["time ratio"] = row["tiled s"] / row["dense s"]
    row["max error"] = max_error(calls["tiled"](), calls["dense"]()) if "dense" in calls else np.nan
    return row


def loss_of_features(
    student: jax.Array, teacher: jax.Array, ids: jax.Array, taus: Any, loss: Any
) -> jax.Array:
    return objective.of_embeddings(Embeddings(*student), tuple(teacher), ids, taus, loss)[0]


def max_error(ours: Any, theirs: Any) -> float:
    """The largest difference of any value or gradient, relative to the largest entry of its array."""
    errors = jax.tree.map(lambda x, y: float(abs(x - y).max() / abs(y).max().clip(1e-30)), ours, theirs)
    return max(jax.tree.leaves(errors))


def step_rows(config: Any) -> list[dict[str, Any]]:
    """The train step in every variant. `calls` takes any other implementation of a step: name -> function."""
    compiled, calls = {}, {}
    for name, (losses, source) in STEPS.items():
        compiled[name], calls[name] = our_step(config, losses, source)
    rate = benchmark.matmul_rate(config.model.dtype, MATMUL.value, REPEATS.value)
    seconds = benchmark.time_rounds(calls, REPEATS.value)
    base = benchmark.summary(seconds["contrastive"])["seconds"]
    rows = []
    for name in calls:
        time = benchmark.summary(seconds[name])
        flops = benchmark.flops(compiled[name])
        rows.append({
            "step": name, "batch": config.batch_size, "s": time["seconds"], "± s": time["spread"],
            "pairs/s": config.batch_size / time["seconds"], "× contrastive": time["seconds"] / base,
            "GFLOP": flops / 1e9, "GFLOP/s": flops / time["seconds"] / 1e9,
            "of matmul rate": flops / time["seconds"] / rate,
            "MiB": benchmark.peak_bytes(compiled[name]) / 2**20,
        })  # fmt: skip
    return rows


def our_step(config: Any, losses: str, source: str | None) -> tuple[Any, Callable[[], Any]]:
    """The compiled train step, and a function that takes one."""
    config = with_argument(config.copy_and_resolve_references(), f"loss={losses}")
    mesh = sharding.make_mesh(config.sharding.fsdp)
    model, variables = build_model(config)
    teachers = {None: lambda _: None, "precomputed": precomputed_teachers, "live": live_teachers}[source](
        config
    )
    specs = temperatures.temperatures(config.loss)
    recipe = Recipe(
        model=model,
        temperatures=specs,
        optimizer=optim.optimizer(config.optim, np.full(1000, config.optim.lr, np.float32), specs),
        loss=config.loss,
        groups=config.batch_size // config.loss.local_batch if config.loss.negatives == "local" else 1,
        teachers=teachers,
        micro_batches=config.accumulate,
        mesh=mesh,
    )
    state = sharding.put_params(init_state(recipe, variables), mesh)
    frozen = teachers and sharding.put_params(
        {"image": teachers.image.params, "text": teachers.text.params}, mesh
    )
    rows = sharding.put_batch(random_batch(config.batch_size, model.clip, live=source == "live"), mesh)
    compiled = (
        jax.jit(functools.partial(train_step, recipe=recipe), donate_argnums=0)
        .lower(state, frozen, rows)
        .compile()
    )

    def step() -> dict[str, jax.Array]:
        nonlocal state
        state, metrics = compiled(state, frozen, rows)
        return metrics

    return compiled, step


def random_batch(batch: int, clip: Any, live: bool) -> Batch:
    rng = np.random.default_rng(0)

    def pixels(size: int) -> np.ndarray:
        return rng.integers(0, 256, (batch, size, size, 3), np.uint8)

    def tokens(vocabulary: int, length: int) -> np.ndarray:
        return rng.integers(2, vocabulary, (batch, length), np.int32)

    numbers = np.arange(batch, dtype=np.int32)
    teacher_size, teacher_vocabulary = UNICOM[TEACHERS.value].image_size, MPNET[TEACHERS.value].vocab_size
    text = tokens(teacher_vocabulary, TEACHER_TEXT_LENGTH.value)
    return Batch(
        image=pixels(clip.image_size),
        tokens=tokens(clip.vocab_size, min(TEXT_LENGTH.value, clip.context_length)),
        image_index=numbers,
        caption_index=numbers,
        teacher_index_image=numbers,
        teacher_index_text=numbers,
        teacher_image=pixels(teacher_size) if live and teacher_size != clip.image_size else None,
        teacher_text={"input_ids": text, "attention_mask": np.ones_like(text)} if live else None,
    )


def live_teachers(config: Any) -> Teachers:
    image_config, text_config = UNICOM[TEACHERS.value], MPNET[TEACHERS.value]
    image, text = Unicom(image_config, config.teacher.dtype), MPNet(text_config, config.teacher.dtype)

    def random_params(family: str, sizes: Any) -> Any:
        return jax.jit(own.FAMILIES[family].init, static_argnums=0)(sizes)

    def encode_text(params: Any, inputs: dict[str, jax.Array]) -> jax.Array:
        mask = inputs["attention_mask"]
        states = cast(jax.Array, text.apply({"params": params}, inputs["input_ids"], mask))
        return pool(states, mask, "mean")

    def encode_image(params: Any, pixels: jax.Array) -> jax.Array:
        return cast(jax.Array, image.apply({"params": params}, normalise(pixels)))

    return Teachers(
        Teacher("image", random_params("unicom", image_config), encode_image, "pixels"),
        Teacher("text", random_params("mpnet", text_config), encode_text, "text"),
    )


def precomputed_teachers(config: Any) -> Teachers:
    """Tables with the widths of the live teachers' features."""
    image, rng = UNICOM[TEACHERS.value], np.random.default_rng(1)

    def table(width: int) -> Teacher:
        features = rng.standard_normal((config.batch_size, width), np.float32)
        return Teacher("table", features, lambda features, index: features[index], "index")

    return Teachers(table(image.patches * image.dim), table(MPNET[TEACHERS.value].hidden_size))


if __name__ == "__main__":
    run(main)
