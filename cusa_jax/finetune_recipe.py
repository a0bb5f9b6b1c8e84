"""Our recipe for one's own photos and captions, on a pretrained model: configs/finetune.py, and own.py with teachers.

It is not the paper's (configs/flickr.py, configs/coco.py). It starts from the pretrained model's own figures, which
step 0 reports: heads begin as the identity, the temperature as that of the released CLIPs, and the learning rate
from 0. Negatives are global, and the gradient is clipped.
"""

from ml_collections import ConfigDict

from cusa_jax.config import default_config


def recipe() -> ConfigDict:
    """Without data, weights and teachers."""
    config = default_config()
    config.model.name, config.model.heads = "auto", "residual"
    config.batch_size, config.loss.negatives = 128, "global"
    config.loss.contrastive.tau.init = 0.01
    config.optim.lr, config.optim.weight_decay, config.optim.clip_norm = 1e-5, 0.05, 1.0
    config.schedule.update(epochs=10, min_lr=0.0, warmup_epochs=0.5, warmup_lr=0.0, every="step")
    return config
