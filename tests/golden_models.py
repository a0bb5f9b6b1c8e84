"""Numbers recorded from the published code of further models, and the formulas its weights and inputs were made with.

goldens/sgraf: github.com/Paranioar/SGRAF, branch python3.6, unmodified, on CPU in float32 and float64 (dropout off);
cusa_derived there is derived as the paper's appendix describes, since no code of CUSA on SGRAF was published.
"""

import functools
from collections.abc import Callable
from typing import Any

import golden
import jax
import numpy as np

from cusa_jax.models import sgraf
from cusa_jax.models.sgraf_sizes import SgrafSizes
from cusa_jax.models.student import Options
from cusa_jax.weights import sgraf as table

FLOATS = {"f32": "float32", "f64": "float64"}


def weight(tag: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 value of a parameter or buffer, in torch's name and layout; the first rule that fits."""
    module, _, last = name.rpartition(".")
    if last == "num_batches_tracked":
        return np.zeros((), np.int64)
    uniform = golden.hash_uniform(f"{tag}/{name}", shape)
    if last == "running_var":
        value = 1 + 0.5 * uniform
    elif last == "running_mean" or (last != "weight" and "bias" in last):
        value = 0.1 * uniform
    elif last == "weight" and len(shape) == 1:  # norms
        value = 1 + 0.2 * uniform
    elif "embed" in module.rpartition(".")[2] and len(shape) == 2:
        value = 0.5 * uniform
    else:  # variance 1 / fan-in
        value = np.sqrt(3 / np.prod(shape[1:])) * uniform
    return value.astype(np.float32)


def jit(function: Callable, **options: Any) -> Callable:
    """`golden.jit` of large functions: XLA's older code generator compiles them in less than half the time."""
    compiling = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
    return jax.jit(function, compiler_options=compiling, **options)


@functools.cache
def case(name: str) -> dict[str, Any]:
    return golden.numbers("sgraf/model")["cases"][name]


def tensors(tag: str, shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """SGRAF's tensors by their whole names."""
    return {name: weight(f"sgraf/{tag}", name, tuple(shape)) for name, shape in shapes.items()}


def sizes(config: dict[str, Any], **rest: Any) -> SgrafSizes:
    """Of a golden's configuration, without dropout."""
    said = {name: config[name] for name in (*table.OPTIONS, "regions") if name in config}
    longest = max(config.get("lengths", [64]))
    return SgrafSizes(**said, max_words=longest, dropout=0.0, **rest)


def student(name: str, dtype: str, **options: Any) -> tuple[sgraf.SgrafStudent, Any]:
    """The student of a case and its variables, float32 or float64 ('f32', 'f64')."""
    config = case(name)["config"]
    heads = ("uni",) if (width := options.pop("fc_width", None)) else ()
    made = sgraf.student(
        sizes(config, **({"uni_dim": width} if width else {})), Options(heads, FLOATS[dtype], **options)
    )
    return made, variables(made, tensors(name, case(name)["shapes"]), dtype)


def variables(made: sgraf.SgrafStudent, named: dict[str, np.ndarray], dtype: str) -> Any:
    with golden.precision(dtype):
        template = jax.eval_shape(made.init, jax.random.key(0))
    ours = table.from_tensors(named, made.sizes, template, where="golden")
    return jax.tree.map(lambda x: x.astype(golden.DTYPES[dtype]), ours)


def batch(
    tag: str, part: str, config: dict[str, Any], images: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(regions float32 [V, R, D], ids int32 [B, L]): <start> words <end>, filled up with zeros."""
    lengths = np.array(config["lengths"])
    stem, shape = f"sgraf/{tag}/{part}", (len(lengths), lengths.max())
    regions = golden.hash_uniform(
        f"{stem}/images", (images or len(lengths), config["regions"], config["img_dim"])
    )
    ids = np.floor(golden.hash_uniform(f"{stem}/captions", shape, 4, config["vocab_size"])).astype(np.int32)
    ids[:, 0] = 1
    ids[np.arange(len(ids)), lengths - 1] = 2
    ids[np.arange(shape[1]) >= lengths[:, None]] = 0
    return regions.astype(np.float32), ids
