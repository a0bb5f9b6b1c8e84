"""SGR and SAF against the authors' code: everything it computes on the way, gradients, buffers and training steps."""

import functools

import golden
import golden_models
import jax
import jax.numpy as jnp
import numpy as np
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

# Each is compiled, which is what takes the time: float32 has one of each module, and gradients in evaluation SAF.
RUNS = [*((case, "f64") for case in CASES), ("saf_s1", "f32"), ("sgr_s2", "f32")]
DIFFERENTIATED = [(*run, "train") for run in RUNS] + [("saf_s1", "f64", "eval")]

every_run = pytest.mark.parametrize(("case", "dtype"), RUNS)


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
        seen = {name: getattr(encoded[side], field) for name, (side, field) in ENCODED.items()} | dict(
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
        if (case, dtype, mode) in DIFFERENTIATED:
            matrices, pull, (encoded, seen, state) = jax.vjp(run, variables["params"], image, has_aux=True)
            gradients = pull(cotangents)
        else:
            (matrices, (encoded, seen, state)), gradients = run(variables["params"], image), None
        if not train:
            others = student.module.apply(variables, "image", others, method="encode")
            seen["scores_rect"] = student.module.apply(variables, others, encoded["text"], method="score")
        return matrices, seen, state, gradients

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
            result = function(variables, image, tokens, others, of(*result[0]))
        return jax.device_get(result)


@functools.cache
def evaluated(case, dtype, mode, violation="max"):
    """Under the hinge loss; its gradient is tested by itself, below."""

    def by_matrices(scores, image, text):
        recorded = ARRAYS[f"{case}/{mode}/f64/grad_scores_{violation}"].astype(scores.dtype)
        return recorded, np.zeros_like(image), np.zeros_like(text)

    return run(case, dtype, mode, start(case, dtype)[1], of=by_matrices)


def tolerance(dtype, rounding):
    """(relative, absolute): three times what the authors' own float32 is off, or 1e-11 of max(1, |value|)."""
    return (0, 3 * rounding + 1e-7) if dtype == "f32" else (1e-11, 1e-11)


@pytest.mark.parametrize("mode", MODES)
@every_run
def test_embeddings_vectors_and_scores_equal_the_original(case, dtype, mode):
    (scores, *_), seen, _, _ = evaluated(case, dtype, mode)
    roundings = golden_models.case(case)["modes"][mode]["f32_minus_f64_max_abs"]
    compared = 0
    for name, ours in {**seen, "scores": scores}.items():
        key = f"{case}/{mode}/f64/{name}"
        if key in ARRAYS:
            golden.assert_close(
                f"sgraf {dtype} {name}", ours, ARRAYS[key], *tolerance(dtype, roundings[name])
            )
            compared += 1
    assert compared == {"eval": 8, "train": 5}[mode]


@pytest.mark.parametrize(("case", "dtype", "mode"), DIFFERENTIATED)
def test_losses_and_gradients_equal_the_original(case, dtype, mode):
    for violation, negatives in (("max", "hardest"), ("sum", "all")):
        recorded = golden_models.case(case)["modes"][mode][violation]
        (scores, *_), _, _, (gradients, by_image) = evaluated(case, dtype, mode, violation)
        with golden.precision(dtype):
            loss = hinge(scores, negatives=negatives)
        golden.assert_close(f"sgraf {dtype} loss", loss, recorded["f64"]["loss"], *OF_LOSSES[dtype])
        roundings = recorded["grad_f32_minus_f64_max_abs"]
        named = table.to_tensors({"params": gradients}, start(case, dtype)[0].sizes)
        assert named.keys() == recorded["f64"]["grad"].keys()
        for name, ours in named.items():
            if dtype == "f32" and name in recorded["zero_gradient_parameters"]:
                continue
            key = f"{case}/{mode}/f64/grad/{name}"
            if violation == "max" and key in ARRAYS:
                golden.assert_close(
                    f"sgraf {dtype} gradients",
                    ours,
                    ARRAYS[key],
                    *tolerance(dtype, roundings[name] + 1e-6 * recorded["f64"]["grad"][name]["l2"]),
                )
            check_statistics(
                f"sgraf {dtype} gradients", name, ours, recorded["f64"]["grad"][name], dtype, roundings[name]
            )
        check_statistics(
            f"sgraf {dtype} gradient by images",
            "images",
            by_image,
            recorded["f64"]["grad_images"],
            dtype,
            1e-5,
        )


def check_statistics(family, name, ours, recorded, dtype, rounding):
    """Sums over a tensor, each off by no more than its elements may be."""
    # A tensor whose rounding was small by luck gets what is usual for one of its size.
    relative, absolute = tolerance(dtype, rounding + 1e-6 * recorded["l2"])
    ours_of = golden.statistics(ours, name)
    for statistic in ("l2", "sum", "probe", "first8"):
        room = absolute * (1 if statistic == "first8" else ours.size)
        golden.assert_close(f"{family}: {statistic}", ours_of[statistic], recorded[statistic], relative, room)


@every_run
def test_running_statistics_move_once_for_each_caption(case, dtype):
    state = evaluated(case, dtype, "train")[2]
    buffers = table.to_tensors(
        {"params": start(case, dtype)[1]["params"], **state}, start(case, dtype)[0].sizes
    )
    prefix = f"{case}/train/f64/buffer_after_one_forward/"
    recorded = {key.removeprefix(prefix): value for key, value in ARRAYS.items() if key.startswith(prefix)}
    assert len(recorded) == (6 if case.startswith("saf") else 4)
    for name, value in recorded.items():
        golden.assert_close(f"sgraf {dtype} buffers", buffers[name], value, *tolerance(dtype, 2e-7))


@every_run
def test_five_training_steps_equal_the_original(case, dtype):
    recorded = golden_models.case(case)["steps"]
    student, variables = start(case, dtype)
    moments = None
    for step in range(5):
        matrices, _, model_state, (gradients, _) = run(
            case,
            dtype,
            "train",
            variables,
            f"step{step}",
            of=lambda *matrices: hinge_and_gradient(*matrices)[1],
        )
        with golden.precision(dtype):
            loss = hinge_and_gradient(*matrices)[0]
        golden.assert_close(
            f"sgraf {dtype} steps: loss", loss, recorded["f64"]["losses"][step], *OF_LOSSES[dtype]
        )
        params, moments, norm = adam(step + 1, gradients, moments, variables["params"])
        expected = recorded["f64"]["total_norm_before_clip"][step]
        golden.assert_close(f"sgraf {dtype} steps: norm", norm, expected, {"f32": 1e-4, "f64": 1e-11}[dtype])
        variables = {"params": params, **model_state}
    named = table.to_tensors(variables, student.sizes)
    for name, value in recorded["f64"]["final"].items():
        if name not in recorded["zero_gradient_parameters"]:
            rounding = recorded["f32_minus_f64_max_abs"][name]
            check_statistics(f"sgraf {dtype} steps: parameters", name, named[name], value, dtype, rounding)
    prefix = f"{case}/steps/f64/buffer/"
    for name in [key.removeprefix(prefix) for key in ARRAYS if key.startswith(prefix)]:
        # Adam makes steps of what is but noise in a gradient of zero: of biases before a norm, which its mean sees.
        if dtype == "f64" or name.endswith("running_var"):
            golden.assert_close(
                f"sgraf {dtype} steps: buffers", named[name], ARRAYS[prefix + name], *tolerance(dtype, 1e-5)
            )


OF_LOSSES = {"f32": (0, 1e-5), "f64": (1e-11, 1e-11)}


@jax.jit
def hinge_and_gradient(*matrices):
    """Under SGRAF's hinge of the scores; the uni-modal matrices have no part in it."""
    return jax.value_and_grad(lambda matrices: hinge(matrices[0]))(matrices)


def adam(step, gradients, moments, params):
    """torch's clip_grad_norm_(2) and Adam(2e-4), in numpy: (parameters, moments, the norm before)."""
    norm = np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in jax.tree.leaves(gradients)))
    gradients = jax.tree.map(lambda g: g * min(2 / (norm + 1e-6), 1), gradients)
    first, second = moments or (jax.tree.map(np.zeros_like, params),) * 2
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradients)

    def moved(p, m, v):
        return p - 2e-4 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)

    return jax.tree.map(moved, params, first, second), (first, second), norm


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
        f"hinge {dtype}",
        loss,
        recorded[f"{violation}/f64"],
        *((0, 1e-5) if dtype == "f32" else (1e-12, 1e-12)),
    )
    golden.assert_close(
        f"hinge {dtype} gradient", gradient, ARRAYS[f"loss/{name}/f64/grad_{violation}"], 0, 0
    )


# --- CUSA on top: derived as the paper's appendix describes -----------------------------------------------------


@functools.partial(jax.jit, static_argnames="variant")
def objective(matrices, labels, weights, tau_cross, tau_uni, variant):
    """((total, (hinge, CSA, USA)), its gradient by matrices, tau_cross and tau_uni); CSA on scores or their logits."""

    def total(matrices, tau_cross, tau_uni):
        scores, image, text = matrices
        aligned = jax.scipy.special.logit(scores) if variant == "logit" else scores
        terms = (
            hinge(scores),
            csa(aligned, labels, tau_cross, tau_cross),
            usa(image, text, labels, tau_uni, tau_uni),
        )
        return terms[0] + weights[0] * terms[1] + weights[1] * terms[2], terms

    return jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)(matrices, tau_cross, tau_uni)


@pytest.mark.parametrize("variant", ["score", "logit"])
@pytest.mark.parametrize(
    ("case", "dtype", "mode"), [run for run in DIFFERENTIATED if run[0] in DERIVED["cases"]]
)
def test_cusa_on_scores_and_uni_modal_heads(case, dtype, mode, variant):
    recorded, sizes = DERIVED["cases"][case], start(case, dtype)[0].sizes
    arrays, tau = golden.arrays("sgraf/cusa_derived"), DERIVED["tau_initial"]
    labels = SoftLabels(
        *(arrays[f"{case}/teacher_{side}"].astype(golden.DTYPES[dtype]) for side in ("image", "text"))
    )
    weights = recorded["alpha"], recorded["beta"]
    matrices, *_, (gradients, _) = run(
        case,
        dtype,
        mode,
        start(case, dtype)[1],
        of=lambda *matrices: objective(matrices, labels, weights, tau, tau, variant)[1][0],
    )
    with golden.precision(dtype):
        (total, terms), (_, *by_tau) = objective(matrices, labels, weights, tau, tau, variant)
    recorded = recorded[f"{mode}/{variant}"]
    for side, gram in zip(("image", "text"), matrices[1:], strict=True):
        expected = arrays[f"{case}/{mode}/f64/gram_{side}"]
        golden.assert_close(f"sgraf cusa {dtype} grams", gram, expected, *tolerance(dtype, 3e-7))
    for name, value in zip(("hinge", "csa", "usa", "total"), (*terms, total), strict=True):
        golden.assert_close(f"sgraf cusa {dtype} losses", value, recorded["f64"][name], *OF_LOSSES[dtype])
    named = table.to_tensors({"params": gradients}, sizes)
    for side in ("image", "text"):
        head = gradients[f"uni_{side}"]
        named |= {
            f"uni_{side}_projection.weight": head["kernel"].T,
            f"uni_{side}_projection.bias": head["bias"],
        }
    named |= dict(zip(("tau_cross", "tau_uni"), map(np.asarray, by_tau), strict=True))
    assert named.keys() == recorded["grad_f64"].keys()
    for name, ours in named.items():
        rounding = recorded["grad_f32_minus_f64_max_abs"][name]
        check_statistics(
            f"sgraf cusa {dtype} gradients", name, ours, recorded["grad_f64"][name], dtype, rounding
        )
