"""Times the train step, recipes of fine-tuning, the losses and the input pipeline; ratios are taken in one run.

python scripts/bench.py --config=configs/flickr.py [--model=vit_l_14_336 …] [--batch=64 --batch=128 …] [--tokens=24 …]
python scripts/bench.py --config=configs/flickr.py --table=step --repeats=0  # plans memory and counts FLOPs only
python scripts/bench.py --config=configs/flickr.py --against=CHECKOUT --step=cusa-live-text  # beside the reference
python scripts/bench.py --config=configs/f30k_sgraf.py --against=SGRAF_CHECKOUT --model=saf  # beside SGRAF's own code
python scripts/bench.py --config=configs/flickr.py --table=recipes [--recipe=full --recipe=lora …]  # beside each other
python scripts/bench.py --config=configs/demo.py --table=input               # on the configuration's own data
python scripts/bench.py --config=configs/demo.py --table=start               # from the command to the first step
python scripts/bench.py --config=configs/flickr.py --table=search            # [--photos=100000 …] [--repeats=1]

Variants run in alternating rounds; a figure is the median, beside it the spread (slowest minus fastest). Memory is
what the compiler plans. But for `input`, samples and teachers are random, of the paper's sizes.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from cusa_jax.benchmark import inputs, losses, measure, recipes, search, starts, steps, synthetic
from cusa_jax.benchmark.measure import Row
from cusa_jax.command import run
from cusa_jax.config import typed, with_argument
from cusa_jax.errors import InputError
from cusa_jax.models import families

TABLES = ("step", "recipes", "losses", "input", "start", "search")
TABLE = flags.DEFINE_multi_enum(
    "table", ["step", "losses"], TABLES, "What to measure; may be repeated, as others."
)
OUT = flags.DEFINE_string("out", "runs/bench.json", "JSON file for the tables.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds; 0 runs nothing, but plans and counts.", lower_bound=0)
MATMUL = flags.DEFINE_integer(
    "matmul", 4096, "Side of the matrices that a device's rate is measured with.", lower_bound=1
)

MODEL = flags.DEFINE_multi_enum("model", [], list(families.presets()), "Instead of config.model.name.")
BATCH = flags.DEFINE_multi_integer("batch", [], "Instead of config.batch_size.", lower_bound=2)
TOKENS = flags.DEFINE_multi_integer(
    "tokens", [77], "Of the student's captions.", lower_bound=2, upper_bound=77
)
TEACHER_TOKENS = flags.DEFINE_integer("teacher_tokens", 20, "Of the teacher's captions.", lower_bound=2)
TEACHERS = flags.DEFINE_enum("teachers", "real", list(synthetic.TEACHERS), "Their sizes.")
STEP = flags.DEFINE_multi_enum(
    "step",
    list(steps.VARIANTS),
    list(steps.VARIANTS),
    "Rows of the step table, all in memory at once; of --against, contrastive and cusa-live-text.",
)
RECIPE = flags.DEFINE_multi_enum(
    "recipe",
    list(recipes.RECIPES),
    list(recipes.RECIPES),
    "Rows of the recipes table, all in memory at once.",
)

ROWS = flags.DEFINE_multi_integer("rows", [1024, 4096], "Batch sizes of the losses table.", lower_bound=2)
WIDTH = flags.DEFINE_integer("width", 64, "Width of all its features.", lower_bound=1)
TILE = flags.DEFINE_integer(
    "tile", 1024, "Side of its tiles; the step takes config.loss.tile.", lower_bound=1
)
DENSE_UP_TO = flags.DEFINE_integer("dense_up_to", 16384, "Rows above which it runs the tiled losses only.")

BATCHES = flags.DEFINE_integer("batches", 20, "Of a round of the input table.", lower_bound=1)
PHOTOS = flags.DEFINE_multi_integer("photos", [1000, 100_000], "Of the search table.", lower_bound=1)
AGAINST = flags.DEFINE_string(
    "against", "", "Instead of tables: time a checkout of the PyTorch reference, or of SGRAF's own code."
)


def main(config: Any, _config_name: str) -> None:
    makers = {
        "step": step_rows,
        "recipes": recipe_rows,
        "losses": losses_rows,
        "input": input_rows,
        "start": start_rows,
        "search": search_rows,
        "against": against_rows,
    }
    typed(config)
    tables: dict[str, list[Row]] = {}
    for name in ["against"] if AGAINST.value else TABLE.value:
        if name in ("input", "start", "search", "against") and not REPEATS.value:
            raise InputError(
                f"--repeats=0 plans and counts, and there is nothing to plan in the {name} table"
            )
        for rows in makers[name](config):
            tables[name] = tables.get(name, []) + rows
            measure.write(Path(OUT.value), tables)  # a long measurement that is stopped leaves what it has
            print(measure.table(rows), end="\n\n", flush=True)
    print(f"written to {OUT.value}")


def step_rows(config: Any) -> Iterator[list[Row]]:
    rate = measure.matmul_rate(config.model.dtype, MATMUL.value, REPEATS.value) if REPEATS.value else np.nan
    for setting, sizes in _settings(config):
        try:
            yield steps.rows(setting, STEP.value, sizes, REPEATS.value, rate)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            remedy = f"{len(STEP.value)} steps of {setting.batch_size} rows do not fit; try fewer --step"
            print(f"{setting.model.name}: {remedy}", end="\n\n", flush=True)


def recipe_rows(config: Any) -> Iterator[list[Row]]:
    for setting, sizes in _settings(config):
        yield recipes.rows(setting, RECIPE.value, sizes, REPEATS.value)


def losses_rows(config: Any) -> Iterator[list[Row]]:
    for batch in ROWS.value:
        dense = batch <= DENSE_UP_TO.value
        row = functools.partial(losses.row, width=WIDTH.value, tile=TILE.value, repeats=REPEATS.value)
        yield [row(typed(config).loss, batch, dense=dense)]


def input_rows(config: Any) -> Iterator[list[Row]]:
    yield inputs.rows(config, BATCHES.value, REPEATS.value)


def start_rows(config: Any) -> Iterator[list[Row]]:
    yield starts.rows(config, REPEATS.value)


def search_rows(config: Any) -> Iterator[list[Row]]:
    for model in MODEL.value or [config.model.name]:
        named = with_argument(config.copy_and_resolve_references(), f"model={model}")
        for row in search.rows(typed(named), PHOTOS.value, REPEATS.value):
            yield [{"model": model, **row}]


def against_rows(config: Any) -> Iterator[list[Row]]:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two libraries share the device's memory
    try:
        from side_by_side import original, sgraf, timed
    except ImportError as error:
        raise InputError(f"{error}: pip install -r requirements-parity.txt") from error
    if sgraf.is_checkout(Path(AGAINST.value)):
        module = sgraf.import_original(Path(AGAINST.value))
        for setting, _ in _settings(config):
            yield sgraf.rows(module, setting, REPEATS.value)
        return
    if not set(STEP.value) & set(timed.PAIRS):
        raise InputError(f"--against has no --step={STEP.value[0]}; it takes {' and '.join(timed.PAIRS)}")
    checkout = Path(AGAINST.value)
    modules = original.import_reference(checkout.resolve())
    for setting, sizes in _settings(config):
        yield timed.rows(modules, checkout, setting, sizes, REPEATS.value, STEP.value)


def _settings(config: Any) -> Iterator[tuple[Any, synthetic.Sizes]]:
    """Configuration and sizes of the teachers for every model, batch and length."""
    teachers = synthetic.TEACHERS[TEACHERS.value]
    if config.model.name == "auto" and not MODEL.value:
        raise InputError("config.model.name='auto' has no sizes without weights: name one, --model=vit_b_32")
    for model in MODEL.value or [config.model.name]:
        for tokens in TOKENS.value:
            for batch in BATCH.value or [config.batch_size]:
                setting = with_argument(config.copy_and_resolve_references(), f"model={model}")
                setting.batch_size, setting.loss.local_batch = batch, min(batch, config.loss.local_batch)
                yield (
                    setting,
                    dataclasses.replace(teachers, student_tokens=tokens, teacher_tokens=TEACHER_TOKENS.value),
                )


if __name__ == "__main__":
    run(main)
