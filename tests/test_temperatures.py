"""Which temperatures there are, where they start and are clamped, and which ones train: as in the reference."""

import golden
import jax.numpy as jnp
import numpy as np
import pytest

from cusa_jax import temperatures
from cusa_jax.config import default_config
from cusa_jax.weights import reference

GOLDEN = golden.numbers("losses")
OURS = {theirs: ours for ours, theirs in reference.TEMPERATURE_NAMES.items()}


@pytest.mark.parametrize("case", [c for c in GOLDEN["cases"] if c["dataset"] == "A"],
                         ids=lambda c: f"{c['dtype']}-{c['case']}")  # fmt: skip
def test_existence_start_bounds_and_freezing_equal_the_reference(case):
    specs = temperatures.temperatures(reference.loss_config(GOLDEN["configs"][case["case"]]["loss_config"]))
    recorded = {OURS[name]: tau for name, tau in case["taus"].items()}
    dtype = golden.DTYPES[case["dtype"]]

    assert recorded.keys() <= specs.keys()
    assert {name for name, spec in specs.items() if spec.trainable} == {
        name for name, tau in recorded.items() if tau["requires_grad"]
    }
    with golden.precision(case["dtype"]):
        start = {name: jnp.asarray(spec.init, dtype) for name, spec in specs.items()}
        used = temperatures.clamp(start, specs)
    for name, tau in recorded.items():
        np.testing.assert_allclose(start[name], tau["init"], rtol=np.finfo(dtype).eps)
        np.testing.assert_allclose(used[name], tau["used"], rtol=np.finfo(dtype).eps)


def test_start_values_are_float32_scalars():
    taus = temperatures.init(temperatures.temperatures(default_config().loss))
    assert {name: (tau.dtype, tau.shape) for name, tau in taus.items()} == dict.fromkeys(
        taus, (jnp.float32, ())
    )


def test_the_shipped_recipe():
    specs = temperatures.temperatures(default_config().loss)
    assert {name: (s.init, s.min, s.max, s.trainable) for name, s in specs.items()} == {
        "contrastive": (0.05, 0.01, 0.10, True),
        "csa": (0.45, 0.10, 0.99, True),
        "csa_teacher": (1.0, 0.10, 1.0, False),
        "usa_image": (0.45, 0.10, 1.0, True),
        "usa_text": (0.45, 0.10, 1.0, True),
    }


def test_borrowed_temperatures_exist_and_train_where_csa_is_off():
    """The reference raises AttributeError here."""
    loss = default_config().loss
    loss.csa.weight = 0.0
    loss.usa.tau.from_csa = True
    specs = temperatures.temperatures(loss)
    assert specs.keys() == {"contrastive", "csa", "csa_teacher"}
    assert specs["csa"].trainable
    arguments = temperatures.arguments({name: name for name in specs}, loss, "usa")
    assert arguments == {
        "tau_image": "csa", "tau_text": "csa", "teacher_tau_image": "csa_teacher", "teacher_tau_text": "csa_teacher",
    }  # fmt: skip


def test_clamping_moves_frozen_temperatures_too():
    loss = default_config().loss
    loss.csa.teacher_tau.image.init, loss.csa.teacher_tau.text.init = 2.0, 3.0
    specs = temperatures.temperatures(loss)
    assert temperatures.clamp(temperatures.init(specs), specs)["csa_teacher"] == 1.0
