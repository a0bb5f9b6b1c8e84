"""The GRU against its equations, step by step in numpy: layers, directions, rows of different lengths."""

import golden
import jax
import numpy as np
import pytest

from cusa_jax.models.gru import GRU

LENGTHS = np.array([5, 1, 3])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_hand(params, x, length, reverse):
    """One row, one direction of one layer -> (states in the order of the row, last state)."""
    hidden = params["hidden"]
    state = np.zeros(len(hidden["kernel"]))
    states = np.zeros((length, len(state)))
    for step in reversed(range(length)) if reverse else range(length):
        of_input = np.split(x[step] @ params["input"]["kernel"] + params["input"]["bias"], 3)
        of_state = np.split(state @ hidden["kernel"] + hidden["bias"], 3)
        r, z = (sigmoid(of_input[n] + of_state[n]) for n in (0, 1))
        n = np.tanh(of_input[2] + r * of_state[2])
        state = (1 - z) * n + z * state
        states[step] = state
    return states, state


@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (2, True)])
def test_states_are_those_of_the_equations(layers, bidirectional):
    with golden.precision("f64"):
        x = golden.hash_uniform("gru/x", (3, 6, 4))
        mask = np.arange(6) < LENGTHS[:, None]
        module = GRU(5, layers, bidirectional, np.float64)
        params = jax.eval_shape(module.init, jax.random.key(0), x, mask)["params"]
        params = jax.tree.map(lambda p: golden.hash_uniform(f"gru/{p.shape}", p.shape), params)
        outputs, last = jax.device_get(golden.jit(module.apply)({"params": params}, x, mask))
    for row, length in enumerate(LENGTHS):
        read = x[row, :length]
        for layer in range(layers):
            directions = [
                by_hand(params[f"layer_{layer}" + "_reverse" * reverse], read, length, reverse)
                for reverse in ((False, True) if bidirectional else (False,))
            ]
            read = np.concatenate([states for states, _ in directions], axis=-1)
        for direction, (states, state) in enumerate(directions):
            np.testing.assert_allclose(outputs[direction, row, :length], states, atol=1e-13)
            np.testing.assert_array_equal(outputs[direction, row, length:], 0)
            np.testing.assert_allclose(last[direction, row], state, atol=1e-13)
