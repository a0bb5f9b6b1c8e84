"""The model card, README.md, of a folder that is given away: what the model was made of and how good it was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cusa_jax.errors import one_line
from cusa_jax.files import written_whole
from cusa_jax.weights.hub import Weights

_TAGS = ("image-text-retrieval", "zero-shot-image-classification", "cusa")
_CALLS = {
    "transformers": """from transformers import AutoModel, AutoProcessor
model, processor = AutoModel.from_pretrained("THIS FOLDER"), AutoProcessor.from_pretrained("THIS FOLDER")
given = processor(text=texts, images=images, padding=PADDING, truncation=True, return_tensors="pt")
compared = model(**given)  # image_embeds, text_embeds: of length 1""",
    "open_clip": """import open_clip
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:THIS FOLDER")
tokenizer = open_clip.get_tokenizer("local-dir:THIS FOLDER")""",
    "jax": """from jax import export
program = export.deserialize(bytearray(open("THIS FOLDER/image.stablehlo", "rb").read()))
embeddings = program.call(pixels)  # uint8 [b, S, S, 3]; text.stablehlo takes token ids int32 [b, L]""",
}


def write_card(folder: Path, weights: Weights, library: str) -> None:
    """README.md, with the metadata by which the Hub sorts models. library: by which it is loaded, a key of _CALLS."""
    # Imported here because a training, which writes no card, does without.
    import jinja2

    template = jinja2.Environment(
        loader=jinja2.PackageLoader("cusa_jax", "assets/templates"),
        autoescape=False,  # it is text, and every value below is one line
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    ).get_template("model_card.md.j2")
    inputs = weights.student().inputs.text
    # Where a text is not cut to its length, the model sees its padding.
    padding = "True" if inputs.may_cut else '"max_length"'
    text = template.render(
        library=library,
        call=_CALLS[library].replace("PADDING", padding),
        cleaned=inputs.cleaned,
        tags=_TAGS,
        family=weights.family,
        recipe=_recipe(weights),
        figures={
            name: (value, weights.intervals.get(name)) for name, value in sorted(weights.figures.items())
        },
    )
    with written_whole(folder / "README.md") as fresh:
        fresh.write_text(text, encoding="utf8")


def _recipe(weights: Weights) -> dict[str, Any]:
    """What a training said of itself; {} of a model that was not trained here. Of paths the last part is shown."""
    if weights.config is None:
        return {}
    config = weights.config
    names = {
        "start": config.init_from,
        "captions": config.data.path,
        "image teacher": config.teacher.image,
        "text teacher": config.teacher.text,
    }
    shown = {what: _shown(name) for what, name in names.items() if name}
    terms = ", ".join(
        f"{name} {term.weight:g}" for name, term in config.loss.items() if getattr(term, "weight", 0)
    )
    return shown | {
        "losses": terms,
        "epochs": config.schedule.epochs,
        "batch": config.batch_size,
        "learning rate": f"{config.optim.lr:g}",
        "seed": config.seed,
    }


def _shown(name: str) -> str:
    """An id of the Hub, or the last part of a path: where files lie on somebody's disk is nobody's business."""
    path = Path(name)
    short = path.name if path.exists() or path.is_absolute() or len(path.parts) > 2 else name
    return one_line(short)[:80]
