"""Numbers recorded from the PyTorch reference, the formulas its inputs were made with, and the comparison.

The goldens hold what the reference computed (github.com/lerogo/aaai24_itr_cusa, torch 2.13 on CPU) in float32
('f32') and in float64 ('f64', float32 weights and inputs upcast). Weights and inputs that are not in the files
follow from a hash of their names, so that no random stream has to be matched. Names and layouts are torch's.
"""

import contextlib
import functools
import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cusa_jax.models import clip
from cusa_jax.models.clip import ClipConfig
from cusa_jax.models.dual_encoder import DualEncoderStudent
from cusa_jax.models.student import Options
from cusa_jax.weights import openai
from cusa_jax.weights.torch_layout import from_torch, to_torch

FOLDER = Path(__file__).parent / "goldens"
DTYPES = {"f32": np.float32, "f64": np.float64}
TINY_A = ClipConfig(
    embed_dim=32, image_size=64, patch_size=16, vision_width=64, vision_layers=2, text_width=64, text_layers=2,
    vocab_size=512,
)  # fmt: skip
TINY_R = ClipConfig(
    embed_dim=32, image_size=64, patch_size=32, vision_width=4, vision_layers=0, resnet_blocks=(1, 2, 1, 1),
    text_width=64, text_layers=1, vocab_size=256, context_length=16,
)  # fmt: skip
HEADS = tuple(f"{kind}_{side}" for kind in ("cross", "uni") for side in ("image", "text"))

WORST: dict[str, tuple[int, float]] = {}  # family -> comparisons made, worst error in units of the tolerance


@functools.cache
def numbers(name: str) -> Any:
    """The content of a JSON golden."""
    return json.loads((FOLDER / f"{name}.json").read_text())


@functools.cache
def arrays(name: str) -> dict[str, np.ndarray]:
    """The content of an npz golden."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


def precision(dtype: str) -> contextlib.AbstractContextManager:
    """float64 arithmetic inside the context for 'f64', jax's default for 'f32'."""
    return jax.enable_x64(dtype == "f64")


def jit(function: Callable, **options: Any) -> Callable:
    """jax.jit without XLA's optimisations: in tests, compiling is what takes the time."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0}, **options)


def assert_close(family: str, ours: Any, golden: Any, relative: float, floor: float = 0.0) -> None:
    """|ours - golden| <= relative |golden| + floor, everywhere; the worst case of a family is kept in WORST."""
    ours, golden = np.asarray(ours, np.float64), np.asarray(golden, np.float64)
    assert ours.shape == golden.shape
    difference, tolerance = np.abs(ours - golden), relative * np.abs(golden) + floor
    error = difference / np.maximum(tolerance, np.finfo(float).tiny)
    worst = float(error.max(initial=0))  # NaN stays NaN, and fails below
    comparisons, before = WORST.get(family, (0, 0.0))
    WORST[family] = comparisons + 1, max(before, worst)
    assert worst <= 1, f"{family}: off by {difference.max():.3e}, {worst:.3g} times the tolerance"


def rounding(f32: Any, f64: Any, dtype: str) -> float:
    """How far two correct implementations may lie apart, from the reference's own float32 and float64 numbers.

    Both round, each about as far as the reference's float32 lies from its float64; in float64 that shrinks by the
    ratio of the machine epsilons, 2^-29.
    """
    return 2 * float(np.abs(np.asarray(f32, np.float64) - f64).max()) * {"f32": 1.0, "f64": 2.0**-29}[dtype]


def damaged(data: bytes, truncations: int, flips: int) -> Iterator[bytes]:
    """The file cut short, and with one to three bits flipped, at reproducible places.

    CUSA_DAMAGED=100 makes a hundred times as many, at other places.
    """
    times = int(os.environ.get("CUSA_DAMAGED", "1"))
    rng = np.random.default_rng(times - 1)
    for cut in rng.integers(0, len(data), times * truncations):
        yield data[:cut]
    for _ in range(times * flips):
        flipped = bytearray(data)
        for position in rng.integers(0, len(data), rng.integers(1, 4)):
            flipped[position] ^= 1 << rng.integers(8)
        yield bytes(flipped)


# --- formulas -------------------------------------------------------------------------------------------------


def hash_uniform(name: str, shape: tuple[int, ...], low: float = -1.0, high: float = 1.0) -> np.ndarray:
    """float64 in [low, high): splitmix64 of a counter that starts at the CRC-32 of the name."""
    step = 0x9E3779B97F4A7C15
    counter = np.arange(1, np.prod(shape, dtype=int) + 1, dtype=np.uint64) + np.uint64(
        zlib.crc32(name.encode())
    )
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64
        bits = counter * np.uint64(step)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    unit = ((bits ^ (bits >> np.uint64(31))) >> np.uint64(11)) / 2**53
    return (low + (high - low) * unit).reshape(shape)


def probe(array: Any, name: str) -> float:
    """One number that every element of a tensor has a say in: its product with a hashed direction."""
    array = np.asarray(array, np.float64)
    return float(np.vdot(array, hash_uniform(f"probe/{name}", array.shape)))


def statistics(array: Any, name: str) -> dict[str, Any]:
    """What the goldens keep of a large tensor."""
    array = np.asarray(array, np.float64)
    return {
        "l2": float(np.linalg.norm(array)),
        "sum": float(array.sum()),
        "probe": probe(array, name),
        "first8": array.ravel()[:8],
    }


def clip_tensors(which: str = "tinyA") -> dict[str, np.ndarray]:
    """OpenAI-named float32 weights of the tiny CLIP."""
    return {
        name: _clip_tensor(which, name, tuple(shape))
        for name, shape in numbers("encoders")[which]["shapes"].items()
    }


def _clip_tensor(which: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name == "logit_scale":
        return np.float32(np.log(1 / 0.07))
    if name.endswith("num_batches_tracked"):
        return np.array(0, np.int64)
    uniform = hash_uniform(f"{which}/{name}", shape)
    if name.endswith("running_var"):
        value = 1 + 0.5 * uniform
    elif name.endswith(("bias", "running_mean")):
        value = 0.1 * uniform
    elif name.endswith(".weight") and len(shape) == 1:  # norms
        value = 1 + 0.2 * uniform
    elif name.endswith(("embedding", "token_embedding.weight")):
        value = 0.3 * uniform
    else:  # variance 1 / fan-in; the projections are stored as [in, out], the rest as [out, in, ...]
        fan_in = shape[0] if name.endswith(".proj") or name == "text_projection" else np.prod(shape[1:])
        value = np.sqrt(3 / fan_in) * uniform
    return value.astype(np.float32)


def head_tensors(embed_dim: int) -> dict[str, np.ndarray]:
    """The reference's names and float32 weights of all four heads, as in the training runs."""
    tensors = {}
    for module in HEADS:
        for name, shape, centre, spread in (
            (f"ln_{module}_projection.weight", (embed_dim,), 1, 0.1),
            (f"ln_{module}_projection.bias", (embed_dim,), 0, 0.05),
            (f"{module}_projection.weight", (embed_dim, embed_dim), 0, 0.02 * np.sqrt(3)),
            (f"{module}_projection.bias", (embed_dim,), 0, 0.01),
        ):
            value = centre + spread * hash_uniform(f"train/head/{name}", shape)
            tensors[name] = value.astype(np.float32)
    return tensors


def train_batch(step: int, rows: int = 8) -> dict[str, np.ndarray]:
    """One batch of the training runs: image (NHWC, normalised), text, soft_image, soft_text, idx."""
    tag = f"train/tinyA/{step}"
    size, length, vocab = TINY_A.image_size, TINY_A.context_length, TINY_A.vocab_size
    text = np.zeros((rows, length), np.int32)
    for row, words in enumerate(np.floor(hash_uniform(f"{tag}/len", (rows,), 0, 12)).astype(int)):
        ids = np.floor(hash_uniform(f"{tag}/tok{row}", (length,), 1, vocab - 2))
        text[row, : words + 3] = [vocab - 2, *ids[1 : words + 2], vocab - 1]
    image = 2 * hash_uniform(f"{tag}/image", (rows, 3, size, size))
    return {
        "image": image.astype(np.float32).transpose(0, 2, 3, 1),
        "text": text,
        "soft_image": hash_uniform(f"{tag}/soft_image", (rows, 24), -0.4, 1.0).astype(np.float32),
        "soft_text": hash_uniform(f"{tag}/soft_text", (rows, 20), -0.4, 1.0).astype(np.float32),
        "idx": np.floor(hash_uniform(f"{tag}/idx", (rows,), 0, 10)).astype(np.int32),
    }


# --- parameters -----------------------------------------------------------------------------------------------

REFERENCE_KEYS = openai.key_table(TINY_A, ("cross", "uni"), prefix="clip_model.")


def tiny_model(dtype: str) -> tuple[DualEncoderStudent, Any]:
    """The training runs' student and its start parameters."""
    model = clip.student(TINY_A, Options(dtype=np.dtype(DTYPES[dtype]).name))
    template = jax.eval_shape(model.init, jax.random.key(0))["params"]
    tensors = {f"clip_model.{name}": tensor for name, tensor in clip_tensors().items()}
    del tensors["clip_model.logit_scale"]
    tensors |= head_tensors(TINY_A.embed_dim)
    params = from_torch(tensors, template, REFERENCE_KEYS, ignored={}, where="golden")
    return model, jax.tree.map(lambda x: np.asarray(x, DTYPES[dtype]), params)


def reference_tensors(params: Any) -> dict[str, np.ndarray]:
    """A tree shaped like a DualEncoder's parameters -> the reference's names and layouts."""
    return to_torch(params, REFERENCE_KEYS)
