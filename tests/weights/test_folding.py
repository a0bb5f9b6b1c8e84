"""Trained heads and formats that have none: refused, or the same embeddings without them."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from cusa_jax.errors import InputError
from cusa_jax.models import families
from cusa_jax.models.clip import ClipConfig
from cusa_jax.models.siglip_sizes import SiglipSizes
from cusa_jax.models.student import Options
from cusa_jax.weights.folding import fold
from cusa_jax.weights.formats import read_weights, write_weights
from cusa_jax.weights.hub import Weights, heads_in

VIT = ClipConfig(
    embed_dim=16, image_size=16, patch_size=8, vision_width=64, vision_layers=1, text_width=64, text_layers=1,
    vocab_size=99, context_length=12,
)  # fmt: skip
RESNET = dataclasses.replace(
    VIT, image_size=32, patch_size=32, vision_width=8, vision_layers=0, resnet_blocks=(1, 1, 1, 1), vision_heads=0,
    vision_mlp=0,
)  # fmt: skip


@functools.cache
def trained(sizes=VIT, head_kind="residual", heads=("cross", "uni"), family="clip"):
    """A student whose heads have learnt something, and its weights."""
    student = families.make(family, sizes, Options(heads=heads, head_kind=head_kind))
    rng = np.random.default_rng(0)

    def value(path, leaf):
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return rng.normal(0, 0.2, leaf.shape).astype(np.float32)

    shapes = jax.eval_shape(student.init, jax.random.key(0))
    variables = jax.tree_util.tree_map_with_path(value, shapes)
    return student, Weights(family, sizes, variables, heads_in(variables))


def rows(sizes):
    rng = np.random.default_rng(1)
    tokens = rng.integers(1, sizes.vocab_size, (3, sizes.context_length)).astype(np.int32)
    return {
        "image": rng.normal(size=(3, sizes.image_size, sizes.image_size, 3)).astype(np.float32),
        "text": tokens,
    }


def embeddings(student, variables, sizes):
    return {
        side: np.asarray(student.encode_side(variables, side, given)["cross"])
        for side, given in rows(sizes).items()
    }


@pytest.mark.parametrize("sizes", [VIT, RESNET], ids=["vit", "resnet"])
def test_folded_residual_heads_give_the_same_embeddings(sizes):
    student, weights = trained(sizes)
    folded = fold(weights, "run")
    assert folded.heads == ()
    with_heads = embeddings(student, weights.variables, sizes)
    without = embeddings(folded.student(), folded.variables, sizes)
    bare = embeddings(folded.student(), weights.towers, sizes)
    for side in ("image", "text"):
        largest = np.abs(with_heads[side]).max()
        np.testing.assert_allclose(without[side], with_heads[side], atol=1e-5 * largest)
        assert np.abs(bare[side] - with_heads[side]).max() > 0.1 * largest


@pytest.mark.parametrize("suffix", [".pt", ""])
def test_what_has_no_heads_refuses_them_and_names_the_ways_out(tmp_path, suffix):
    for kind, way in (("residual", "--heads=fold folds"), ("linear", "'residual' ones could be folded")):
        _, weights = trained(head_kind=kind)
        with pytest.raises(InputError, match=rf"trained {kind} heads \(cross, uni\).*{way}") as raised:
            write_weights(tmp_path / f"out{suffix}", weights)
        assert "model.heads='none'" in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_folded_heads_reach_the_file(tmp_path):
    _, weights = trained()
    write_weights(tmp_path / "out", fold(weights, "run"))
    back = read_weights(tmp_path / "out")
    np.testing.assert_array_equal(
        back.variables["params"]["text"]["projection"],
        fold(weights, "run").variables["params"]["text"]["projection"],
    )


def test_heads_that_cannot_be_folded_are_told():
    with pytest.raises(InputError, match="linear heads begin with a norm"):
        fold(trained(head_kind="linear")[1], "run")
    narrow = dataclasses.replace(
        VIT, embed_dim=80
    )  # wider than the towers: their norms cannot make every bias
    with pytest.raises(InputError, match="outside what the tower's projection can reach"):
        fold(trained(narrow)[1], "run")
    siglip = SiglipSizes(
        image_size=16, patch_size=8, vision_width=32, vision_layers=1, vision_heads=2, vision_mlp=64, text_width=32,
        text_layers=1, text_heads=2, text_mlp=64, vocab_size=99, context_length=8,
    )  # fmt: skip
    with pytest.raises(InputError, match="does not end in a linear layer"):
        fold(Weights("siglip", siglip, trained()[1].variables, ("cross",)), "run")


def test_uni_modal_heads_alone_are_left_out():
    """Image-text embeddings are then the towers' own."""
    _, weights = trained(heads=("uni",))
    jax.tree.map(np.testing.assert_array_equal, fold(weights, "run").variables, weights.towers)


@pytest.mark.parametrize("kind", ["linear", "residual"])
def test_our_own_file_says_which_heads(tmp_path, kind):
    _, weights = trained(head_kind=kind)
    write_weights(tmp_path / "w.safetensors", weights)
    back = read_weights(tmp_path / "w.safetensors")
    assert (back.heads, back.head_kind) == (("cross", "uni"), kind)
    jax.tree.map(np.testing.assert_array_equal, back.variables, weights.variables)


def test_fresh_heads_are_announced_and_kinds_are_not_mixed(tmp_path, caplog, capsys):
    from cusa_jax.config import default_config, typed
    from cusa_jax.experiment import build_student

    _, weights = trained(heads=("cross",))
    write_weights(
        tmp_path / "bare.safetensors", dataclasses.replace(weights, variables=weights.towers, heads=())
    )
    write_weights(tmp_path / "trained.safetensors", weights)
    config = default_config()
    config.model.name = "auto"

    def build(file, heads):
        config.init_from, config.model.heads = str(tmp_path / file), heads
        return build_student(typed(config))

    build("bare.safetensors", "linear")
    assert "FRESH RANDOM HEADS (cross, uni) ON PRETRAINED WEIGHTS" in caplog.text
    build("bare.safetensors", "residual")
    assert "fresh residual heads (cross, uni): step 0 equals" in capsys.readouterr().out
    build("trained.safetensors", "none")
    assert "ITS TRAINED HEADS (cross) ARE LEFT OUT" in caplog.text
    with pytest.raises(InputError, match=r"heads \(cross\) are residual.*set 'residual', or 'none'"):
        build("trained.safetensors", "linear")
