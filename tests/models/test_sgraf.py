"""SGR and SAF against the authors' code: everything it computes on the way, gradients, buffers and training steps."""

import functools

import golden
import golden_models
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cusa_jax.losses import csa, hinge, usa
from cusa_jax.models import alignment
from cusa_jax.types import SoftLabels
from cusa_jax.weights import sgraf as table

ARRAYS = golden.arrays("sgraf/model")
DERIVED = golden.numbers("sgraf/cusa_derived")
CASES = ("sgr_s1", "saf_s1", "sgr_s2", "saf_s3")
MODES = ("eval", "train")
ENCODED = {  # their name -> ours
    "img_emb": ("image", "members"),
    "cap_emb": ("text", "members"),
    "img_glo": ("image", "whole"),
    "cap_glo": ("text", "whole"),
}

every_case = pytest.mark.parametrize(
    ("case", "dtype", "mode"), [(case, dtype, mode) for case in CASES for dtype in golden.DTYPES for mode in MODES]
)


def fc_width(case):
    """Of the uni-modal heads that the derived numbers have; they change nothing else."""
    return DERIVED["cases"][case]["fc_width"] if case in DERIVED["cases"] else 4


@functools.cache
def start(case, dtype):
    """(student, variables), with the uni-modal heads of the derived numbers."""
    student, variables = golden_models.student(case, dtype, fc_width=fc_width(case))
    width, embed = fc_width(case), student.sizes.embed_size
    for side in ("image", "text"):
        stem, tag = f"uni_{side}_projection", f"sgraf/{case}/cusa"
        kernel = golden_models.weight(tag, f"{stem}.weight", (width, embed)).T
        bias = golden_models.weight(tag, f"{stem}.bias", (width,))
        variables["params"][f"uni_{side}"] = {
            "kernel": kernel.astype(golden.DTYPES[dtype]),
            "bias": bias.astype(golden.DTYPES[dtype]),
        }
    return student, variables


def inputs(case, dtype, part="in", images=None):
    image, tokens = golden_models.batch(case, part, golden_models.case(case)["config"], images)
    return image.astype(golden.DTYPES[dtype]), tokens


@functools.cache
def compiled(case, dtype, mode):
    """Everything of one pass, and its gradient by parameters and images, given those by the three similarities."""
    student = start(case, dtype)[0]
    train = ("image", "text") if mode == "train" else ()
    length = golden_models.case(case)["config"]["lengths"][0]

    def vectors_of_first_caption(module, image, text):
        encoder = module.similarity
        first = alignment.Captions(text.members[0, :length], jnp.zeros(length, int), text.whole[:1])
        vectors = alignment.align(image.members, image.whole, first, encoder.local(), encoder.whole())
        return vectors, encoder.reduction(bool(train))(vectors, first.nodes, 1)[0][:, 0]

    def forward(params, image, state, tokens):
        variables = {"params": params, **state}
        encoded, changed = student.encode(variables, image, tokens, train=train)
        similarities, compared = student.compare({**variables, **changed}, encoded, train=bool(train))
        seen = {
            name: getattr(encoded[side], field) for name, (side, field) in ENCODED.items()
        } | dict(
            zip(
                ("sim_emb_caption0", "sim_vec_caption0"),
                student.module.apply(
                    variables, encoded["image"], encoded["text"], method=vectors_of_first_caption
                ),
                strict=True,
            )
        )
        matrices = (similarities.image_text, similarities.image_image, similarities.text_text)
        return matrices, (encoded, seen, {**state, **changed, **compared})

    def both(variables, image, tokens, others, cotangents):
        state = {"batch_stats": variables["batch_stats"]}
        run = functools.partial(forward, state=state, tokens=tokens)
        matrices, pull, (encoded, seen, state) = jax.vjp(run, variables["params"], image, has_aux=True)
        if not train:
            others = student.encode_side(variables, "image", others)
            seen["scores_rect"] = student.score(variables, others, encoded["text"])
        return matrices, seen, state, pull(cotangents)

    return golden_models.jit(both)


def run(case, dtype, mode, variables, part="in", of=None):
    """(matrices, what was seen, model state, gradients by parameters and images) of a function of the matrices."""
    with golden.precision(dtype):
        image, tokens = inputs(case, dtype, part)
        others, _ = inputs(case, dtype, "rect", golden_models.case(case)["config"]["n_rect"])
        zeros = tuple(np.zeros((len(image), len(image)), image.dtype) for _ in range(3))
        function = compiled(case, dtype, mode)
        result = function(variables, image, tokens, others, zeros)
        if of is not None:
            matrices = result[0]
            cotangents = jax.grad(of)(matrices)
            result = function(variables, image, tokens, others, cotangents)
        return jax.device_get(result)


@functools.cache
def evaluated(case, dtype, mode, violation="max"):
    def loss(matrices):
        return hinge(matrices[0], negatives={"max": "hardest", "sum": "all"}[violation])

    return run(case, dtype, mode, start(case, dtype)[1], of=loss)


def tolerance(dtype, rounding):
    """(relative, absolute): three times what the authors' own float32 is off, or 1e-11 of max(1, |value|)."""
    return (0, 3 * rounding + 1e-9) if dtype == "f32" else (1e-11, 1e-11)


@every_case
def test_embeddings_vectors_and_scores_equal_the_original(case, dtype, mode):
    (scores, *_), seen, _, _ = evaluated(case, dtype, mode)
    roundings = golden_models.case(case)["modes"][mode]["f32_minus_f64_max_abs"]
    compared = 0
    for name, ours in {**seen, "scores": scores}.items():
        key = f"{case}/{mode}/f64/{name}"
        if key in ARRAYS:
            golden.assert_close(f"sgraf {dtype} {name}", ours, ARRAYS[key], *tolerance(dtype, roundings[name]))
            compared += 1
    assert compared == {"eval": 8, "train": 5}[mode]


@every_case
def test_losses_and_gradients_equal_the_original(case, dtype, mode):
    for violation, negatives in (("max", "hardest"), ("sum", "all")):
        recorded = golden_models.case(case)["modes"][mode][violation]
        (scores, *_), _, _, (gradients, by_image) = evaluated(case, dtype, mode, violation)
        with golden.precision(dtype):
            loss, by_scores = jax.value_and_grad(lambda s: hinge(s, negatives=negatives))(scores)  # noqa: B023
        floor = 4e-6 if dtype == "f32" else 1e-11
        golden.assert_close(f"sgraf {dtype} loss", loss, recorded["f64"]["loss"], 0, floor)
        golden.assert_close(
            f"sgraf {dtype} gradient by scores", by_scores, ARRAYS[f"{case}/{mode}/f64/grad_scores_{violation}"], 0, 0
        )
        roundings = recorded["grad_f32_minus_f64_max_abs"]
        named = table.to_tensors({"params": gradients}, start(case, dtype)[0].sizes)
        assert named.keys() == recorded["f64"]["grad"].keys()
        for name, ours in named.items():
            key = f"{case}/{mode}/f64/grad/{name}"
            if violation == "max" and key in ARRAYS:
                golden.assert_close(
                    f"sgraf {dtype} gradients", ours, ARRAYS[key], *tolerance(dtype, roundings[name])
                )
            check_statistics(f"sgraf {dtype} gradients", name, ours, recorded["f64"]["grad"][name], dtype, roundings[name])
        check_statistics(f"sgraf {dtype} gradient by images", "images", by_image, recorded["f64"]["grad_images"], dtype, 1e-5)


def check_statistics(family, name, ours, recorded, dtype, rounding):
    """Sums over a tensor, each off by no more than its elements may be."""
    relative, absolute = tolerance(dtype, rounding)
    ours_of = golden.statistics(ours, name)
    for statistic in ("l2", "sum", "probe", "first8"):
        room = absolute * (1 if statistic == "first8" else ours.size)
        golden.assert_close(f"{family}: {statistic}", ours_of[statistic], recorded[statistic], relative, room)


@pytest.mark.parametrize("dtype", golden.DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_running_statistics_move_once_for_each_caption(case, dtype):
    state = evaluated(case, dtype, "train")[2]
    buffers = table.to_tensors({"params": start(case, dtype)[1]["params"], **state}, start(case, dtype)[0].sizes)
    prefix = f"{case}/train/f64/buffer_after_one_forward/"
    recorded = {key.removeprefix(prefix): value for key, value in ARRAYS.items() if key.startswith(prefix)}
    assert len(recorded) == (6 if case.startswith("saf") else 4)
    for name, value in recorded.items():
        golden.assert_close(f"sgraf {dtype} buffers", buffers[name], value, *tolerance(dtype, 2e-7))


@pytest.mark.parametrize("dtype", golden.DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_five_training_steps_equal_the_original(case, dtype):
    recorded = golden_models.case(case)["steps"]
    student, variables = start(case, dtype)
    # torch clips by norm + 1e-6.
    optimizer = optax.adam(2e-4)
    with golden.precision(dtype):
        state = jax.jit(optimizer.init)(variables["params"])
        update = jax.jit(lambda g, s, p: _update(optimizer, g, s, p))
        for step in range(5):
            matrices, _, model_state, (gradients, _) = run(
                case, dtype, "train", variables, f"step{step}", lambda matrices: hinge(matrices[0])
            )
            golden.assert_close(
                f"sgraf {dtype} steps: loss", hinge(matrices[0]), recorded["f64"]["losses"][step], *_of_step(dtype)
            )
            params, state, norm = update(gradients, state, variables["params"])
            golden.assert_close(
                f"sgraf {dtype} steps: norm",
                norm,
                recorded["f64"]["total_norm_before_clip"][step],
                *((1e-4, 0) if dtype == "f32" else (1e-9, 0)),
            )
            variables = {"params": jax.device_get(params), **model_state}
    named = table.to_tensors(variables, student.sizes)
    zero = recorded["zero_gradient_parameters"]
    for name, value in recorded["f64"]["final"].items():
        # Adam makes steps of noise.
        if name not in zero:
            rounding = recorded["f32_minus_f64_max_abs"][name]
            check_statistics(f"sgraf {dtype} steps: parameters", name, named[name], value, dtype, rounding + 1e-8)
    prefix = f"{case}/steps/f64/buffer/"
    for name in [key.removeprefix(prefix) for key in ARRAYS if key.startswith(prefix)]:
        golden.assert_close(
            f"sgraf {dtype} steps: buffers", named[name], ARRAYS[prefix + name], *tolerance(dtype, 1e-5)
        )


def _of_step(dtype):
    return (0, 1e-5) if dtype == "f32" else (1e-11, 1e-11)


def _update(optimizer, gradients, state, params):
    # Heads that the original lacks have no gradient.
    norm = optax.tree.norm(gradients)
    clipped = jax.tree.map(lambda g: g * jnp.minimum(2.0 / (norm + 1e-6), 1), gradients)
    updates, state = optimizer.update(clipped, state)
    return optax.apply_updates(params, updates), state, norm


@pytest.mark.parametrize("name", golden.numbers("sgraf/model")["loss_only"])
@pytest.mark.parametrize(("violation", "negatives"), [("max", "hardest"), ("sum", "all")])
@pytest.mark.parametrize("dtype", golden.DTYPES)
def test_hinge_equals_the_original(name, violation, negatives, dtype):
    recorded = golden.numbers("sgraf/model")["loss_only"][name]
    with golden.precision(dtype):
        scores = ARRAYS[f"loss/{name}/scores"].astype(golden.DTYPES[dtype])
        loss, gradient = jax.value_and_grad(
            lambda s: hinge(s, margin=recorded["margin"], negatives=negatives)
        )(scores)
    golden.assert_close(
        f"hinge {dtype}", loss, recorded[f"{violation}/f64"], *((0, 1e-5) if dtype == "f32" else (1e-12, 1e-12))
    )
    golden.assert_close(f"hinge {dtype} gradient", gradient, ARRAYS[f"loss/{name}/f64/grad_{violation}"], 0, 0)


# --- CUSA on top: derived as the paper's appendix describes -----------------------------------------------------


def objective(case, variant, matrices, tau_cross, tau_uni):
    """(total, hinge, CSA, USA), CSA being on the scores or on their logits."""
    recorded = DERIVED["cases"][case]
    arrays = golden.arrays("sgraf/cusa_derived")
    labels = SoftLabels(arrays[f"{case}/teacher_image"], arrays[f"{case}/teacher_text"])
    labels = jax.tree.map(lambda x: x.astype(matrices[0].dtype), labels)
    scores, image, text = matrices
    aligned = jax.scipy.special.logit(scores) if variant == "logit" else scores
    terms = (
        hinge(scores),
        csa(aligned, labels, tau_cross, tau_cross),
        usa(image, text, labels, tau_uni, tau_uni),
    )
    return terms[0] + recorded["alpha"] * terms[1] + recorded["beta"] * terms[2], terms


@pytest.mark.parametrize("variant", ["score", "logit"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", golden.DTYPES)
@pytest.mark.parametrize("case", DERIVED["cases"])
def test_cusa_on_scores_and_uni_modal_heads(case, dtype, mode, variant):
    recorded = DERIVED["cases"][case][f"{mode}/{variant}"]
    arrays = golden.arrays("sgraf/cusa_derived")
    tau = DERIVED["tau_initial"]
    matrices, *_, (gradients, _) = run(
        case, dtype, mode, start(case, dtype)[1], of=lambda m: objective(case, variant, m, tau, tau)[0]
    )
    for side, gram in zip(("image", "text"), matrices[1:], strict=True):
        golden.assert_close(
            f"sgraf cusa {dtype} grams", gram, arrays[f"{case}/{mode}/f64/gram_{side}"], *tolerance(dtype, 3e-7)
        )
    with golden.precision(dtype):
        (total, terms), by_tau = jax.value_and_grad(
            lambda *taus: objective(case, variant, matrices, *taus), argnums=(0, 1), has_aux=True
        )(tau, tau)
    for name, value in zip(("hinge", "csa", "usa", "total"), (*terms, total), strict=True):
        golden.assert_close(f"sgraf cusa {dtype} losses", value, recorded["f64"][name], *_of_step(dtype))
    student, roundings = start(case, dtype)[0], recorded["grad_f32_minus_f64_max_abs"]
    named = table.to_tensors({"params": gradients}, student.sizes)
    for side in ("image", "text"):
        head = gradients[f"uni_{side}"]
        named |= {f"uni_{side}_projection.weight": head["kernel"].T, f"uni_{side}_projection.bias": head["bias"]}
    named |= dict(zip(("tau_cross", "tau_uni"), map(np.asarray, by_tau), strict=True))
    assert named.keys() == recorded["grad_f64"].keys()
    for name, ours in named.items():
        check_statistics(
            f"sgraf cusa {dtype} gradients", name, ours, recorded["grad_f64"][name], dtype, roundings[name]
        )
