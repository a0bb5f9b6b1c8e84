"""CLIP's ResNet tower against the reference: features, gradients and running statistics, evaluating and training."""

import functools
import math
import zlib

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from flax.errors import ModifyScopeVariableError

from cusa_jax.errors import InputError
from cusa_jax.models import clip
from cusa_jax.models.clip import PRESETS, ClipConfig
from cusa_jax.models.resnet import BatchNorm, ModifiedResNet
from cusa_jax.models.student import Options
from cusa_jax.weights import openai
from cusa_jax.weights.torch_layout import to_torch

ARRAYS = golden.arrays("encoder_tinyR")
RECORDED = golden.numbers("encoders")["tinyR"]
TINY_R = golden.TINY_R
MODES = ("eval", "train")
# Of batches of 3 images, batch norms divide by small deviations: rounding grows more than in a ViT.
TOLERANCE = {"f32": 5e-6, "f64": 1e-13}  # times the array's own size


@functools.cache
def variables():
    return openai.from_tensors(TINY_R, golden.clip_tensors("tinyR"), "golden").variables


def image() -> np.ndarray:
    """float32 [3, 64, 64, 3]."""
    return (2 * golden.hash_uniform("tinyR/image", (3, 3, 64, 64))).astype(np.float32).transpose(0, 2, 3, 1)


@functools.cache
def pass_through(mode: str, dtype: str, remat: bool = False):
    """(features, 'batch_stats' after, gradients of Σ features² by parameters, by pixels) of the image tower."""
    with golden.precision(dtype):
        tower = jax.tree.map(
            lambda x: jnp.asarray(x, golden.DTYPES[dtype]),
            {name: collection["image"] for name, collection in variables().items()},
        )
        model = ModifiedResNet(TINY_R, remat=remat, dtype=golden.DTYPES[dtype])

        def squares(params, pixels):
            features, changed = model.apply(
                {**tower, "params": params}, pixels, train=mode == "train", mutable=["batch_stats"]
            )
            return (features**2).sum(), (features, changed["batch_stats"])

        grad = golden.jit(jax.value_and_grad(squares, argnums=(0, 1), has_aux=True))
        (_, aux), gradients = grad(tower["params"], jnp.asarray(image(), golden.DTYPES[dtype]))
        return jax.device_get((*aux, *gradients))


def named(collection: str, tree) -> dict[str, np.ndarray]:
    """The image tower's leaves by the reference's names, in its layouts."""
    return to_torch({collection: {"image": tree}}, openai.variables_table(TINY_R))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", golden.DTYPES)
def test_features_equal_the_reference(mode, dtype):
    theirs = ARRAYS[f"{mode}/{dtype}/image_features"]
    floor = TOLERANCE[dtype] * np.abs(theirs).max()
    golden.assert_close(f"ResNet {dtype} features", pass_through(mode, dtype)[0], theirs, 0, floor)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", golden.DTYPES)
def test_running_statistics_after_one_pass_equal_the_reference(mode, dtype):
    ours = named("batch_stats", pass_through(mode, dtype)[1])
    before = golden.clip_tensors("tinyR")
    assert len(ours) == 2 * 22  # a mean and a variance for each of 22 norms
    for name, statistic in ours.items():
        if mode == "eval":
            np.testing.assert_array_equal(statistic, before[name])
            continue
        theirs = ARRAYS[f"train/{dtype}/buffer/{name}"]
        golden.assert_close(
            f"ResNet {dtype} statistics", statistic, theirs, TOLERANCE[dtype], TOLERANCE[dtype]
        )
        assert np.abs(theirs - before[name]).max() > 1e-3  # they do move


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("dtype", "remat"), [("f32", False), ("f32", True), ("f64", False)])
def test_gradients_equal_the_reference(mode, dtype, remat):
    _, _, by_params, by_pixels = pass_through(mode, dtype, remat)
    gradients = named("params", by_params) | {"pixels": by_pixels.transpose(0, 3, 1, 2)}
    assert gradients.keys() == RECORDED[mode].keys()
    largest = max(recorded["l2"] for recorded in RECORDED[mode].values())
    for name, gradient in gradients.items():
        recorded, ours = RECORDED[mode][name], golden.statistics(gradient, name)
        floor = 4 * TOLERANCE[dtype] * recorded["l2"] + TOLERANCE[dtype] * largest / 100
        if name == "pixels":
            floor = max(floor, 1e-7 * recorded["l2"])  # recorded in float32
        for number in ("l2", "probe", "first8"):
            golden.assert_close(f"ResNet {dtype} gradients", ours[number], recorded[number], 0, floor)


def test_text_features_of_the_same_model_equal_the_reference():
    student = clip.student(TINY_R, Options(heads=()))
    features, _ = golden.jit(functools.partial(student.embed, side="text"))(
        variables(), rows=ARRAYS["in/text"]
    )
    golden.assert_close("ResNet f32 text", features, ARRAYS["eval/f64/text_features"], 0, 4e-6)


def test_training_needs_mutable_statistics():
    model = ModifiedResNet(TINY_R, remat=False, dtype=jnp.float32)
    tower = {name: collection["image"] for name, collection in variables().items()}
    with pytest.raises(ModifyScopeVariableError):
        jax.eval_shape(functools.partial(model.apply, train=True), tower, image())


def test_batch_norm_is_torchs():
    """By its definition in float64: biased variance to normalise, unbiased and momentum 0.1 to remember."""
    x = np.random.default_rng(0).normal(3, 2, size=(2, 3, 4, 5))
    with golden.precision("f64"):
        start = {"params": {"scale": np.full(5, 2.0), "bias": np.full(5, 0.5)},
                 "batch_stats": {"mean": np.full(5, 1.0), "var": np.full(5, 4.0)}}  # fmt: skip
        train, after = BatchNorm(True, jnp.float64).apply(start, x, mutable=["batch_stats"])
        evaluated = BatchNorm(False, jnp.float64).apply(start, x)
    rows = x.reshape(-1, 5)
    np.testing.assert_allclose(
        train.reshape(-1, 5), 2 * (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5) + 0.5
    )
    np.testing.assert_allclose(after["batch_stats"]["mean"], 0.9 * 1 + 0.1 * rows.mean(0))
    np.testing.assert_allclose(after["batch_stats"]["var"], 0.9 * 4 + 0.1 * rows.var(0, ddof=1))
    np.testing.assert_allclose(evaluated, 2 * (x - 1) / np.sqrt(4 + 1e-5) + 0.5)


def test_bfloat16_computes_close_to_float32():
    model = ModifiedResNet(TINY_R, remat=False, dtype=jnp.bfloat16)
    tower = {name: collection["image"] for name, collection in variables().items()}
    features = golden.jit(model.apply)(tower, image())
    assert features.dtype == jnp.bfloat16
    theirs = ARRAYS["eval/f32/image_features"]
    cosine = (features * theirs).sum(1) / np.linalg.norm(features, axis=1) / np.linalg.norm(theirs, axis=1)
    assert (cosine > 0.998).all()


# Of the reference's own models: parameters, and the CRC-32 of its state dict's sorted "name [shape]" lines
# without num_batches_tracked.
PUBLISHED = {
    "rn50": (102_007_136, 3940049032),
    "rn101": (119_688_032, 1166746822),
    "rn50x4": (178_300_600, 29325568),
    "rn50x16": (290_979_216, 3629814306),
    "rn50x64": (623_258_304, 3218261005),
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_presets_have_the_published_tensors(preset):
    student = clip.student(PRESETS[preset], Options(heads=()))
    shapes = jax.eval_shape(student.init, jax.random.key(0))
    parameters, checksum = PUBLISHED[preset]
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"])) == parameters
    # A zero-strided array has a shape and no memory.
    tensors = to_torch(
        jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes),
        openai.variables_table(PRESETS[preset]),
    )
    lines = sorted(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
    assert zlib.crc32("\n".join(lines).encode()) == checksum


def test_fresh_weights_follow_the_references_initialisation():
    """Blocks start as their shortcut; convolutions U(±1/√fan_in); attention N(0, 1/C)."""
    sizes = ClipConfig(
        embed_dim=64, image_size=32, patch_size=32, vision_width=16, vision_layers=0, resnet_blocks=(1, 1, 1, 2),
        text_width=64, text_layers=1, vocab_size=10,
    )  # fmt: skip
    fresh = golden.jit(clip.student(sizes, Options(heads=())).init)(jax.random.key(0))
    tower = traverse_util.flatten_dict(fresh["params"]["image"], sep="/")
    for name, leaf in tower.items():
        if name.endswith("scale"):
            assert (leaf == (0 if "bn3" in name and "layer" in name else 1)).all(), name
        elif "conv" in name:
            bound = math.prod(leaf.shape[:3]) ** -0.5
            assert 0.9 * bound < np.abs(leaf).max() <= bound, name
        elif name.endswith("_proj/kernel"):
            np.testing.assert_allclose(leaf.std(), 512**-0.5, rtol=0.03)
    statistics = traverse_util.flatten_dict(fresh["batch_stats"]["image"], sep="/")
    assert all((leaf == (1 if name.endswith("var") else 0)).all() for name, leaf in statistics.items())


def test_pixels_of_the_wrong_size_are_refused():
    model = ModifiedResNet(TINY_R, remat=False, dtype=jnp.float32)
    tower = {name: collection["image"] for name, collection in variables().items()}
    with pytest.raises(InputError, match=r"images of shape \(96, 96, 3\), but the model takes 64 px"):
        model.apply(tower, np.zeros((1, 96, 96, 3), np.float32))
