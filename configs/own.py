"""Photos and captions of one's own: --config.data.path=FOLDER, and a CLIP to start from, --config.init_from=WEIGHTS.

The teachers are models, so that nothing has to be computed beforehand; global negatives, 10 epochs. The losses are the
paper's.
"""

from cusa_jax.config import default_config, with_argument


def get_config(argument: str | None = None):
    config = default_config()
    config.teacher.image = "facebook/dinov2-base"
    config.teacher.text = "sentence-transformers/all-mpnet-base-v2"
    config.batch_size, config.loss.negatives = 128, "global"
    config.schedule.update(epochs=10, every="step", warmup_epochs=0.5, warmup_lr=0.0)
    return with_argument(config, argument)
