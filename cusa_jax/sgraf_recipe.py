"""The paper's recipe for SGR and SAF (its appendix B), which configs/{f30k,coco}_sgraf.py apply to their data.

docs/sgraf.md says what the paper leaves open, and what is taken here in its place.
"""

from ml_collections import ConfigDict

from cusa_jax.config import default_config, with_argument
from cusa_jax.errors import InputError

# α and β, of CSA and USA, beside a hinge loss that is summed over the batch; VSE++ is not in the paper.
WEIGHTS = {"sgr": (0.6, 0.75), "saf": (1.0, 0.75), "vse": (1.0, 0.75)}


def recipe(data: str, argument: str | None) -> ConfigDict:
    """data: the folder under data/, in SCAN's layout. argument: what follows the colon of --config=FILE:….

    Raises InputError for a model that it has no weights for.
    """
    config = default_config()
    config.data.path = f"data/{data}"
    config.model.tokenizer = f"data/{data}_vocab.json"
    config.teacher.image = f"data/{data}/train_unicom.npy"
    config.teacher.text = "sentence-transformers/all-mpnet-base-v2"
    config.model.name = "sgr"
    config.batch_size = config.loss.local_batch = 128
    config.loss.hinge.update(weight=1.0, margin=0.2, negatives="hardest", reduction="sum")
    config.optim.update(lr=2e-4, weight_decay=1e-4, clip_norm=2.0)
    config.schedule.update(epochs=40, min_lr=1e-5)
    config = with_argument(config, argument)
    model = config.model.name
    if model[:3] not in WEIGHTS:
        raise InputError(
            f"model='{model}' is not of this recipe, whose weights are those of {', '.join(WEIGHTS)}"
        )
    for term, weight in zip(("csa", "usa"), WEIGHTS[model[:3]], strict=True):
        if config.loss[term].weight:
            config.loss[term].weight = weight
    # The hinge loss stands in the place of the contrastive one.
    config.loss.contrastive.weight = 0.0
    return config
