"""Our recipe for captions of one's own, on pretrained weights; not the paper's (configs/flickr.py, configs/coco.py).

python scripts/train.py --config=configs/finetune.py --config.data.path=FOLDER --config.init_from=CLIP \
    --config.teacher.image=… --config.teacher.text=…              (or configs/finetune.py:loss=contrastive, without)

It starts from the pretrained model's own figures, which step 0 reports: heads begin as the identity, the temperature
as that of the released CLIPs, and the learning rate from 0. Negatives are global; the gradient is clipped.
"""

from cusa_jax.config import default_config, with_argument


def get_config(argument: str | None = None):
    config = default_config()
    config.model.name, config.model.heads = "auto", "residual"
    config.batch_size, config.loss.negatives = 128, "global"
    config.loss.contrastive.tau.init = 0.01
    config.optim.lr, config.optim.weight_decay, config.optim.clip_norm = 1e-5, 0.05, 1.0
    config.schedule.update(epochs=10, min_lr=0.0, warmup_epochs=0.5, warmup_lr=0.0, every="step")
    return with_argument(config, argument)
