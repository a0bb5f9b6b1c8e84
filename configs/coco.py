"""MSCOCO (Karpathy splits), the paper's recipe: 30 epochs, 4 x 128 local negatives (L/14@336: 4 x 16), float32."""

from cusa_jax.config import default_config, with_argument


def get_config(argument: str | None = None):
    config = default_config()
    config.data.path = "data/coco"
    config.teacher.image = "data/coco/train_unicom.npy"
    config.teacher.text = "sentence-transformers/all-mpnet-base-v2"
    config.schedule.epochs = 30
    config = with_argument(config, argument)
    if config.model.name == "vit_l_14_336":
        config.batch_size, config.loss.local_batch = 64, 16
    return config
