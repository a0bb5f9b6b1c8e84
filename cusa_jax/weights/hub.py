"""What every format is read to and written from: a model of any family, in our own names and layouts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cusa_jax.config import ConfigDict
from cusa_jax.errors import InputError
from cusa_jax.models import families
from cusa_jax.models.heads import HeadKind
from cusa_jax.models.student import Options, Student
from cusa_jax.types import Params

HEADS = ("cross", "uni")
# What a trained model can be computed in: one of two, or what its run trained in.
DTYPES = ("float32", "bfloat16", "run")


@dataclasses.dataclass(frozen=True)
class Weights:
    """A model, and what is known of it.

    family, sizes: by which `models.families` makes it. What a file says of activation and pixels is in the sizes.
    variables: {'params': …} and further collections, float32 numpy arrays, as its student's `init` names them.
    heads: the pairs that are in the variables, of HEADS.
    scalars: {'tau_contrastive': float32 []} as a training left them; {} of a pretrained model.
    config: the recipe that they were trained with, where the file has it.
    tokenizer: the file or folder that holds the tokenizer they were trained with (`data.tokenizer_file`); '' where it
        is the family's own, or not said.
    extras: tensors of the file that our models do not have and that go back into one, by our name for them:
        'logit_scale' of a CLIP.
    figures: of the test split, where a finished run's folder has them. intervals: {figure: (low, high)}, 95 %.
    """

    family: str
    sizes: Any
    variables: Params
    heads: tuple[str, ...] = ()
    scalars: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    config: ConfigDict | None = None
    tokenizer: str = ""
    extras: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    @property
    def towers(self) -> Params:
        """The variables without the heads."""
        modules = head_modules(self.heads)
        return {
            collection: {name: module for name, module in tree.items() if name not in modules}
            for collection, tree in self.variables.items()
        }

    @property
    def head_kind(self) -> HeadKind:
        return head_kind_in(self.variables)

    def dtype(self, wanted: str) -> str:
        """'float32' or 'bfloat16', of DTYPES: weights without a recipe were trained in float32, as far as is known."""
        if wanted != "run":
            return wanted
        return "float32" if self.config is None else str(self.config.model.dtype)

    def shown(self, wanted: bool | None = None) -> bool:
        """Whether one's own pictures are seen as viewers show them: as wanted, else as in training, else they are."""
        if wanted is not None:
            return wanted
        return True if self.config is None else bool(self.config.data.as_shown)

    def student(self, dtype: str = "float32") -> Student:
        """The model with the heads that there are. dtype: of DTYPES."""
        options = Options(
            heads=self.heads, tokenizer=self.tokenizer, head_kind=self.head_kind, dtype=self.dtype(dtype)
        )
        return families.make(self.family, self.sizes, options)


def start_from(weights: Weights, fresh: Params) -> Params:
    """The variables of a training's start: module by module what the weights have, and `fresh` where they have none.

    fresh: of the student that is trained, of the same family and sizes. Heads that it needs and the weights lack stay
    as they are there; heads of the weights that it does not have are left out.
    """
    return {
        collection: {
            name: weights.variables.get(collection, {}).get(name, module) for name, module in modules.items()
        }
        for collection, modules in fresh.items()
    }


def head_modules(heads: tuple[str, ...]) -> tuple[str, ...]:
    """The names of pairs of heads among the modules of a dual encoder."""
    return tuple(f"{kind}_{side}" for kind in heads for side in ("image", "text"))


def heads_in(variables: Params) -> tuple[str, ...]:
    """The pairs that variables hold."""
    return tuple(kind for kind in HEADS if head_modules((kind,))[0] in variables["params"])


def head_kind_in(variables: Params) -> HeadKind:
    """What the heads are that variables hold: only the paper's have a norm."""
    held = [variables["params"][name] for name in head_modules(HEADS) if name in variables["params"]]
    return "residual" if held and all(module.keys() == {"linear"} for module in held) else "linear"


def template(
    family: str, sizes: Any, heads: tuple[str, ...], where: str | Path, head_kind: HeadKind = "linear"
) -> Params:
    """Shapes of the variables of a model. Raises InputError, naming `where`, for sizes that make none."""
    try:
        return _template(family, sizes, heads, head_kind)
    except (TypeError, ValueError, ArithmeticError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{where}: sizes that make no model: {sizes} ({reason})") from error


@functools.lru_cache(maxsize=4)
def _template(family: str, sizes: Any, heads: tuple[str, ...], head_kind: HeadKind) -> Params:
    student = families.make(family, sizes, Options(heads=heads, head_kind=head_kind))
    return jax.eval_shape(student.init, jax.random.key(0))
