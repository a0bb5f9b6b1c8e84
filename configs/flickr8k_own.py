"""Our recipe on Flickr8k, the better one in docs/evidence.md; the rest is configs/flickr8k.py.

The paper's weights, on heads that start as the identity, and teacher features less their batch's mean.
"""

from cusa_jax.flickr8k_recipe import recipe


def get_config(argument: str | None = None):
    config = recipe(argument)
    config.model.heads = "residual"
    config.teacher.centre = True
    return config
