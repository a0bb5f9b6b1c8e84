"""COCO over regions, the paper's recipe for SGR and SAF: --config=configs/coco_sgraf.py:model=saf_coco."""

from cusa_jax.sgraf_recipe import recipe


def get_config(argument: str | None = None):
    return recipe("coco_precomp", argument)
