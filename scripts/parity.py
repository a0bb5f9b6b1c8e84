"""Compares this package with the original PyTorch code, stage by stage, on the same weights and inputs.

python scripts/parity.py --reference=CHECKOUT [--yaml=configs/vitb32/flickr/cusa.yaml] [--model=tiny_resnet] [--x64]
    [--weights=ViT-B-32.pt] [--json=parity.json]

CHECKOUT is a clone of github.com/lerogo/aaai24_itr_cusa with its dataset_example. Needs requirements-parity.txt.
Prints one row per stage and exits with 1 where one exceeds its tolerance.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging

from cusa_jax.command import script
from cusa_jax.errors import InputError
from cusa_jax.models.clip import PRESETS, ClipConfig

_COMMON: dict[str, Any] = {"embed_dim": 64, "image_size": 64, "text_width": 128, "text_layers": 2}
TINY = {
    "tiny_vit": ClipConfig(**_COMMON, patch_size=16, vision_width=128, vision_layers=2),
    "tiny_resnet": ClipConfig(
        **_COMMON, patch_size=32, vision_width=8, vision_layers=0, resnet_blocks=(1, 2, 1, 1)
    ),
}
REFERENCE = flags.DEFINE_string("reference", None, "Checkout of the original repository.", required=True)
YAML = flags.DEFINE_string(
    "yaml", "configs/vitb32/flickr/cusa.yaml", "Its YAML, in the checkout, or your own."
)
MODEL = flags.DEFINE_enum("model", "tiny_vit", [*TINY, *PRESETS], "Sizes of random weights.")
WEIGHTS = flags.DEFINE_string(
    "weights", "", "Instead: a CLIP .pt of OpenAI, or the reference's .pth for the YAML."
)
X64 = flags.DEFINE_bool("x64", False, "Both sides in float64.")
ROWS = flags.DEFINE_integer("rows", 16, "Pairs per batch.", lower_bound=2)
STEPS = flags.DEFINE_integer("steps", 10, "Optimiser steps.", lower_bound=1)
IMAGES = flags.DEFINE_integer("images", 100, "Photographs to preprocess and to evaluate on.", lower_bound=1)
JSON = flags.DEFINE_string("json", "parity.json", "File for the rows.")


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"unexpected argument '{argv[1]}': options start with --")
    logging.set_verbosity(logging.ERROR)
    jax.config.update("jax_enable_x64", X64.value)
    jax.config.update("jax_default_matmul_precision", "highest")
    passed = run(Path(REFERENCE.value), Path(YAML.value))
    sys.exit(0 if passed else 1)


def run(checkout: Path, yaml_file: Path) -> bool:
    try:
        import yaml
        from side_by_side import original, stages, table
        from side_by_side.ours import Ours
    except ImportError as error:
        raise InputError(f"{error}: pip install -r requirements-parity.txt") from error
    path = yaml_file if yaml_file.is_file() else checkout / yaml_file
    if not path.is_file():
        raise InputError(f"--yaml={yaml_file}: no such file, nor is {path}")
    raw = yaml.safe_load(path.read_text(encoding="utf8"))
    weights = Path(WEIGHTS.value) if WEIGHTS.value else None
    if weights and not weights.is_file():
        raise InputError(f"--weights={weights}: no such file")
    sizes = None if weights else (TINY | PRESETS)[MODEL.value]
    modules = original.import_reference(checkout.resolve())
    theirs = original.Original(modules, raw, sizes, weights, X64.value)
    tensors = {name: tensor.numpy() for name, tensor in theirs.start.items()}
    ours = Ours(raw, theirs.sizes, tensors, steps_per_epoch=2, x64=X64.value)
    rows = list(
        stages.compare(theirs, ours, checkout, rows=ROWS.value, steps=STEPS.value, images=IMAGES.value)
    )
    about = {
        "yaml": str(yaml_file),
        "model": str(weights or MODEL.value),
        "dtype": "float64" if X64.value else "float32",
        "reference_commit": commit(checkout),
        "jax": jax.__version__,
        "torch": original.torch.__version__,
    }
    print("\n" + ", ".join(f"{name} {value}" for name, value in about.items()) + "\n")
    print(table.markdown(rows))
    Path(JSON.value).write_text(json.dumps({**about, "rows": table.as_json(rows)}, indent=1))
    failed = [row.stage for row in rows if not row.passed]
    print(f"\n{len(rows) - len(failed)} of {len(rows)} rows pass; rows in {JSON.value}")
    return not failed


def commit(checkout: Path) -> str:
    """The checkout's commit, or 'unknown' where it is no git clone."""
    answer = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True)
    return answer.stdout.strip() or "unknown"


if __name__ == "__main__":
    script(main)
