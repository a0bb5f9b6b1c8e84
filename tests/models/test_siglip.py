"""SigLIP against Hugging Face's SiglipModel: every stage, the loss and all gradients; and what it must be given."""

import functools
import math

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cusa_jax.errors import InputError
from cusa_jax.inputs import Pixels, Text
from cusa_jax.losses.sigmoid import sigmoid
from cusa_jax.models import families
from cusa_jax.models.siglip_sizes import PRESETS, SiglipSizes
from cusa_jax.models.student import Options
from cusa_jax.types import Embeddings
from cusa_jax.weights.formats import read_weights
from cusa_jax.weights.siglip import key_table, to_scalars
from cusa_jax.weights.torch_layout import to_torch

CASES = ("s1", "s2")
ARRAYS, NUMBERS = golden.arrays("siglip"), golden.numbers("siglip")
EXACT = 1e-11  # of float64, relative to max(1, |value|)
ROUNDING = 3  # of float32, in units of the largest difference that the model's own float32 makes


@functools.cache
def weights(case):
    return read_weights(golden.FOLDER / "siglip" / case)


def pixels(case) -> np.ndarray:
    """float32 [B, S, S, 3]."""
    rows, size = len(ARRAYS[f"{case}/in/input_ids"]), weights(case).sizes.image_size
    made = golden.hash_uniform(f"siglip/{case}/pixel_values", (rows, 3, size, size))
    return made.astype(np.float32).transpose(0, 2, 3, 1)


def stages(module, params, image, tokens):
    """{golden's name: array} of both towers."""
    named = ("patch_embedding", "ln_post", "ln_final")
    encoded, seen = {}, {}
    for side, rows in (("image", image), ("text", tokens)):
        encoded[side], captured = module.apply(
            {"params": params}, side, rows, method="encode", mutable="intermediates",
            capture_intermediates=lambda submodule, _: submodule.name in named,
        )  # fmt: skip
        outputs = captured["intermediates"][side]
        seen |= {name: output["__call__"][0] for name, output in outputs.items() if name in named}
    features = {side: made["cross"] for side, made in encoded.items()}
    unit = {side: x / jnp.linalg.norm(x, axis=1, keepdims=True) for side, x in features.items()}
    return {
        "vision_embeddings": seen["patch_embedding"] + params["image"]["position_embedding"],
        "vision_last_hidden_state": seen["ln_post"],
        "vision_pooler_output": features["image"],
        "image_embeds": unit["image"],
        "text_last_hidden_state": seen["ln_final"],
        "text_pooler_output": features["text"],
        "text_embeds": unit["text"],
    }


@functools.cache
def run(case, dtype):
    """(stages, loss, its gradients under the file's names)"""
    kind, stored, number = golden.DTYPES[dtype], weights(case), NUMBERS[case]
    with golden.precision(dtype):
        # A student compares by value, so that both precisions are two of them.
        options = Options(heads=(), dtype=np.dtype(kind).name)
        module = families.make("siglip", stored.sizes, options).module
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, kind), stored.variables["params"])
        params |= {name: jnp.asarray([number[name]], kind) for name in ("logit_scale", "logit_bias")}
        # As the file stores them.
        params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float32), kind), params)

        def total(params, image, tokens):
            made = stages(module, params, image, tokens)
            tau, bias = jnp.exp(-params["logit_scale"][0]), params["logit_bias"][0]
            cosines = made["image_embeds"] @ made["text_embeds"].T
            made["logits_per_image"] = cosines / tau + bias
            made["logits_per_text"] = made["logits_per_image"].T
            return sigmoid(cosines, None, tau, bias), made

        image, tokens = pixels(case).astype(kind), ARRAYS[f"{case}/in/input_ids"]
        (loss, made), gradients = golden.jit(jax.value_and_grad(total, has_aux=True))(params, image, tokens)
        return jax.device_get((made, loss, to_torch(gradients, key_table(stored.sizes))))


@pytest.mark.parametrize("dtype", golden.DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_every_stage_and_the_loss_equal_hugging_faces(case, dtype):
    made, loss, _ = run(case, dtype)
    for name, ours in made.items():
        assert ours.dtype == golden.DTYPES[dtype]
        truth = ARRAYS[f"{case}/f64/{name}"]
        rounding = ROUNDING * NUMBERS[case]["f32_minus_f64_max_abs"][name]
        tolerance = {"f32": (0, rounding), "f64": (EXACT, EXACT)}[dtype]
        golden.assert_close(f"siglip {dtype}: {name}", ours, truth, *tolerance)
    recorded = NUMBERS[case]["loss"]
    tolerance = {"f32": (0, ROUNDING * abs(recorded["f32"] - recorded["f64"])), "f64": (EXACT, EXACT)}[dtype]
    golden.assert_close(f"siglip {dtype}: loss", loss, recorded["f64"], *tolerance)


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_every_parameter_equal_hugging_faces(case):
    gradients, recorded = run(case, "f64")[2], NUMBERS[case]["grad_f64"]
    assert gradients.keys() == recorded.keys()
    for name, statistics in recorded.items():
        ours = golden.statistics(gradients[name], name)
        for key in ("l2", "sum", "probe", "first8"):
            golden.assert_close("siglip f64: gradients", ours[key], statistics[key], EXACT, EXACT)


@pytest.mark.parametrize("case", CASES)
def test_gradients_in_float32_are_as_exact_as_hugging_faces(case):
    """To the model's own worst rounding, relative to each gradient: of a single one, it may be small by chance."""
    exact, rounded = run(case, "f64")[2], run(case, "f32")[2]
    recorded, zero = NUMBERS[case]["grad_f32_minus_f64_max_abs"], NUMBERS[case]["zero_gradient_parameters"]
    assert all(name.endswith("k_proj.bias") for name in zero)
    sizes = {name: np.abs(exact[name]).max() for name in recorded if name not in zero}
    worst = max(recorded[name] / size for name, size in sizes.items())
    for name, size in sizes.items():
        floor = ROUNDING * worst * size
        golden.assert_close("siglip f32: gradients", rounded[name], exact[name], 0, floor)


@pytest.mark.parametrize("case", CASES)
def test_the_scalars_make_hugging_faces_logits(case):
    scalars, cosines = weights(case).scalars, run(case, "f64")[0]
    assert scalars.keys() == to_scalars(np.zeros(1), np.zeros(1)).keys()
    assert all(value.dtype == np.float32 and value.shape == () for value in scalars.values())
    logits = (
        cosines["image_embeds"] @ cosines["text_embeds"].T / scalars["tau_sigmoid"] + scalars["bias_sigmoid"]
    )
    np.testing.assert_allclose(logits, ARRAYS[f"{case}/f64/logits_per_image"], rtol=0, atol=2e-5)


def test_a_student_of_it_is_compared_by_its_embeddings():
    """From uint8 pixels, which its own mean and std normalise, to a training step's similarities."""
    stored, tokens = weights("s1"), ARRAYS["s1/in/input_ids"]
    student = families.make("siglip", stored.sizes, Options(heads=()))
    image = np.random.default_rng(0).integers(0, 256, (len(tokens), 32, 32, 3), np.uint8)

    @golden.jit
    def step(variables, image, tokens):
        encoded, _ = student.encode(variables, image, tokens)
        sides = [
            student.encode_side(variables, side, rows) for side, rows in (("image", image), ("text", tokens))
        ]
        raw = student.module.apply(variables, "image", (image / 255.0 - 0.5) / 0.5, method="encode")
        return encoded, sides, raw, student.compare(variables, encoded)[0], student.score(variables, *sides)

    encoded, sides, raw, similarities, scores = step(stored.variables, image, tokens)
    np.testing.assert_allclose(sides[0]["cross"], raw["cross"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(similarities.image_text, scores, atol=1e-5)
    assert isinstance(student.embeddings(encoded), Embeddings)


def test_bfloat16_computes_close_to_float32():
    stored = weights("s1")
    student = families.make("siglip", stored.sizes, Options(heads=(), dtype="bfloat16", remat=True))
    for side, rows, name in (
        ("image", pixels("s1"), "image_embeds"),
        ("text", ARRAYS["s1/in/input_ids"], "text_embeds"),
    ):
        apply = golden.jit(functools.partial(student.module.apply, method="encode"), static_argnums=1)
        features = np.asarray(apply(stored.variables, side, rows)["cross"])
        cosines = (features * ARRAYS[f"s1/f64/{name}"]).sum(1) / np.linalg.norm(features, axis=1)
        assert (cosines > 0.999).all()


@pytest.mark.parametrize(
    ("preset", "image_millions", "text_millions"),
    # As open_clip counts them (docs/model_profile.csv), without logit scale and bias.
    [
        ("siglip_b_16_224", 92.88, 110.27),
        ("siglip_b_16_512", 93.52, 110.27),
        ("siglip_l_16_384", 316.28, 336.19),
        ("siglip_so400m_14_224", 427.68, 449.68),
        ("siglip_so400m_14_384", 428.23, 449.73),
        ("siglip_i18n_b_16_256", 92.93, 277.7),
    ],
)
def test_parameter_counts(preset, image_millions, text_millions):
    student = families.make(*families.presets()[preset], Options(heads=()))
    shapes = jax.eval_shape(student.init, jax.random.key(0))["params"]
    counts = {
        side: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) for side, tree in shapes.items()
    }
    assert counts["image"] / 1e6 == pytest.approx(image_millions, abs=0.0051)
    assert counts["text"] / 1e6 == pytest.approx(text_millions, abs=0.0051)


def test_what_it_must_be_given():
    inputs = families.make("siglip", PRESETS["siglip2_b_16_256"], Options()).inputs
    half = (0.5, 0.5, 0.5)
    assert inputs.image == Pixels(256, half, half, resize="squash", resampling="bicubic")
    assert inputs.text == Text(64, 256_000, "", pad_id=0, may_cut=False)
    assert families.make("siglip", PRESETS["siglip_b_16_256"], Options()).inputs.text.pad_id == 1


@pytest.mark.parametrize(
    ("side", "rows", "message"),
    [
        ("image", np.zeros((1, 24, 24, 3), np.float32), r"images of shape \(24, 24, 3\), but the model takes 32 px"),
        ("text", np.zeros((1, 8), np.int32), "captions of 8 tokens, but SigLIP takes them filled up to 16"),
    ],
)  # fmt: skip
def test_inputs_of_the_wrong_size_are_refused(side, rows, message):
    stored = weights("s1")
    with pytest.raises(InputError, match=message):
        stored.student().encode_side(stored.variables, side, rows)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"vision_heads": 5}, "a tower of width 768 cannot have 5 heads"),
        ({"text_layers": 10**9}, "text_layers is 1000000000, not a whole number from 1 to 200"),
        ({"vocab_size": 0}, "vocab_size is 0, not a whole number from 1"),
        ({"text_activation": "relu"}, "activation 'relu' is none of "),
        ({"vision_epsilon": 0.0}, "the epsilon of a layer norm is a positive number, not 0.0"),
        ({"image_size": 8}, "a patch of 16 pixels is larger than the image, 8"),
        ({"pad_id": 32_000}, "pad_id 32000 lies beyond the vocabulary of 32000"),
    ],
)
def test_sizes_that_make_no_model_are_refused(wrong, message):
    fields = vars(PRESETS["siglip_b_16_224"])
    with pytest.raises(InputError, match=message):
        SiglipSizes(**fields | wrong)
