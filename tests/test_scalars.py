"""Which scalars there are, where they start and are clamped, and which ones train: as in the reference."""

import golden
import jax.numpy as jnp
import numpy as np
import pytest

from cusa_jax import scalars
from cusa_jax.config import default_config
from cusa_jax.losses import directions
from cusa_jax.losses.term import Scalar
from cusa_jax.weights import reference

GOLDEN = golden.numbers("losses")
OURS = {theirs: ours for ours, theirs in reference.TEMPERATURE_NAMES.items()}


@pytest.mark.parametrize("case", [c for c in GOLDEN["cases"] if c["dataset"] == "A"],
                         ids=lambda c: f"{c['dtype']}-{c['case']}")  # fmt: skip
def test_existence_start_bounds_and_freezing_equal_the_reference(case):
    specs = scalars.specifications(reference.loss_config(GOLDEN["configs"][case["case"]]["loss_config"]))
    recorded = {OURS[name]: tau for name, tau in case["taus"].items()}
    dtype = golden.DTYPES[case["dtype"]]

    assert recorded.keys() <= specs.keys()
    assert {name for name, spec in specs.items() if spec.trainable} == {
        name for name, tau in recorded.items() if tau["requires_grad"]
    }
    with golden.precision(case["dtype"]):
        start = {name: jnp.asarray(spec.init, dtype) for name, spec in specs.items()}
        used = scalars.clamp(start, specs)
    for name, tau in recorded.items():
        np.testing.assert_allclose(start[name], tau["init"], rtol=np.finfo(dtype).eps)
        np.testing.assert_allclose(used[name], tau["used"], rtol=np.finfo(dtype).eps)


def test_start_values_are_float32_scalars():
    taus = scalars.init(scalars.specifications(default_config().loss))
    assert {name: (tau.dtype, tau.shape) for name, tau in taus.items()} == dict.fromkeys(
        taus, (jnp.float32, ())
    )


def test_the_shipped_recipe():
    specs = scalars.specifications(default_config().loss)
    assert {name: (s.init, s.min, s.max, s.trainable) for name, s in specs.items()} == {
        "tau_contrastive": (0.05, 0.01, 0.10, True),
        "tau_csa": (0.45, 0.10, 0.99, True),
        "tau_csa_teacher": (1.0, 0.10, 1.0, False),
        "tau_usa_image": (0.45, 0.10, 1.0, True),
        "tau_usa_text": (0.45, 0.10, 1.0, True),
    }


def test_borrowed_temperatures_exist_and_train_where_csa_is_off():
    """The reference raises AttributeError here."""
    loss = default_config().loss
    loss.csa.weight = 0.0
    loss.usa.tau.from_csa = True
    specs = scalars.specifications(loss)
    assert specs.keys() == {"tau_contrastive", "tau_csa", "tau_csa_teacher"}
    assert specs["tau_csa"].trainable
    assert directions.names(loss, "usa") == {
        "tau_image": "tau_csa",
        "tau_text": "tau_csa",
        "teacher_tau_image": "tau_csa_teacher",
        "teacher_tau_text": "tau_csa_teacher",
    }


def test_clamping_moves_frozen_temperatures_too():
    loss = default_config().loss
    loss.csa.teacher_tau.image.init, loss.csa.teacher_tau.text.init = 2.0, 3.0
    specs = scalars.specifications(loss)
    assert scalars.clamp(scalars.init(specs), specs)["tau_csa_teacher"] == 1.0


def test_the_sigmoid_loss_has_a_bias_below_zero_while_it_is_on():
    loss = default_config().loss
    assert "bias_sigmoid" not in scalars.specifications(loss)
    loss.sigmoid.weight = 1.0
    loss.sigmoid.bias.update(init=-70.0, min=-50.0)
    specs = scalars.specifications(loss)
    assert specs["bias_sigmoid"] == Scalar(-70.0, -50.0, 100.0, trainable=True)
    assert scalars.clamp(scalars.init(specs), specs)["bias_sigmoid"] == -50.0


def test_older_files_name_temperatures_without_tau():
    old = {"contrastive": 1, "csa_teacher": 2, "usa_image": 3, "tau_csa": 4, "bias_sigmoid": 5}
    assert scalars.renamed(old) == {
        "tau_contrastive": 1, "tau_csa_teacher": 2, "tau_usa_image": 3, "tau_csa": 4, "bias_sigmoid": 5,
    }  # fmt: skip
