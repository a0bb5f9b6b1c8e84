"""Looking up rows of a table that no device holds whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cusa_jax.sharding import make_mesh, put_params, put_rows
from cusa_jax.teachers.stored import stored_teacher

SAMPLES = 21


@pytest.mark.parametrize(
    ("dtype", "held"), [("float32", "float32"), ("bfloat16", "bfloat16"), ("", "float16")]
)
def test_look_up_is_indexing_though_each_device_holds_its_rows_only(dtype, held):
    mesh = make_mesh(fsdp=2)
    features = np.random.default_rng(2).normal(size=(SAMPLES, 5)).astype(np.float16)
    teacher, table = stored_teacher("table", features, mesh, dtype)
    index = np.random.default_rng(3).integers(0, SAMPLES, 40).astype(np.int32)
    index[:3] = SAMPLES - 1, SAMPLES - 1, 0
    assert put_params(table, mesh) is table
    assert table.dtype == held
    assert {shard.data.shape[0] for shard in table.addressable_shards} == {3}  # 21 over 8 devices
    looked_up = jax.jit(teacher.apply)(table, put_rows(index, mesh))
    np.testing.assert_array_equal(looked_up, features.astype(jnp.dtype(held)).astype(np.float32)[index])
    assert looked_up.dtype == jnp.float32
    assert {shard.data.shape[0] for shard in looked_up.addressable_shards} == {5}
