"""What the compiler makes of the transformer."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cusa_jax import step
from cusa_jax.models import clip, layers
from cusa_jax.models.clip import PRESETS
from cusa_jax.models.layers import Transformer, attend, attend_fused
from cusa_jax.models.student import Options


def test_the_gradient_of_the_residual_stream_is_written_once(monkeypatch):
    """The option that `step.jitted` gives keeps XLA from adding it up again in each of its uses."""
    tower = Transformer(2, heads=2, causal=True, activation="gelu", remat=False, dtype=jnp.float32)
    x = jnp.ones((2, 4, 8))
    variables = jax.jit(tower.init)(jax.random.key(0), x)

    def train_step(variables, _, x, recipe):
        return jax.grad(lambda variables: tower.apply(variables, x).sum())(variables)

    monkeypatch.setattr(step, "train_step", train_step)
    compiled = step.jitted(types.SimpleNamespace(mesh=None), donate=False).lower(variables, None, x).compile()
    assert compiled.as_text().count("opt-barrier(") == 4 - 1  # two a block; nothing follows the last


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [6, 7])
def test_attention_in_one_kernel_is_attention(causal, length):
    """What surrounds the kernel, with XLA's in place of cuDNN's: lengths, the unseen token, scale and mask."""
    keys = jax.random.split(jax.random.key(0), 4)
    *qkv, weights = (jax.random.normal(key, (3, length, 2, 8)) for key in keys)

    def gradients(function, *options):
        def total(*qkv):
            return (weights * function(*qkv, causal, *options)).sum()

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(*qkv)

    found, expected = gradients(attend_fused, "xla"), gradients(attend)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), found, expected)


def test_every_block_of_both_towers_attends_as_it_is_told(monkeypatch):
    calls = []

    def counted(query, key, value, causal):
        calls.append(causal)
        return attend(query, key, value, causal)

    monkeypatch.setitem(layers.ATTENTION, "cudnn", counted)
    sizes = PRESETS["toy"]
    jax.eval_shape(clip.student(sizes, Options(attention="cudnn")).init, jax.random.key(0))
    assert calls == [False] * sizes.vision_layers + [True] * sizes.text_layers
