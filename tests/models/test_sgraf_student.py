"""SGR, SAF and VSE++ as students: tiles, padding, groups, dropout, blocks of images, bfloat16; the data path."""

import functools

import golden
import golden_models
import jax
import numpy as np
import pytest

from cusa_jax.data import vocabulary
from cusa_jax.errors import InputError
from cusa_jax.models import families, sgraf, similarity_encoder, vse
from cusa_jax.models.sgraf_sizes import SgrafSizes, VseSizes
from cusa_jax.models.student import Embeds, Options

SIZES = {
    "regions": 3, "img_dim": 6, "vocab_size": 20, "max_words": 9, "word_dim": 4, "embed_size": 8, "dropout": 0.0,
}  # fmt: skip
LENGTHS = np.array([3, 9, 2, 5, 7, 4])


def sizes(name, **changed):
    return SgrafSizes(module_name=name, sim_dim=5, sgr_step=2, uni_dim=4, **SIZES | changed)


def make(name, dtype="float64", **options):
    student = sgraf.student(sizes(name, **options.pop("sizes", {})), Options(("uni",), dtype, **options))
    return student, start(name)


@functools.cache
def start(name):
    """Variables in float64; scores of a fresh model are all alike."""
    student = sgraf.student(sizes(name), Options(("uni",), "float64"))
    return jax.tree_util.tree_map_with_path(
        lambda path, x: (
            1 + 0.5 * golden.hash_uniform(str(path), x.shape)
            if path[-1].key in ("var", "scale")
            else golden.hash_uniform(str(path), x.shape)
        ),
        jax.eval_shape(student.init, jax.random.key(0)),
    )


def batch(count=6, length=9):
    lengths = np.resize(LENGTHS, count)
    tokens = np.floor(golden.hash_uniform("tokens", (count, length), 4, 20)).astype(np.int32)
    return golden.hash_uniform("regions", (count, 3, 6)), np.where(
        np.arange(length) < lengths[:, None], tokens, 0
    )


def pass_of(student, train, rngs=None, groups=1):
    """(variables, image, tokens) -> ((scores, uni-modal cosines), state, gradient of Σ weights · scores)."""
    sides = ("image", "text") if train else ()

    def scores(params, state, image, tokens):
        variables = {"params": params, **state}
        encoded, changed = student.encode(variables, image, tokens, train=sides, rngs=rngs)
        similarities, compared = student.compare(
            {**variables, **changed}, encoded, groups=groups, train=train
        )
        weights = golden.hash_uniform("weights", similarities.image_text.shape)
        return (similarities.image_text * weights).sum(), (similarities, {**state, **changed, **compared})

    def run(variables, image, tokens):
        params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
        (_, aux), gradient = jax.value_and_grad(scores, has_aux=True)(params, state, image, tokens)
        return *aux, gradient

    return golden_models.jit(run)


def jitted(function, *static):
    return golden_models.jit(function, static_argnames=static)


def close(ours, theirs, atol=1e-12):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=0), ours, theirs)


@pytest.fixture(autouse=True)
def _double():
    with golden.precision("f64"):
        yield


@pytest.mark.parametrize("name", ["SGR", "SAF"])
def test_tiles_padding_and_remat_change_nothing(name, monkeypatch):
    student, variables = make(name)
    image, tokens = batch()
    whole = pass_of(student, train=True)(variables, image, tokens)
    # All captions are in one tile, as wide as padding makes it; then each tile holds two or less.
    monkeypatch.setitem(similarity_encoder.TILES, "cpu", (10, 2))
    tiled = pass_of(make(name, remat=True)[0], train=True)(variables, image, np.pad(tokens, ((0, 0), (0, 3))))
    close(tiled, whole)


@pytest.mark.parametrize("name", ["SGR", "SAF"])
def test_groups_are_problems_of_their_own(name):
    """Local negatives: each group's scores are those of its rows alone; statistics move from group to group."""
    student, variables = make(name)
    image, tokens = batch()
    encoded, state = jitted(student.encode, "train")(variables, image, tokens, train=("image", "text"))
    variables = {**variables, **state}
    compare = jitted(functools.partial(student.compare, train=True), "groups")
    grouped, moved = compare(variables, encoded, groups=2)
    for group, rows in enumerate((slice(0, 3), slice(3, 6))):
        alone, changed = compare(variables, jax.tree.map(lambda x: x[rows], encoded))  # noqa: B023
        close(jax.tree.map(lambda x: x[group], grouped), alone)  # noqa: B023
        variables = {**variables, **changed}
    close(moved["batch_stats"], variables["batch_stats"])


@pytest.mark.parametrize("name", ["SGR", "SAF"])
def test_blocks_of_images_change_nothing(name, monkeypatch):
    student, variables = make(name)
    image, tokens = batch()
    encode = jitted(student.encode_side, "side")
    images, texts = encode(variables, side="image", rows=image), encode(variables, side="text", rows=tokens)
    some = jax.tree.map(lambda x: x[:5], images)
    whole = jitted(student.score)(variables, some, texts)
    assert whole.shape == (5, 6)
    monkeypatch.setattr(sgraf, "SCORED_IMAGES", 2)
    close(jitted(lambda *sides: student.score(*sides))(variables, some, texts), whole)
    together = jitted(student.compare)(variables, {"image": images, "text": texts})[0]
    close(together.image_text[:5], whole)


def test_a_side_that_is_frozen_keeps_its_statistics():
    student, variables = make("SAF")
    image, tokens = batch()
    encode = jitted(student.encode, "train")
    _, state = encode(variables, image, tokens, train=("text",))
    close(state["batch_stats"]["image"], variables["batch_stats"]["image"], atol=0)
    _, state = encode(variables, image, tokens, train=("image",))
    with pytest.raises(AssertionError):
        close(state["batch_stats"]["image"], variables["batch_stats"]["image"])


def test_dropout_needs_a_key_in_training_alone():
    student, variables = make("SGR", sizes={"dropout": 0.4})
    image, tokens = batch()
    encode = jitted(student.encode, "train")
    one, again, other = (
        encode(variables, image, tokens, train=("image", "text"), rngs={"dropout": jax.random.key(seed)})[0]
        for seed in (1, 1, 2)
    )
    close(one, again, atol=0)
    for side in ("image", "text"):
        assert not np.allclose(one[side].whole, other[side].whole)
    without = encode(variables, image, tokens)[0]
    np.testing.assert_allclose(without["image"].members, one["image"].members)


@pytest.mark.parametrize("name", ["SGR", "SAF"])
def test_bfloat16_computes_close_to_float32(name):
    image, tokens = batch()
    (student, variables), (half, _) = make(name, "float32"), make(name, "bfloat16")
    variables = jax.tree.map(np.float32, variables)
    exact, rounded = (
        scores_of(made)(variables, image.astype(np.float32), tokens) for made in (student, half)
    )
    assert rounded.dtype == np.float32
    np.testing.assert_allclose(rounded, exact, atol=0.05)
    assert not np.allclose(rounded, exact, atol=1e-5)


def scores_of(student):
    """(variables, image, tokens) -> scores, in evaluation."""
    return jitted(
        lambda variables, image, tokens: student.score(
            variables,
            student.encode_side(variables, "image", image),
            student.encode_side(variables, "text", tokens),
        )
    )


def test_presets_and_sizes():
    for name in ("sgr", "saf", "sgr_coco", "saf_coco"):
        family, preset = families.presets()[name]
        assert (family, preset.embed_size, preset.regions, preset.img_dim) == ("sgraf", 1024, 36, 2048)
    assert families.presets()["vse"][0] == "vse"
    assert not isinstance(make("SGR")[0], Embeds)
    for changed, complaint in (
        ({"module_name": "AVE"}, "neither SGR nor SAF"),
        ({"sgr_step": 0}, "sgr_step 0"),
        ({"dropout": 1.0}, "dropout"),
    ):
        with pytest.raises(InputError, match=complaint):
            SgrafSizes(**changed)


def test_regions_of_another_shape_are_refused():
    student, variables = make("SGR")
    with pytest.raises(InputError, match="4 x 6 features an image, but the model takes 3 regions of 6"):
        student.encode_side(variables, "image", np.zeros((1, 4, 6)))


# --- VSE++ ------------------------------------------------------------------------------------------------------


def test_vse_compares_the_mean_region_with_the_last_state():
    student = vse.student(VseSizes(**SIZES), Options((), "float64"))
    assert isinstance(student, Embeds)
    image, tokens = batch()
    variables = jax.tree.map(np.asarray, golden_models.jit(student.init)(jax.random.key(0)))
    encoded = golden_models.jit(student.encode)(variables, image, tokens)[0]
    fc = variables["params"]["image"]["fc"]
    expected = image.mean(axis=1) @ fc["kernel"] + fc["bias"]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(encoded["image"]["cross"], expected, atol=1e-7)
    # The state behind a caption's last word, alone, is that behind its padding.
    alone = jitted(student.encode_side, "side")(variables, side="text", rows=tokens[:1, : LENGTHS[0]])
    np.testing.assert_allclose(encoded["text"]["cross"][:1], alone["cross"], atol=1e-12)
    scores = student.compare(variables, encoded)[0].image_text
    np.testing.assert_allclose(scores, expected @ np.asarray(encoded["text"]["cross"]).T, atol=1e-7)


# --- captions and regions to scores, as the original does it ---------------------------------------------------


@pytest.mark.parametrize("dtype", golden.DTYPES)
@pytest.mark.parametrize("module", ["SGR", "SAF"])
def test_captions_become_the_scores_of_the_original(module, dtype):
    recorded = golden.numbers("sgraf/vocab_e2e")
    run, captions = recorded["e2e"]["runs"][module], recorded["captions"]
    student = sgraf.student(
        golden_models.sizes(run["config"] | {"regions": recorded["e2e"]["regions"]}),
        Options((), golden_models.FLOATS[dtype]),
    )
    variables = golden_models.variables(
        student, golden_models.tensors(run["weights_tag"], run["shapes"]), dtype
    )
    words = vocabulary.build([*captions, *captions[:10]], threshold=1)
    tokens, cut = words.tokenize(captions, 24)
    assert cut == 0
    shape = (8, recorded["e2e"]["regions"], run["config"]["img_dim"])
    regions = golden.hash_uniform(f"sgraf/{recorded['e2e']['tag']}/features", shape, 0, 1).astype(np.float32)
    with golden.precision(dtype):
        scores = scores_of(student)(variables, regions.astype(golden.DTYPES[dtype]), tokens)
    expected = golden.arrays("sgraf/e2e")[f"{module}/f64/scores"]
    room = (0, 3 * run["scores_f32_minus_f64_max_abs"] + 1e-7) if dtype == "f32" else (1e-11, 1e-11)
    golden.assert_close(f"sgraf e2e {dtype}", scores, expected, *room)
