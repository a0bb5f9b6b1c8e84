"""The embedded world: a toy CLIP trained from scratch on rendered scenes, with its own shipped teachers.

Nothing to download; a few minutes on two cores. The student's settings were chosen for contrastive-only training, on
validation; CUSA runs with the same.
"""

import importlib.resources

from cusa_jax.config import default_config, with_argument


def get_config(argument: str | None = None):
    config = default_config()
    teachers = importlib.resources.files("cusa_jax") / "assets" / "world_teachers"
    config.teacher.image, config.teacher.text = str(teachers / "image"), str(teachers / "text")
    config.data.path = "runs/world"
    config.data.world.train = 10_000
    config.model.name = "toy"
    config.batch_size = 128
    config.loss.negatives = "global"
    config.optim.lr, config.optim.weight_decay, config.optim.clip_norm = 1e-3, 1e-2, 1.0
    config.schedule.update(epochs=4, min_lr=0.0, warmup_epochs=0.25, warmup_lr=0.0, every="step")
    config.eval.batch_size = 500
    return with_argument(config, argument)
