"""Flickr30K over regions, the paper's recipe for SGR and SAF: --config=configs/f30k_sgraf.py:model=saf."""

from cusa_jax.sgraf_recipe import recipe


def get_config(argument: str | None = None):
    return recipe("f30k_precomp", argument)
