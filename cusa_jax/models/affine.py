"""x W + b for functions that are no modules: the parameters are a module's, what is done with them is free."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct


@struct.dataclass
class Affine:
    """kernel [in, out], bias [out]."""

    kernel: jax.Array
    bias: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., in] -> [..., out], multiplied in the kernel's dtype, the result float32 or wider."""
        wide = jnp.promote_types(self.kernel.dtype, jnp.float32)
        product = jnp.matmul(x.astype(self.kernel.dtype), self.kernel, preferred_element_type=wide)
        return product + self.bias


class AffineParameters(nn.Module):
    """Returns the parameters {'kernel', 'bias'} of a Dense layer, as `dtype`; Xavier-uniform and zero when fresh."""

    inputs: int
    outputs: int
    dtype: jnp.dtype
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self) -> Affine:
        kernel = self.param("kernel", self.kernel_init, (self.inputs, self.outputs))
        bias = self.param("bias", self.bias_init, (self.outputs,))
        return Affine(kernel.astype(self.dtype), bias.astype(self.dtype))
