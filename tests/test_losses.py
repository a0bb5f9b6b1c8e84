"""Losses and gradients of all 256 configurations against the PyTorch reference, and edges where it gives up."""

import functools
import json

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from cusa_jax import losses, objective, scalars, similarity
from cusa_jax.config import default_config
from cusa_jax.errors import InputError
from cusa_jax.losses.term import Compared
from cusa_jax.types import Embeddings, SoftLabels
from cusa_jax.weights import reference

GOLDEN = golden.numbers("losses")
CASES = {(c["dataset"], c["dtype"], c["case"]): c for c in GOLDEN["cases"]}
FEATURES = GOLDEN["feature_order"]
TERMS = ("csa", "usa", "contrastive")  # the order of the recorded losses
LOSS_TOLERANCE = {"f32": (1e-6, 1e-7), "f64": (1e-12, 1e-15)}
# Relative, and beside `golden.rounding` a floor for temperatures only: their gradients are sums of S/τ² that
# cancel almost entirely in dataset E, whose rows are nearly alike.
GRADIENT_TOLERANCE = {"f32": (1e-5, 1e-7), "f64": (1e-10, 1e-15)}


def loss_config(case: str) -> ConfigDict:
    return reference.loss_config(GOLDEN["configs"][case]["loss_config"])


def clamped_taus(loss: ConfigDict, dtype: str) -> dict[str, jax.Array]:
    specs = scalars.specifications(loss)
    start = {name: jnp.asarray(spec.init, golden.DTYPES[dtype]) for name, spec in specs.items()}
    return scalars.clamp(start, specs)


def inputs(dataset: str, dtype: str) -> dict[str, np.ndarray]:
    return {
        name: golden.arrays("losses")[f"{dataset}/{name}"].astype(golden.DTYPES[dtype])
        for name in (*FEATURES, "soft_image", "soft_text")
    }


def evaluate(features, teachers, ids, loss, taus):
    """Weighted losses in the recorded order, and the gradient of their sum by (features, taus)."""

    def total(features, taus):
        value, terms = objective.of_embeddings(Embeddings(*features), teachers, ids, taus, loss)
        return value, [terms[name] * loss[name].weight for name in TERMS]

    (value, terms), gradients = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(features, taus)
    return value, terms, gradients


@functools.cache
def evaluate_golden(dataset: str, dtype: str, loss_json: str, ids_given: bool, tile: int):
    with golden.precision(dtype):
        loss, data = ConfigDict(json.loads(loss_json)), inputs(dataset, dtype)
        loss.tile = tile
        ids = jnp.asarray(golden.arrays("losses")[f"{dataset}/idx"]) if ids_given else None
        features, teachers = [data[name] for name in FEATURES], (data["soft_image"], data["soft_text"])
        return jax.device_get(evaluate(features, teachers, ids, loss, clamped_taus(loss, dtype)))


def without_freezing(loss: ConfigDict) -> str:
    """Freezing is the optimiser's affair, so the variants of a configuration that differ in it share a gradient."""
    loss = loss.copy_and_resolve_references()
    for owner in (
        loss.contrastive.tau,
        loss.csa.tau,
        loss.csa.teacher_tau,
        loss.usa.tau,
        loss.usa.teacher_tau,
    ):
        owner.trainable = True
    return loss.to_json()


@pytest.mark.parametrize("key", CASES, ids="-".join)
def test_losses_and_gradients_equal_the_reference(key):
    check_case(key, tile=0)


# To compile less: float64 for the formulas, and float32 for the rows that are nearly alike, where it rounds most.
@pytest.mark.parametrize(
    "key", [key for key in CASES if key[:2] in {("A", "f64"), ("E", "f32")}], ids="-".join
)
def test_tiled_losses_and_gradients_equal_the_reference(key):
    check_case(key, tile=5)  # divides no batch


def check_case(key, tile):
    dataset, dtype, case = key
    recorded, family = CASES[key], f"losses {dataset} {dtype}{' tiled' * (tile > 0)}"
    ids_given = GOLDEN["configs"][case]["idx_given"]
    value, terms, (features, taus) = evaluate_golden(
        dataset, dtype, without_freezing(loss_config(case)), ids_given, tile
    )

    for name, ours, theirs in zip(TERMS, terms, recorded["losses"], strict=True):
        golden.assert_close(f"{family} {name}", ours, theirs, *LOSS_TOLERANCE[dtype])
    np.testing.assert_allclose(value, sum(terms), rtol=1e-6)

    for theirs, tau in recorded["taus"].items():
        if tau["grad"] is not None:
            check_tau_gradient(f"{family} gradient by taus", key, theirs, taus[our_name(theirs)])
    for name, gradient in zip(FEATURES, features, strict=True):
        check_feature_gradient(f"{family} gradient by features", key, name, gradient)


def check_tau_gradient(family, key, name, gradient):
    dataset, dtype, case = key
    taus = {d: CASES[dataset, d, case]["taus"] for d in golden.DTYPES}
    pair = {d: [tau["grad"] for tau in taus[d].values() if tau["grad"] is not None] for d in golden.DTYPES}
    relative, floor = GRADIENT_TOLERANCE[dtype]
    floor = floor / taus[dtype][name]["used"] ** 2 + golden.rounding(**pair, dtype=dtype)
    golden.assert_close(family, gradient, taus[dtype][name]["grad"], relative, floor)


def check_feature_gradient(family, key, name, gradient):
    dataset, dtype, case = key
    recorded = CASES[key]
    if name not in recorded["grad_l2"]:
        assert not gradient.any()  # the reference says None: no term that is on uses this feature
        return
    relative, _ = GRADIENT_TOLERANCE[dtype]
    order = GOLDEN["datasets"][dataset]["grad_case_order"]
    if case in order:
        pair = {d: golden.arrays("losses")[f"{dataset}/grads_{d}"][order.index(case)] for d in golden.DTYPES}
        theirs = pair[dtype][FEATURES.index(name)]
        golden.assert_close(family, gradient, theirs, relative, golden.rounding(**pair, dtype=dtype))
    else:
        ours = golden.statistics(gradient, name)
        for statistic in ("l2", "probe"):
            pair = {d: CASES[dataset, d, case][f"grad_{statistic}"][name] for d in golden.DTYPES}
            floor = relative / 10 * recorded["grad_l2"][name] + golden.rounding(**pair, dtype=dtype)
            golden.assert_close(f"{family} ({statistic})", ours[statistic], pair[dtype], 0, floor)


def our_name(theirs: str) -> str:
    return next(ours for ours, name in reference.TEMPERATURE_NAMES.items() if name == theirs)


def soft_cross_entropy_rows(similarity, tau, targets):
    """-Σ Q log P of every row, in plain numpy."""
    logits = similarity / tau
    return -(targets * (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))).sum(axis=1)


def softmax_rows(matrix):
    exponentials = np.exp(matrix)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def cosines(features):
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return unit @ unit.T


@pytest.mark.parametrize("borrowed", ["tau", "teacher_tau"])
def test_usa_alone_with_temperatures_of_a_switched_off_csa(borrowed):
    """The reference raises AttributeError here: the temperatures to borrow were never made."""
    loss = default_config().loss
    loss.contrastive.weight, loss.csa.weight, loss.usa.weight = 0.0, 0.0, 0.5
    loss.usa.tau.from_csa, loss.usa.teacher_tau.from_csa = borrowed == "tau", borrowed == "teacher_tau"
    for kind, image, text in (("tau", 0.3, 0.5), ("teacher_tau", 0.6, 0.9)):
        owner = loss.csa if loss.usa[kind].from_csa else loss.usa
        owner[kind].shared = False
        owner[kind].image.init, owner[kind].text.init = image, text
    data = inputs("A", "f64")
    with golden.precision("f64"):
        features, teachers = [data[name] for name in FEATURES], (data["soft_image"], data["soft_text"])
        value, _, (gradients, taus) = evaluate(features, teachers, None, loss, clamped_taus(loss, "f64"))

    expected = 0.0
    for side, tau, teacher_tau in (("image", 0.3, 0.6), ("text", 0.5, 0.9)):
        targets = softmax_rows(cosines(data[f"soft_{side}"]) / teacher_tau)
        entropy = -(targets * np.log(targets)).sum(axis=1)
        crossed = soft_cross_entropy_rows(cosines(data[f"uni_{side}"]), tau, targets)
        expected += 0.5 * (crossed - entropy).mean() / 2
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    assert not gradients[0].any()
    assert not gradients[1].any()
    assert gradients[2].any()
    assert gradients[3].any()
    assert all(np.isfinite(taus[name]) for name in taus)


@pytest.mark.parametrize(("divergence", "reduction"), [("kl", "mean"), ("cross_entropy", "sum")])
@pytest.mark.parametrize("columns", [1, 12], ids=["missing feature file", "all-zero features"])
def test_teacher_features_of_zero_give_uniform_targets(columns, divergence, reduction):
    labels = similarity.teacher(np.zeros((8, columns), np.float32), inputs("A", "f32")["soft_text"])
    matrix = np.random.default_rng(0).uniform(-1, 1, (8, 8)).astype(np.float32)
    ours = losses.align(matrix, labels.image, 0.45, 0.2, divergence, reduction)

    uniform = np.full((8, 8), 1 / 8)
    expected = soft_cross_entropy_rows(matrix.astype(np.float64), 0.45, uniform)
    expected -= np.log(8) if divergence == "kl" else 0
    np.testing.assert_allclose(ours, expected.mean(), rtol=1e-6)


@pytest.mark.parametrize("edge", ["all_zero_soft_image_rows", "soft_image_is_[0.0] (unicom file missing)"])
def test_losses_under_a_blind_image_teacher_equal_the_reference(edge):
    _, terms, _ = evaluate_edge(soft_image=np.zeros((8, 12), np.float32))
    for ours, theirs in zip(terms, GOLDEN["edge"][edge]["losses"], strict=True):
        golden.assert_close("losses edge", ours, theirs, *LOSS_TOLERANCE["f32"])


def test_a_zero_student_row_ends_in_nan_where_it_is_used():
    """As in the reference: it has to reach the loss, where training stops on it, not be hidden by an epsilon."""
    edge = GOLDEN["edge"]["zero_student_row"]
    broken = inputs("A", "f32")["cross_image"].copy()
    broken[0] = 0
    _, terms, (gradients, _) = evaluate_edge(cross_image=broken)
    for ours, theirs in zip(terms, edge["losses"], strict=True):
        np.testing.assert_allclose(ours, float(theirs), rtol=1e-6)
    for name, gradient in zip(FEATURES, gradients, strict=True):
        assert np.isnan(gradient).any() == edge["grad_nan"][name]


def evaluate_edge(**changed):
    """Dataset A with other features, under the configuration that the edges were recorded with."""
    loss = loss_config("all/each/mean/idx1")
    loss.csa.tau.shared = loss.csa.teacher_tau.shared = True
    data = inputs("A", "f32") | changed
    features, teachers = [data[name] for name in FEATURES], (data["soft_image"], data["soft_text"])
    return evaluate(features, teachers, golden.arrays("losses")["A/idx"], loss, clamped_taus(loss, "f32"))


def test_terms_of_weight_zero_are_measured_but_do_not_count():
    loss, data = loss_config("none"), inputs("A", "f32")
    student = similarity.student(Embeddings(*(data[name] for name in FEATURES)))
    labels = similarity.teacher(data["soft_image"], data["soft_text"])
    taus = clamped_taus(loss, "f32")

    total, terms = objective.objective(Compared(student, labels), taus, loss)
    assert total == 0
    assert terms.keys() == {"contrastive", "csa", "usa"}
    assert all(term > 0 for term in terms.values())

    total, terms = objective.objective(Compared(student), taus, loss_config("contr/sum/idx0/block0"))
    assert terms == {"contrastive": total}


LABELS = SoftLabels(image=jnp.eye(4), text=jnp.eye(4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.csa(jnp.eye(4), LABELS, 0.5, 0.5, targets="sum"), "targets='sum' is none of each, add, dot"),
        (lambda: losses.csa(jnp.eye(4), LABELS, 0.5, 0.5, divergence="js"), "divergence='js' is none of kl, cross"),
        (lambda: losses.usa(jnp.eye(4), jnp.eye(4), LABELS, 0.5, 0.5, divergence="KL"), "divergence='KL'"),
        (lambda: losses.contrastive(jnp.eye(4), None, 0.05, "max"), "reduction='max' is none of mean, sum"),
    ],
)  # fmt: skip
def test_unknown_modes_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
