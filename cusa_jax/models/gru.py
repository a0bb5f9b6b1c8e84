"""torch.nn.GRU: gates r, z, n; the reset gate acts behind the hidden product, r (h W + b).

linen's own cell has no bias in that product's r and z parts, and knows no second direction over rows of different
lengths.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from cusa_jax.models.affine import Affine, AffineParameters
from cusa_jax.models.layers import torch_linear_bias


class GRU(nn.Module):
    """Rows x [B, L, D], and which of their steps are there, bool [B, L], true first -> states.

    width: of the hidden state, H. Parameter tree: {'layer_0', 'layer_0_reverse', 'layer_1', …} of {'input', 'hidden'},
    kernels [D, 3H] and [H, 3H]. A layer reads both directions of the one before it.
    """

    width: int
    layers: int
    bidirectional: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(outputs [directions, B, L, H], zero where the mask is false; last states [directions, B, H]) on top.

        The last state of the forward direction is that of a row's last step, of the backward one of its first.
        """
        outputs = last = x
        suffixes = ("", "_reverse") if self.bidirectional else ("",)
        for layer in range(self.layers):
            directions = [
                GRUParameters(x.shape[-1], self.width, self.dtype, name=f"layer_{layer}{suffix}")()
                for suffix in suffixes
            ]
            outputs, last = read(directions, x.astype(self.dtype), mask)
            x = jnp.concatenate(list(outputs), axis=-1)
        return outputs, last


class GRUParameters(nn.Module):
    """Returns the weights (of inputs, of states) of one direction of one layer."""

    inputs: int
    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self) -> tuple[Affine, Affine]:
        init = torch_linear_bias(self.width)
        of_input, of_state = (
            AffineParameters(inputs, 3 * self.width, self.dtype, init, init, name=name)()
            for name, inputs in (("input", self.inputs), ("hidden", self.width))
        )
        return of_input, of_state


def read(
    directions: list[tuple[Affine, Affine]], x: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """x [B, L, D] in one direction, or in both at once -> (outputs [directions, B, L, H], last states).

    Backwards, what is read last comes first: there the mask is false at first, and the state stays zero.
    """
    gates = jnp.stack([of_input(x) for of_input, _ in directions])
    masks = jnp.stack([mask] * len(directions))
    of_state = jax.tree.map(lambda *parts: jnp.stack(parts), *(of_state for _, of_state in directions))
    outputs, last = jax.vmap(scan)(_turned(gates), of_state, _turned(masks))
    return _turned(outputs), last


def scan(gates: jax.Array, of_state: Affine, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Input gates [B, L, 3H] -> (outputs [B, L, H], last state [B, H]) from a zero state.

    Where the mask is false the state stays as it is.
    """
    start = jnp.zeros((len(gates), gates.shape[-1] // 3), gates.dtype)

    def step(state: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        gates, there = at
        input_r, input_z, input_n = jnp.split(gates, 3, axis=-1)
        state_r, state_z, state_n = jnp.split(of_state(state), 3, axis=-1)
        z = jax.nn.sigmoid(input_z + state_z)
        n = jnp.tanh(input_n + jax.nn.sigmoid(input_r + state_r) * state_n)
        new = (1 - z) * n + z * state
        return jnp.where(there, new, state), jnp.where(there, new, 0)

    last, outputs = jax.lax.scan(step, start, (gates.swapaxes(0, 1), mask.T[..., None]))
    return outputs.swapaxes(0, 1), last


def _turned(x: jax.Array) -> jax.Array:
    """[directions, B, L, …] with the steps of the second direction the other way round."""
    return jnp.concatenate([x[:1], x[1:, :, ::-1]])
