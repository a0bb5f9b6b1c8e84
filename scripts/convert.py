"""Converts weights between formats, and the PyTorch reference's YAML to our configuration. PyTorch is not needed.

python scripts/convert.py IN OUT [--activation=gelu] [--heads=fold] [--to=open_clip] [--push=USER/NAME] [--verify]
python scripts/convert.py A B OUT --mix=0.5      # the weights between a pretrained model and the trained one

IN: CLIP weights of any format (OpenAI .pt, Hugging Face or open_clip folder, state dict, the reference's .pth, our
.safetensors, a training's folder), or the reference's YAML. OUT says by its name what is written: .pth (the
reference's checkpoint), .pt (OpenAI's names), .safetensors (ours), a folder (Hugging Face's), .py (the recipe, as a
configuration for scripts/train.py). Formats that have no heads refuse a model with trained ones, unless --heads=fold
puts them into the towers, which is exact of residual heads.
"""

from pathlib import Path

from absl import app, flags, logging

from cusa_jax.command import script
from cusa_jax.errors import InputError
from cusa_jax.files import check_empty
from cusa_jax.hugging_face import upload
from cusa_jax.weights import reference
from cusa_jax.weights.folding import fold
from cusa_jax.weights.formats import read_weights, write_weights
from cusa_jax.weights.hub import Weights
from cusa_jax.weights.mixed import mixed
from cusa_jax.weights.reference_checkpoint import recipe

ACTIVATION = flags.DEFINE_enum(
    "activation",
    "",
    ["", "quick_gelu", "gelu"],
    "Of weights whose file does not say it, such as open_clip's.",
)
HEADS = flags.DEFINE_enum(
    "heads", "keep", ["keep", "fold"], "'fold' puts residual heads into the towers, where that is exact."
)
TO = flags.DEFINE_enum(
    "to",
    "",
    ["", "open_clip", "stablehlo"],
    "A folder of another kind than Hugging Face's: see docs/weights.md.",
)
MIX = flags.DEFINE_float(
    "mix",
    None,
    "With A B OUT: (1 - mix) A + mix B, such as a model before and after its fine-tuning (WiSE-FT).",
)
PUSH = flags.DEFINE_string(
    "push", "", "USER/NAME on the Hugging Face Hub: uploads the folder that was written."
)
VERIFY = flags.DEFINE_bool(
    "verify", False, "Run both sides on a probe, one in PyTorch, which must be installed."
)


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    if len(argv) != 3 + (MIX.value is not None):
        raise app.UsageError(
            "name what to read and what to write: scripts/convert.py IN OUT, or A B OUT with --mix"
        )
    *sources, target = map(Path, argv[1:])
    check_target(target)
    if MIX.value is None:
        convert(sources[0], target)
    elif VERIFY.value or target.suffix == ".py":
        raise InputError("--mix writes weights of two models, which --verify and a recipe (.py) are not of")
    else:
        first, second = (read_weights(source, ACTIVATION.value) for source in sources)
        write(target, mixed(first, second, MIX.value), sources[1])
    print(f"wrote {target}")
    if PUSH.value:
        print(f"pushed to {upload(target, PUSH.value)}")


def check_target(target: Path) -> None:
    """Raises InputError where what the flags ask for cannot be written there."""
    if not target.parent.is_dir():
        raise InputError(f"{target.parent}: no such folder to write to")
    if VERIFY.value:
        import torch_probe  # noqa: F401  # before anything is written: it says how to get PyTorch
    if PUSH.value and target.suffix:
        raise InputError(f"--push={PUSH.value}: uploads a folder, and {target} is a file; give OUT no suffix")
    if TO.value and target.suffix:
        raise InputError(f"--to={TO.value} writes a folder; give OUT no suffix, unlike {target}")
    if not target.suffix:
        check_empty(target)


def convert(source: Path, target: Path) -> None:
    if source.suffix in (".yaml", ".yml"):
        write_config(reference.read_yaml(source), target)
    elif target.suffix == ".py":
        write_config(recipe(read_weights(source, ACTIVATION.value), source), target)
    else:
        write(target, read_weights(source, ACTIVATION.value), source)
        if VERIFY.value:
            from torch_probe import verify  # imports torch

            verify(source, target, ACTIVATION.value, folded=HEADS.value == "fold")


def write(target: Path, weights: Weights, source: Path) -> None:
    write_weights(target, fold(weights, source) if HEADS.value == "fold" else weights, TO.value)


def write_config(config, target: Path) -> None:
    if target.suffix != ".py":
        raise InputError(
            f"{target}: a configuration is a .py, for scripts/train.py --config={target.stem}.py"
        )
    target.write_text(reference.source(config))


if __name__ == "__main__":
    script(main)
