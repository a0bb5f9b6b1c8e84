"""UNICOM against its definition, written again in plain float64 numpy over the official tensor names."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from cusa_jax.errors import InputError
from cusa_jax.inputs import Pixels
from cusa_jax.teachers import checkpoints, unicom
from cusa_jax.teachers.live import load_image_teacher
from cusa_jax.weights import torch_file, torch_layout

SIZE, PATCH, DIM, DEPTH, HEADS, MLP = 24, 8, 12, 2, 3, 48
PATCHES = (SIZE // PATCH) ** 2
CONFIG = {
    "model_type": "unicom", "image_size": SIZE, "patch_size": PATCH, "dim": DIM, "depth": DEPTH, "num_heads": HEADS,
}  # fmt: skip


@pytest.fixture(scope="module")
def weights():
    shapes = {
        "patch_embed.proj.weight": (DIM, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (DIM,),
        "pos_embed": (1, PATCHES, DIM),
        "norm.weight": (DIM,),
        "norm.bias": (DIM,),
    }
    for n in range(DEPTH):
        for name, shape in {
            "norm1.weight": (DIM,),
            "norm1.bias": (DIM,),
            "attn.qkv.weight": (3 * DIM, DIM),
            "attn.proj.weight": (DIM, DIM),
            "attn.proj.bias": (DIM,),
            "norm2.weight": (DIM,),
            "norm2.bias": (DIM,),
            "mlp.fc1.weight": (MLP, DIM),
            "mlp.fc1.bias": (MLP,),
            "mlp.fc2.weight": (DIM, MLP),
            "mlp.fc2.bias": (DIM,),
        }.items():
            shapes[f"blocks.{n}.{name}"] = shape
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(0, 0.5, shape).astype(np.float16) for name, shape in shapes.items()}
    # Large enough that ReLU6 cuts at both ends.
    return {name: tensor * np.float16(5) if "fc1" in name else tensor for name, tensor in tensors.items()}


@pytest.fixture
def folder(tmp_path, weights):
    head = {"feature.0.weight": np.zeros((2, 2), np.float32), "feature.1.num_batches_tracked": np.array(1)}
    save_file(weights | head, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(1).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)


def by_definition(weights, image):
    """forward_features of one uint8 image, float64."""
    w = {name: tensor.astype(np.float64) for name, tensor in weights.items()}
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    image = (image / 255.0 - mean) / std

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        return (
            centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"]
            + w[f"{name}.bias"]
        )

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    side = SIZE // PATCH
    tokens = np.zeros((PATCHES, DIM))
    for row in range(side):
        for column in range(side):
            patch = image[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
            response = np.einsum("hwc,dchw->d", patch, w["patch_embed.proj.weight"])
            tokens[row * side + column] = response + w["patch_embed.proj.bias"]
    tokens = tokens + w["pos_embed"][0]
    clipped = []
    for n in range(DEPTH):
        block = f"blocks.{n}"
        query, key, value = np.split(linear(norm(tokens, f"{block}.norm1"), f"{block}.attn.qkv"), 3, axis=1)
        heads = []
        for head in np.split(np.arange(DIM), HEADS):
            scores = np.exp(query[:, head] @ key[:, head].T / math.sqrt(DIM / HEADS))
            heads.append(scores / scores.sum(1, keepdims=True) @ value[:, head])
        tokens = tokens + linear(np.concatenate(heads, 1), f"{block}.attn.proj")
        hidden = linear(norm(tokens, f"{block}.norm2"), f"{block}.mlp.fc1")
        clipped += [(hidden < 0).any(), (hidden > 6).any()]
        tokens = tokens + linear(np.clip(hidden, 0, 6), f"{block}.mlp.fc2")
    assert all(clipped)
    return norm(tokens, "norm").reshape(-1)


def test_features_are_the_flattened_patch_tokens(folder, weights, pixels):
    teacher, params = load_image_teacher(str(folder))
    assert (teacher.inputs, teacher.image) == ("pixels", Pixels(SIZE))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    with jax.default_matmul_precision("highest"):
        features = jax.jit(teacher.apply)(params, pixels)
    assert (features.shape, features.dtype) == ((2, PATCHES * DIM), jnp.float32)
    np.testing.assert_allclose(features, [by_definition(weights, image) for image in pixels], atol=2e-5)


def test_bfloat16_computes_close_and_answers_float32(folder, weights, pixels):
    teacher, params = load_image_teacher(str(folder), dtype="bfloat16")
    features = teacher.apply(params, pixels)
    assert features.dtype == jnp.float32
    truth = np.array([by_definition(weights, image) for image in pixels])
    cosine = (truth * features).sum(1) / np.linalg.norm(truth, axis=1) / np.linalg.norm(features, axis=1)
    assert np.all((cosine > 0.99) & (cosine < 0.9999999))  # computed in bfloat16, and no worse than that


def test_pixels_are_normalised_as_the_config_says(folder, weights, pixels):
    before, before_params = load_image_teacher(str(folder))
    (folder / "config.json").write_text(
        json.dumps(CONFIG | {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]})
    )
    after, after_params = load_image_teacher(str(folder))
    model = unicom.Unicom(unicom.UnicomConfig(SIZE, PATCH, DIM, DEPTH, HEADS))
    direct = model.apply({"params": after_params}, (pixels / 255 - 0.5) / 0.25)
    np.testing.assert_allclose(after.apply(after_params, pixels), direct, atol=1e-4)
    assert np.abs(before.apply(before_params, pixels) - direct).max() > 0.1


def test_vit_b_32_has_the_published_size():
    config = unicom.UnicomConfig(image_size=224, patch_size=32, dim=768, depth=12, num_heads=12)
    shapes = jax.eval_shape(unicom.Unicom(config).init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))[
        "params"
    ]
    head = 37_632 * 768 + 768 * 512 + 4 * (768 + 512)  # two Linear, two BatchNorm1d with statistics
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) + head == 116_725_760
    assert config.patches * config.dim == 37_632


def test_saved_folder_gives_the_same_teacher(folder, tmp_path):
    before, before_params = load_image_teacher(str(folder))
    config = unicom.UnicomConfig(SIZE, PATCH, DIM, DEPTH, HEADS)
    checkpoints.save(tmp_path / "again", config, before_params)
    after, after_params = load_image_teacher(str(tmp_path / "again"))
    jax.tree.map(np.testing.assert_array_equal, after_params, before_params)
    assert after.image == before.image


def test_the_released_file_is_a_teacher_as_it_is(tmp_path):
    """Half precision, sizes from the shapes, the head with its BatchNorm counters beside."""
    config = unicom.UnicomConfig(SIZE, PATCH, 64, DEPTH, num_heads=1, mlp_ratio=2.0)
    shapes = jax.eval_shape(unicom.Unicom(config).init, jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float16), shapes["params"])
    tensors = torch_layout.to_torch(params, unicom.key_table(config))
    head = {"feature.0.weight": np.zeros((3, 4), np.float16), "feature.1.num_batches_tracked": np.int64(7)}
    torch_file.write(tmp_path / "FP16-ViT.pt", tensors | head)
    teacher, read = load_image_teacher(str(tmp_path / "FP16-ViT.pt"))
    assert (teacher.inputs, teacher.image) == ("pixels", Pixels(SIZE))
    jax.tree.map(np.testing.assert_array_equal, read, params)
    checkpoints.save(tmp_path / "folder", config, params)
    folder, folder_params = load_image_teacher(str(tmp_path / "folder"))
    pixels = rng.integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    np.testing.assert_array_equal(teacher.apply(read, pixels), folder.apply(folder_params, pixels))


@pytest.mark.parametrize("missing", ["pos_embed", "blocks.0.mlp.fc1.weight", "norm.bias"])
def test_a_file_that_is_not_unicom_s(tmp_path, missing):
    config = unicom.UnicomConfig(SIZE, PATCH, 64, 1, num_heads=1)
    shapes = jax.eval_shape(unicom.Unicom(config).init, jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes["params"])
    tensors = torch_layout.to_torch(params, unicom.key_table(config))
    del tensors[missing]
    torch_file.write(tmp_path / "x.pt", tensors)
    with pytest.raises(InputError, match=rf"x\.pt: .*{missing}"):
        load_image_teacher(str(tmp_path / "x.pt"))


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"num_heads": 5}, "dim 12 does not divide into 5 heads"),
        ({"patch_size": 7}, "image_size 24 does not divide into patches of 7"),
        ({"mean": [0.5, 0.5]}, r"mean = \[0.5, 0.5\] is not three numbers"),
        ({"patch_size": 12}, r"unfit: patch_embed.proj.weight"),
        ({"depth": 3}, r"11 missing: blocks.2."),
        ({"depth": 1}, r"11 unexpected: blocks.1."),
        ({"num_heads": 0}, "num_heads = 0"),
        ({"std": [0.5, 0.5, 0]}, "std .* is not positive"),
        ({"patch_size": 0}, "patch_size = 0"),
    ],
)
def test_bad_config_is_named(folder, config, named):
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    with pytest.raises(InputError, match=named):
        load_image_teacher(str(folder))
