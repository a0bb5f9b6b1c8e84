"""Where arrays live: parameters split over `fsdp`, rows over every device, whatever is put there comes back."""

import jax
import numpy as np
import pytest

from cusa_jax import sharding
from cusa_jax.errors import InputError

PARAMS = {
    "kernel": np.arange(24 * 16.0).reshape(24, 16),
    "square": np.arange(8 * 8.0).reshape(8, 8),
    "odd": np.arange(7.0),
    "scalar": np.float32(3),
}


@pytest.mark.parametrize("fsdp", [1, 2, 4, 8])
def test_every_device_holds_its_share_of_the_parameters(fsdp):
    placed = sharding.put_params(PARAMS, sharding.make_mesh(fsdp))
    for name, shares in {"kernel": fsdp, "square": fsdp, "odd": 1, "scalar": 1}.items():
        shard = placed[name].addressable_shards[0].data
        assert shard.size * shares == PARAMS[name].size
        np.testing.assert_array_equal(sharding.fetch(placed[name]), PARAMS[name])
    split = placed["kernel"].addressable_shards[0].data.shape
    assert split == (24 // fsdp, 16)  # along the longest axis


def test_abstract_parameters_say_where_put_would_put_them():
    mesh = sharding.make_mesh(4)
    placed, abstract = sharding.put_params(PARAMS, mesh), sharding.abstract_params(PARAMS, mesh)
    for name, array in placed.items():
        assert (abstract[name].shape, abstract[name].sharding) == (array.shape, array.sharding)


def test_rows_go_to_all_devices_in_order():
    mesh = sharding.make_mesh(2)
    rows = np.arange(16 * 3).reshape(16, 3)
    for placed in (sharding.put_batch({"x": rows}, mesh)["x"], sharding.put_rows(rows, mesh)):
        assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 3)}
        assert len({shard.device for shard in placed.addressable_shards}) == 8
        np.testing.assert_array_equal(sharding.fetch(placed), rows)


@pytest.mark.parametrize(("rows", "expected"), [(1, 8), (8, 8), (9, 16)])
def test_round_up(rows, expected):
    assert sharding.round_up(rows, 8) == expected


def test_an_axis_that_does_not_divide_the_devices_is_refused():
    with pytest.raises(InputError, match=r"config\.sharding\.fsdp=3 does not divide the 8 devices"):
        sharding.make_mesh(3)
    assert sharding.make_mesh(1, jax.devices()[:5]).size == 5
