"""Photos and captions of one's own: --config.data.path=FOLDER, and a CLIP to start from, --config.init_from=WEIGHTS.

The recipe of configs/finetune.py, with teachers that are models, so that nothing has to be computed beforehand.
"""

from cusa_jax.config import with_argument
from cusa_jax.finetune_recipe import recipe


def get_config(argument: str | None = None):
    config = recipe()
    # Phones turn photos by a note beside the pixels.
    config.data.as_shown = True
    config.teacher.image = "facebook/dinov2-base"
    config.teacher.text = "sentence-transformers/all-mpnet-base-v2"
    return with_argument(config, argument)
