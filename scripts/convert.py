"""Converts weights between formats, and the PyTorch reference's YAML to our configuration. PyTorch is not needed.

python scripts/convert.py IN OUT [--activation=gelu] [--verify]
python scripts/convert.py A B OUT --mix=0.5

IN: CLIP weights of any format (OpenAI .pt, Hugging Face or open_clip folder, state dict, the reference's .pth, our
.safetensors, a training's folder), or the reference's YAML. OUT says by its name what is written: .pth (the
reference's checkpoint), .pt (OpenAI's names, without heads), .safetensors (ours), a folder (Hugging Face's, without
heads), .py (the recipe, as a configuration for scripts/train.py).
--mix writes weights between those of A, at 0, and B, at 1: of a pretrained and a fine-tuned model, for instance.
"""

from pathlib import Path

from absl import app, flags, logging

from cusa_jax.command import errors_in_one_line, script
from cusa_jax.errors import InputError
from cusa_jax.weights import mixed, reference
from cusa_jax.weights.formats import read_weights, write_weights
from cusa_jax.weights.reference_checkpoint import recipe

ACTIVATION = flags.DEFINE_enum(
    "activation",
    "",
    ["", "quick_gelu", "gelu"],
    "Of weights whose file does not say it, such as open_clip's.",
)
VERIFY = flags.DEFINE_bool(
    "verify", False, "Run both sides on a probe, one in PyTorch, which must be installed."
)
MIX = flags.DEFINE_float("mix", None, "Of two models: 0 is the first, 1 the second.")


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    if len(argv) != (3 if MIX.value is None else 4):
        raise app.UsageError(
            "name what to read and what to write: scripts/convert.py IN OUT, or scripts/convert.py A B OUT --mix=0.5"
        )
    *sources, target = map(Path, argv[1:])
    with errors_in_one_line():
        if not target.parent.is_dir():
            raise InputError(f"{target.parent}: no such folder to write to")
        if MIX.value is None:
            convert(sources[0], target)
        else:
            first, second = (read_weights(source, ACTIVATION.value) for source in sources)
            write_weights(target, mixed.mix(first, second, MIX.value))
    print(f"wrote {target}")


def convert(source: Path, target: Path) -> None:
    if source.suffix in (".yaml", ".yml"):
        write_config(reference.read_yaml(source), target)
    elif target.suffix == ".py":
        write_config(recipe(read_weights(source, ACTIVATION.value), source), target)
    else:
        write_weights(target, read_weights(source, ACTIVATION.value))
        if VERIFY.value:
            from torch_probe import verify  # imports torch

            verify(source, target, ACTIVATION.value)


def write_config(config, target: Path) -> None:
    if target.suffix != ".py":
        raise InputError(
            f"{target}: a configuration is a .py, for scripts/train.py --config={target.stem}.py"
        )
    target.write_text(reference.source(config))


if __name__ == "__main__":
    script(main)
