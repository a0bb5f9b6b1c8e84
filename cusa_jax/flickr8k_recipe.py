"""The students and settings of docs/evidence.md, on features of Flickr8k's photographs."""

from ml_collections import ConfigDict

from cusa_jax.config import default_config, with_argument

FEATURES = "runs/evidence/features"
SIZES = {
    "vse": "regions=9,embed_size=128,word_dim=64,dropout=0.3,max_words=20",
    "sgr": "regions=9,embed_size=64,word_dim=64,sim_dim=32,uni_dim=64,max_words=20",
    "saf": "regions=9,embed_size=64,word_dim=64,sim_dim=32,uni_dim=64,max_words=20",
    "region_clip": "regions=9,embed_dim=128,text_width=128,text_layers=2,context_length=24",
}


def recipe(argument: str | None) -> ConfigDict:
    """argument: as in configs/flickr8k.py, 'model=saf,loss=contrastive'."""
    config = default_config()
    config.data.path = FEATURES
    config.model.name = "vse"
    config.teacher.image = f"{FEATURES}/train_pooled.npz"
    config.teacher.text = "sentence-transformers/all-MiniLM-L6-v2"
    config.teacher.bank = "runs/evidence/bank"
    config.teacher.max_length = 32
    config.batch_size = 128
    config.loss.negatives = "global"
    config.optim.lr, config.optim.clip_norm = 1e-3, 2.0
    config.schedule.update(epochs=3, min_lr=0.0, every="step")
    config = with_argument(config, argument)
    config.model.sizes = SIZES.get(config.model.name, "")
    # CLIP's text tower has a tokenizer of its own.
    config.model.tokenizer = "" if config.model.name == "region_clip" else f"{FEATURES}/vocab.json"
    return config
