"""Photos and captions of one's own: --config.data.path=FOLDER, and a CLIP to start from, --config.init_from=WEIGHTS.

The recipe of configs/finetune.py, with teachers that are models, so that nothing has to be computed beforehand.
"""

import importlib.util
from pathlib import Path


def get_config(argument: str | None = None):
    # Beside this file, wherever it was installed.
    place = Path(__file__).with_name("finetune.py")
    spec = importlib.util.spec_from_file_location("finetune", place)
    finetune = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(finetune)
    config = finetune.get_config(argument)
    # Phones turn photos by a note beside the pixels.
    config.data.as_shown = True
    config.teacher.image = "facebook/dinov2-base"
    config.teacher.text = "sentence-transformers/all-mpnet-base-v2"
    return config
