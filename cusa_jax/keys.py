"""Every key of the configuration, with its default, its bounds and its meaning: the paper's recipe for CLIP ViT-B/32
(reference configs/vitb32/*/cusa.yaml). The terms' own keys are in losses/."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

from cusa_jax.losses.term import Term
from cusa_jax.losses.terms import TERMS
from cusa_jax.models import families
from cusa_jax.models.layers import ACTIVATIONS, ATTENTION
from cusa_jax.settings import choice, number, section, string, switch


def model_names() -> tuple[str, ...]:
    """What `model.name` can be: a preset, or 'auto', which takes the sizes from `init_from`."""
    return (*families.presets(), "auto")


@dataclasses.dataclass(frozen=True)
class Model:
    name: str = choice("vit_b_32", "a preset's sizes; 'auto' takes those of init_from", model_names)
    sizes: str = string("", "what differs from the preset's, 'embed_size=256,bi_gru=false'")
    image_size: int = number(0, "above 0: pixels a side, init_from's positions are interpolated", low=0)
    tokenizer: str = string("", "tokenizer.json or its folder, vocabulary of words; '' is the weights' own")
    dtype: str = choice("float32", "of the student's computation", ("float32", "bfloat16"))
    remat: bool = switch(False, "compute activations again in the backward pass: less memory, more time")
    attention: str = choice("xla", "'cudnn': one fused kernel, on NVIDIA GPUs in bfloat16", tuple(ATTENTION))
    activation: str = choice("", "where init_from's file does not say it; '' otherwise", ("", *ACTIVATIONS))
    heads: str = choice(
        "linear",
        "over the towers' features: the paper's, or 'residual', which starts as the identity; 'none' has none",
        ("linear", "residual", "none"),
    )


@dataclasses.dataclass(frozen=True)
class World:
    train: int = number(0, "above 0: first write the embedded world, with so many training images", low=0)
    val: int = number(500, "its validation images", low=0)
    test: int = number(500, "its test images", low=0)


@dataclasses.dataclass(frozen=True)
class Data:
    path: str = string("", "folder or file of captions and images (docs/data.md)")
    split: str = string("", "'90/5/5': divide the training captions by image into train, val and test")
    train_images: int = number(0, "above 0: train on only so many of the images", low=0)
    val_images: int = number(0, "above 0: validate on only so many, where scoring takes long", low=0)
    image_root: str = string("", "folder of the images; '' is that of the captions' file")
    as_shown: bool = switch(
        False, "see pictures as viewers show them: upright, on white; False as the paper's"
    )
    on_bad_image: str = choice("error", "'skip' takes the next caption and counts", ("error", "skip"))
    workers: int = number(0, "loader processes; batches do not depend on it", low=0)
    world: World = section(World)
    crop: float = number(
        1.0, "below 1: random crops of at least this share of a training image", above=0, high=1
    )
    flip: bool = switch(False, "mirror half of the training images; not where captions tell left from right")
    cut_text: bool = switch(True, "cut captions to the longest of the batch, in buckets: less work")

    @property
    def augmented(self) -> bool:
        """Whether images are seen in views that differ from step to step."""
        return self.crop < 1 or self.flip


@dataclasses.dataclass(frozen=True)
class Loss:
    """With a section of settings for each of TERMS, by attribute or by name: loss.csa is loss['csa']."""

    negatives: str = choice(
        "local", "'local': groups of local_batch rows, as on the reference's 4 GPUs", ("global", "local")
    )
    local_batch: int = number(128, "rows of a group of local negatives", low=2)
    tile: int = number(0, "above 0: global negatives in tiles of so many rows, never a B×B matrix", low=0)

    def __getitem__(self, term: str) -> Any:
        return getattr(self, term)

    if TYPE_CHECKING:

        def __getattr__(self, term: str) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Teacher:
    image: str = string("", "model folder, Hugging Face id, UNICOM's .pt, feature file (docs/data.md)")
    text: str = string("", "the same for captions")
    max_length: int = number(64, "tokens of the text teacher", low=3)
    dtype: str = choice("float32", "of live teachers' computation", ("float32", "bfloat16"))
    bank: str = string("", "folder for live teachers' features, computed once; '' runs them in every step")
    width: int = number(0, "above 0: project wider features to so many numbers", low=0)
    stored_dtype: str = choice(
        "", "of a bank's or file's features on the devices; '' keeps it", ("", "bfloat16")
    )
    centre: bool = switch(
        False, "take the batch's mean direction off the features: for teachers that find all alike"
    )
    control: str = choice(
        "none", "teachers that know nothing, to compare with", ("none", "shuffled", "uniform")
    )


@dataclasses.dataclass(frozen=True)
class Optim:
    lr: float = number(1e-5, "peak of the learning rate", low=0)
    b1: float = number(0.9, "AdamW: decay of the first moment", low=0, below=1)
    b2: float = number(0.999, "AdamW: decay of the second moment", low=0, below=1)
    eps: float = number(1e-8, "AdamW: added to the root of the second moment", low=0)
    weight_decay: float = number(1e-4, "of all but vectors", low=0)
    clip_norm: float = number(0.0, "largest norm of the gradient; 0 does not clip", low=0)
    rules: str = string("", "'PATTERN lr=… decay=… train=… after=EPOCHS; …' by path, first match wins")
    layer_decay: float = number(1.0, "of the learning rate, from each block to the one below", low=0, high=1)
    ema: float = number(0.0, "above 0: a moving average with this decay is evaluated, saved", low=0, below=1)
    lora_rank: int = number(0, "above 0: LoRA of this rank instead of the towers' own weights", low=0)
    lora_scale: float = number(1.0, "factor of what LoRA adds: its alpha / rank", low=0)
    freeze: str = string("", "parts that are not trained, such as 'image' or 'image,text'")


@dataclasses.dataclass(frozen=True)
class Schedule:
    epochs: int = number(40, "passes over the training captions", low=1)
    min_lr: float = number(1e-6, "where the cosine ends", low=0)
    warmup_epochs: float = number(0.0, "of a linear rise before it", low=0)
    warmup_lr: float = number(1e-6, "where the rise begins", low=0)
    patience: int = number(0, "above 0: stop after so many epochs of no better validation", low=0)
    every: str = choice("epoch", "when the learning rate moves", ("epoch", "step"))


@dataclasses.dataclass(frozen=True)
class Eval:
    batch_size: int = number(256, "images or captions encoded at once", low=1)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    every_steps: int = number(1000, "steps between two", low=1)
    keep: int = number(2, "the newest so many", low=1)


@dataclasses.dataclass(frozen=True)
class Log:
    every_steps: int = number(20, "steps between two lines", low=1)


@dataclasses.dataclass(frozen=True)
class Sharding:
    fsdp: int = number(1, "devices that share one copy of the parameters", low=1)


@dataclasses.dataclass(frozen=True)
class Config:
    """The paper's recipe; `data.path` and the teachers are the user's to fill in."""

    seed: int = number(23, "of weights, data order and dropout", low=0, below=2**32)
    init_from: str = string(
        "", "CLIP weights of any format (README: weights in and out); '' starts from random ones"
    )
    batch_size: int = number(512, "captions with their images, over all devices and hosts", low=2)
    accumulate: int = number(1, "micro-batches to encode a batch in: the same step, less memory", low=1)
    model: Model = section(Model)
    data: Data = section(Data)
    loss: Loss = section(Loss)
    teacher: Teacher = section(Teacher)
    optim: Optim = section(Optim)
    schedule: Schedule = section(Schedule)
    eval: Eval = section(Eval)
    checkpoint: Checkpoint = section(Checkpoint)
    compiled: bool = switch(True, "keep what is compiled in WORKDIR/compiled, so that continuing need not")
    log: Log = section(Log)
    sharding: Sharding = section(Sharding)


def defaults() -> Config:
    """Every default, with a section for each of the TERMS that there are now."""
    return Config(loss=_loss_with(tuple(TERMS.values()))())


@functools.cache
def _loss_with(terms: tuple[Term, ...]) -> type[Loss]:
    """The loss section with the sections of these terms; one class for the same terms, so that values compare."""
    fields = [
        (term.name, type(term.settings), section(functools.partial(dataclasses.replace, term.settings)))
        for term in terms
    ]
    return dataclasses.make_dataclass("Loss", fields, bases=(Loss,), frozen=True)
