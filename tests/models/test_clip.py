"""CLIP's towers against the reference's features and gradients, and their sizes against the published ones."""

import dataclasses
import functools
import math

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cusa_jax.errors import InputError
from cusa_jax.models import clip
from cusa_jax.models.clip import PRESETS, TextTransformer, VisionTransformer
from cusa_jax.models.student import Options
from cusa_jax.weights import openai
from cusa_jax.weights.torch_layout import to_torch

ARRAYS = golden.arrays("encoder_tinyA")
STATISTICS = golden.numbers("encoders")["tinyA"]
FEATURE_TOLERANCE = {"f32": 4e-6, "f64": 1e-13}  # absolute; features are of size 1
GRADIENT_TOLERANCE = {"f32": 2e-6, "f64": 1e-13}  # times the gradient's norm


def image() -> np.ndarray:
    """float32 [3, 64, 64, 3]."""
    return (2 * golden.hash_uniform("tinyA/image", (3, 3, 64, 64))).astype(np.float32).transpose(0, 2, 3, 1)


@functools.cache
def towers():
    return openai.from_tensors(golden.TINY_A, golden.clip_tensors(), "golden").variables["params"]


def encoder(tower: str, dtype: str, remat: bool = False):
    """apply(params, inputs) of one tower."""
    module = {"image": VisionTransformer, "text": TextTransformer}[tower]
    model = module(golden.TINY_A, remat=remat, dtype=golden.DTYPES[dtype])
    return lambda params, inputs: model.apply({"params": params}, inputs)


@functools.cache
def features_and_gradients(dtype: str, remat: bool = False):
    """{tower: (features, gradient of Σ features² by parameters, by pixels or None)}"""
    out = {}
    with golden.precision(dtype):
        for tower, inputs in (("image", image().astype(golden.DTYPES[dtype])), ("text", ARRAYS["in/text"])):
            params = jax.tree.map(lambda x: jnp.asarray(x, golden.DTYPES[dtype]), towers()[tower])
            apply = encoder(tower, dtype, remat)

            def squares(params, inputs, apply=apply):
                features = apply(params, inputs)
                return (features**2).sum(), features

            by = (0, 1) if tower == "image" else (0,)
            (_, features), gradients = golden.jit(jax.value_and_grad(squares, argnums=by, has_aux=True))(
                params, inputs
            )
            out[tower] = jax.device_get((features, *gradients))
    return out


@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize("dtype", golden.DTYPES)
def test_features_equal_the_reference(tower, dtype):
    features = features_and_gradients(dtype)[tower][0]
    golden.assert_close(
        f"encoder {dtype} features",
        features,
        ARRAYS[f"{dtype}/{tower}_features"],
        0,
        FEATURE_TOLERANCE[dtype],
    )


@pytest.mark.parametrize(("dtype", "remat"), [("f32", False), ("f32", True), ("f64", False)])
def test_gradients_of_every_parameter_equal_the_reference(dtype, remat):
    gradients = {tower: result[1] for tower, result in features_and_gradients(dtype, remat).items()}
    tensors = to_torch(gradients, openai.key_table(golden.TINY_A))
    assert tensors.keys() == STATISTICS[dtype].keys()
    for name, gradient in tensors.items():
        check_statistics(f"encoder {dtype} gradients", name, gradient, STATISTICS[dtype][name], dtype)


def check_statistics(family, name, gradient, recorded, dtype):
    """Each statistic to within rounding of the gradient's own size."""
    floor = GRADIENT_TOLERANCE[dtype] * recorded["l2"]
    ours = golden.statistics(gradient, name)
    golden.assert_close(f"{family}: l2", ours["l2"], recorded["l2"], 0, floor)
    golden.assert_close(f"{family}: probe", ours["probe"], recorded["probe"], 0, floor)
    golden.assert_close(f"{family}: sum", ours["sum"], recorded["sum"], 0, floor * math.sqrt(gradient.size))
    golden.assert_close(f"{family}: first 8", ours["first8"], recorded["first8"], 0, floor)


@pytest.mark.parametrize("dtype", golden.DTYPES)
def test_gradient_by_pixels_equals_the_reference(dtype):
    gradient = features_and_gradients(dtype)["image"][2].transpose(0, 3, 1, 2)
    recorded = ARRAYS["f64/input_grad"]  # stored in float32
    floor = np.abs(recorded).max() * 2e-6
    golden.assert_close(f"encoder {dtype} gradient by pixels", gradient, recorded, 1e-6, floor)


def test_cutting_the_padding_leaves_text_features_as_they_are():
    tokens = ARRAYS["in/text"]
    lengths = (tokens != 0).sum(axis=1)
    apply, params = golden.jit(encoder("text", "f32")), towers()["text"]
    whole = apply(params, tokens)
    assert lengths.max() == 77
    rows = lengths < 77
    cut = apply(params, tokens[rows, : lengths[rows].max()])
    np.testing.assert_allclose(cut, whole[rows], atol=2e-6)


def test_the_first_of_several_end_of_text_tokens_counts():
    tokens = ARRAYS["in/text"][1:2].copy()
    first, second = np.flatnonzero(tokens[0] == 511)[:2]
    apply, params = golden.jit(encoder("text", "f32")), towers()["text"]
    whole = apply(params, tokens)
    tokens[0, first + 1 :] = 7  # nothing behind it is seen
    np.testing.assert_allclose(apply(params, tokens), whole, atol=2e-6)
    assert second > first


def test_bfloat16_computes_close_to_float32():
    model = VisionTransformer(golden.TINY_A, remat=False, dtype=jnp.bfloat16)
    features = golden.jit(model.apply)({"params": towers()["image"]}, image())
    assert features.dtype == jnp.bfloat16
    recorded = ARRAYS["f32/image_features"]
    cosine = (
        (features * recorded).sum(1) / np.linalg.norm(features, axis=1) / np.linalg.norm(recorded, axis=1)
    )
    assert (cosine > 0.999).all()


@pytest.mark.parametrize(
    ("preset", "heads", "parameters"),
    [
        ("vit_b_32", False, 151_277_312),
        ("vit_b_32", True, 152_332_032),
        ("vit_l_14_336", False, 427_944_192),
    ],
)
def test_parameter_counts(preset, heads, parameters):
    student = clip.student(PRESETS[preset], Options(heads=("cross", "uni") if heads else ()))
    shapes = jax.eval_shape(student.init, jax.random.key(0))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == parameters


def test_weights_that_do_not_fit_are_all_named_at_once():
    tensors = golden.clip_tensors()
    del tensors["visual.ln_pre.bias"], tensors["text_projection"]
    tensors["visual.extra"] = np.zeros(3, np.float32)
    tensors["ln_final.weight"] = np.zeros(65, np.float32)
    tensors["visual.proj"] = tensors["visual.proj"].astype(np.int32)
    with pytest.raises(InputError) as error:
        openai.from_tensors(golden.TINY_A, tensors, "weights.bin")
    message = str(error.value)
    assert message.startswith("weights.bin: ")
    assert "2 missing: visual.ln_pre.bias, text_projection" in message or (
        "2 missing: text_projection, visual.ln_pre.bias" in message
    )
    assert "1 unexpected: visual.extra" in message
    assert "2 unfit: " in message
    assert "ln_final.weight (float32 (65,) for float (64,))" in message
    assert "visual.proj (int32" in message


@pytest.mark.parametrize(
    ("tower", "inputs", "message"),
    [
        (
            "image",
            np.zeros((1, 96, 96, 3), np.float32),
            r"images of shape \(96, 96, 3\), but the model takes 64 px",
        ),
        ("text", np.zeros((1, 78), np.int32), "captions of 78 tokens, but the model takes 77"),
    ],
)
def test_inputs_of_the_wrong_size_are_refused(tower, inputs, message):
    with pytest.raises(InputError, match=message):
        encoder(tower, "f32")(towers()[tower], inputs)


def test_an_image_size_that_patches_do_not_tile_is_refused():
    with pytest.raises(InputError, match="image_size 60 is not a multiple of patch_size 16"):
        dataclasses.replace(golden.TINY_A, image_size=60)


@pytest.mark.parametrize(
    ("field", "value"),
    [("text_layers", 0), ("text_layers", 10**9), ("vocab_size", 2**63), ("vision_width", -64), ("embed_dim", 1.5),
     ("resnet_blocks", (1, 2, 10**9, 1))],
)  # fmt: skip
def test_sizes_that_no_model_has_are_refused_by_name(field, value):
    with pytest.raises(InputError, match=rf"^model: {field}.* not a whole number from"):
        dataclasses.replace(golden.TINY_A, **{field: value})


def test_a_model_is_given_the_pixels_it_was_trained_on():
    own = dataclasses.replace(golden.TINY_A, mean=(0.5, 0.25, 0.125), std=(0.5, 0.5, 0.25))
    student = clip.student(own, Options(heads=()))
    bytes_ = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(1, 64, 64, 3)
    normalised = (bytes_ / np.float32(255) - np.float32(own.mean)) / np.float32(own.std)
    apply = golden.jit(functools.partial(student.embed, side="image"))
    variables = {"params": towers()}
    ours, theirs = (apply(variables, rows=rows)[0] for rows in (bytes_, normalised))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
