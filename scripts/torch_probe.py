"""`scripts/convert.py --verify`: one side read and run by PyTorch alone, the other by this project alone."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from cusa_jax.errors import InputError, needs
from cusa_jax.models import families
from cusa_jax.models.student import Options, Side
from cusa_jax.weights.formats import read_weights

try:
    import torch
    import torch.nn.functional as F
except ImportError as error:
    raise InputError("--verify needs PyTorch, which no extra brings: pip install torch==2.13.0") from error

TOLERANCE = 1e-4  # of features scaled to a largest entry of 1; float32 rounding stays below 1e-5
ROWS = 4


def verify(source: Path, target: Path, activation: str, *, folded: bool = False) -> None:
    """Prints the largest difference of the features of a random probe. Raises InputError where it exceeds TOLERANCE.

    folded: whether the heads of the source are in the target's towers; else features are those of the towers alone.
    """
    readable = [path for path in (source, target) if path.suffix in (".pt", ".pth", ".bin")]
    folders = [path for path in (source, target) if (path / "model.safetensors").is_file()]
    if not (readable or folders):
        raise InputError(f"--verify: PyTorch reads neither {source} nor {target}")
    theirs = (readable or folders)[0]
    ours = target if theirs == source else source
    weights = read_weights(ours, activation)
    if weights.family != "clip":
        raise InputError(f"--verify: PyTorch runs a CLIP's probe, and {source} is a {weights.family}")
    clip = weights.sizes
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(ROWS, clip.image_size, clip.image_size, 3)).astype(np.float32)
    tokens = rng.integers(1, clip.vocab_size - 1, (ROWS, clip.context_length))
    tokens[:, clip.context_length // 2 :] = 0
    tokens[:, clip.context_length // 2] = clip.vocab_size - 1  # end of text

    student = weights.student() if folded else families.make(weights.family, clip, Options(heads=()))
    variables = weights.variables if folded else weights.towers
    rows: dict[Side, Any] = {"image": pixels, "text": jnp.asarray(tokens, jnp.int32)}
    jax_features = [student.encode_side(variables, side, rows[side])["cross"] for side in rows]
    channels_first, token_ids = torch.tensor(pixels.transpose(0, 3, 1, 2)), torch.tensor(tokens)
    with torch.no_grad():
        run = _hugging_face if theirs.is_dir() else _openai
        torch_features = run(theirs, clip, channels_first, token_ids)
    worst = 0.0
    for side, theirs_out, ours_out in zip(("image", "text"), torch_features, jax_features, strict=True):
        difference = float(np.abs(theirs_out.numpy() - np.asarray(ours_out)).max() / theirs_out.abs().max())
        print(f"{side} features, {theirs.name} in PyTorch against {ours.name} here: {difference:.1e}")
        worst = max(worst, difference)
    if not worst <= TOLERANCE:
        raise InputError(f"--verify: {source} and {target} are not the same model")


def _hugging_face(folder, clip, pixels, tokens):
    with needs("teachers"):
        from transformers import CLIPModel

    model = CLIPModel.from_pretrained(folder).float().eval()
    return model.get_image_features(pixels), model.get_text_features(tokens)


def _openai(path, clip, pixels, tokens):
    weights = {name: tensor.float() for name, tensor in _read(path).items()}

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])

    def linear(x, name):
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def transformer(x, prefix, layers, heads, mask=None):
        x = x.transpose(0, 1)
        for n in range(layers):
            block = f"{prefix}transformer.resblocks.{n}"
            normed = norm(x, f"{block}.ln_1")
            x = x + F.multi_head_attention_forward(
                normed, normed, normed, x.shape[-1], heads,
                weights[f"{block}.attn.in_proj_weight"], weights[f"{block}.attn.in_proj_bias"], None, None, False, 0.0,
                weights[f"{block}.attn.out_proj.weight"], weights[f"{block}.attn.out_proj.bias"],
                training=False, need_weights=False, attn_mask=mask,
            )[0]  # fmt: skip
            hidden = linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
            hidden = (
                hidden * torch.sigmoid(1.702 * hidden) if clip.activation == "quick_gelu" else F.gelu(hidden)
            )
            x = x + linear(hidden, f"{block}.mlp.c_proj")
        return x.transpose(0, 1)

    x = F.conv2d(pixels, weights["visual.conv1.weight"], stride=clip.patch_size).flatten(2).transpose(1, 2)
    x = torch.cat([weights["visual.class_embedding"].expand(len(x), 1, -1), x], dim=1)
    x = norm(x + weights["visual.positional_embedding"], "visual.ln_pre")
    x = transformer(x, "visual.", clip.vision_layers, clip.vision_heads)
    image = norm(x[:, 0], "visual.ln_post") @ weights["visual.proj"]

    mask = torch.full((clip.context_length, clip.context_length), -torch.inf).triu(1)
    x = weights["token_embedding.weight"][tokens] + weights["positional_embedding"]
    x = norm(transformer(x, "", clip.text_layers, clip.text_heads, mask), "ln_final")
    return image, x[torch.arange(len(x)), tokens.argmax(-1)] @ weights["text_projection"]


def _read(path):
    """OpenAI-named tensors, by PyTorch's own readers."""
    try:
        tensors = torch.jit.load(path, map_location="cpu").state_dict()
    except RuntimeError:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        tensors = tensors.get(key, tensors)
    for prefix in ("module.", "clip_model.", "text."):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    if "visual.proj" not in tensors:
        raise InputError(f"{path}: --verify runs vision transformers only")
    return tensors
