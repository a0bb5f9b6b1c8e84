"""What a student is: pure functions over variables, and the table entry by which its family is known.

A student encodes each side by itself, row by row, and compares what it encoded: a dual encoder by the cosine of
embeddings, a cross-attention model by looking at both sides together, with parameters of its own. The losses see
similarities alone, so that everything else is the same for all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import jax

from cusa_jax.inputs import Inputs
from cusa_jax.models.heads import HeadKind
from cusa_jax.types import Array, Embeddings, Similarities

Variables: TypeAlias = Any  # {'params': …, and further linen collections}, a pytree of arrays
ModelState: TypeAlias = (
    Any  # the collections beside 'params', as a training pass leaves them; {} of most students
)
Encoded: TypeAlias = Any  # a pytree of arrays [B, …] of both sides, whose rows belong to the rows of a batch
Rngs: TypeAlias = dict[str, jax.Array] | None  # keys by linen's names, such as {'dropout': key}
Side = Literal["image", "text"]


class Student(Protocol):
    """A model that is trained; `linen_student.LinenStudent` makes one of a linen module.

    Instances are immutable and compare by value: the compiled step is specialised to one.

    family, sizes: by which `FAMILIES` makes it again; sizes is a frozen dataclass of plain values.
    inputs: what it must be given. image: uint8 [B, S, S, 3] or float regions [B, R, D]; tokens: int32 [B, L].
    rows_independent: whether encoding a row does not depend on the others; without, as with a BatchNorm, a batch
        cannot be encoded in micro-batches.
    """

    @property
    def family(self) -> str: ...
    @property
    def sizes(self) -> Any: ...
    @property
    def inputs(self) -> Inputs: ...
    @property
    def rows_independent(self) -> bool: ...

    def init(self, key: jax.Array) -> Variables:
        """Fresh float32 variables."""

    def encode(
        self,
        variables: Variables,
        image: Array,
        tokens: Array,
        *,
        train: tuple[Side, ...] = (),
        rngs: Rngs = None,
    ) -> tuple[Encoded, ModelState]:
        """Both sides of a batch, [B, …] each. train: the sides with dropout, batch statistics and the state they leave.

        Parameters of a side lie under its name, so that a side is in training where one of them is trained.
        """

    def encode_side(self, variables: Variables, side: Side, rows: Array) -> Any:
        """One side as evaluation encodes it: a pytree of arrays [B, …], a part of what `encode` returns."""

    def compare(
        self,
        variables: Variables,
        encoded: Encoded,
        *,
        groups: int = 1,
        train: bool = False,
        rngs: Rngs = None,
    ) -> tuple[Similarities, ModelState]:
        """Similarities [groups, B/groups, B/groups] of consecutive rows; without a group axis for groups=1."""

    def score(self, variables: Variables, images: Any, texts: Any) -> jax.Array:
        """float32 [M, N], how well M encoded images and N encoded texts (of `encode_side`) fit, in evaluation."""


@runtime_checkable
class Embeds(Protocol):
    """A student that has embeddings, whose scores are cosines: search, uni-modal suites and tiled losses need them."""

    def embed(self, variables: Variables, side: Side, rows: Array) -> tuple[jax.Array, jax.Array]:
        """(cross-modal, uni-modal) embeddings [B, E] of one side, in evaluation, not normalised."""

    def embeddings(self, encoded: Encoded) -> Embeddings:
        """What `encode` made of a batch, as tiled losses take it."""

    @property
    def heads(self) -> tuple[str, ...]:
        """Which pairs of heads it has, of 'cross' and 'uni'; without one, its embeddings are the towers' features."""


@runtime_checkable
class UniModal(Protocol):
    """A student that scores pairs alone, but has something of each side by itself: enough for uni-modal suites."""

    def uni(self, encoded: Any) -> Array:
        """Uni-modal embeddings [B, U] in what `encode_side` made of one side, not normalised."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What a configuration decides of a student beyond its sizes.

    heads: which pairs it has, of 'cross' and 'uni'. head_kind: what they are, of `models.heads.HEADS`. dtype: of the
    computation. remat: recompute activations in the backward pass. attention: of `models.layers.ATTENTION`.
    tokenizer: as in `inputs.Text`; '' is the family's own.
    """

    heads: tuple[str, ...] = ("cross", "uni")
    dtype: str = "float32"
    remat: bool = False
    attention: str = "xla"
    tokenizer: str = ""
    head_kind: HeadKind = "linear"


@dataclasses.dataclass(frozen=True)
class Family:
    """One kind of students. sizes: a frozen dataclass of plain values. presets: sizes by the names of `model.name`.

    student: (sizes, options) -> the student.
    """

    sizes: type
    presets: Mapping[str, Any]
    student: Callable[[Any, Options], Student]
