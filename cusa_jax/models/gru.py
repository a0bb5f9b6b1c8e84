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
    """Rows x [B, L, D] and which of their steps are there, bool [B, L], true first -> states.

    width: of the hidden state, H. Parameter tree: {'layer_0', 'layer_0_reverse', 'layer_1', …} of {'input', 'hidden'},
    kernels [D, 3H] and [H, 3H]. A layer reads both directions of the one before it.
    """

    width: int
    layers: int
    bidirectional: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(outputs [B, L, directions, H], zero where the mask is false; last states [B, directions, H]) on top.

        The last state of the forward direction is that of a row's last step, of the backward one of its first.
        """
        outputs = last = x
        for layer in range(self.layers):
            read = [
                GRULayer(self.width, reverse, self.dtype, name=f"layer_{layer}" + "_reverse" * reverse)(x, mask)
                for reverse in ((False, True) if self.bidirectional else (False,))
            ]
            outputs, last = (jnp.stack(parts, axis=-2) for parts in zip(*read, strict=True))
            x = outputs.reshape(*mask.shape, -1)
        return outputs, last


class GRULayer(nn.Module):
    """One direction of one layer: (outputs [B, L, H], last state [B, H])."""

    width: int
    reverse: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        init = torch_linear_bias(self.width)
        of_input, of_hidden = (
            AffineParameters(inputs, 3 * self.width, self.dtype, init, init, name=name)()
            for name, inputs in (("input", x.shape[-1]), ("hidden", self.width))
        )
        return scan(of_input(x.astype(self.dtype)), of_hidden, mask, self.reverse)


def scan(gates: jax.Array, hidden: Affine, mask: jax.Array, reverse: bool) -> tuple[jax.Array, jax.Array]:
    """Input gates [B, L, 3H] -> (outputs [B, L, H], last state [B, H]) from a zero state.

    Where the mask is false the state stays as it is; backwards that comes first, and it stays zero.
    """
    start = jnp.zeros((len(gates), gates.shape[-1] // 3), gates.dtype)

    def step(state: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        gates, there = at
        input_r, input_z, input_n = jnp.split(gates, 3, axis=-1)
        hidden_r, hidden_z, hidden_n = jnp.split(hidden(state), 3, axis=-1)
        z = jax.nn.sigmoid(input_z + hidden_z)
        n = jnp.tanh(input_n + jax.nn.sigmoid(input_r + hidden_r) * hidden_n)
        new = (1 - z) * n + z * state
        return jnp.where(there, new, state), jnp.where(there, new, 0)

    last, outputs = jax.lax.scan(step, start, (gates.swapaxes(0, 1), mask.T[..., None]), reverse=reverse)
    return outputs.swapaxes(0, 1), last
