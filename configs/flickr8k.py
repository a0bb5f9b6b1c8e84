"""Does it help? The paper's recipe on a small student (docs/evidence.md): :model=vse, saf, sgr or region_clip.

    make evidence PHOTOS=FOLDER RESNET=FOLDER TEXT=FOLDER

writes the features and runs everything. The teachers are small: MiniLM, and the mean of the features of an ImageNet
ResNet-50 that the student sees too. The learning rate was chosen for training without CUSA.
"""

from cusa_jax.flickr8k_recipe import recipe


def get_config(argument: str | None = None):
    return recipe(argument)
