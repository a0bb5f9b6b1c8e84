"""Our recipe for captions of one's own, on pretrained weights (cusa_jax/finetune_recipe.py); not the paper's.

python scripts/train.py --config=configs/finetune.py --config.data.path=FOLDER --config.init_from=CLIP \
    --config.teacher.image=… --config.teacher.text=…              (or configs/finetune.py:loss=contrastive, without)
"""

from cusa_jax.config import with_argument
from cusa_jax.finetune_recipe import recipe


def get_config(argument: str | None = None):
    return with_argument(recipe(), argument)
