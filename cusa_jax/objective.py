"""The training objective: the weighted sum of the terms in `losses.terms.TERMS`, CUSA's contrastive + α CSA + β USA.

`objective` takes similarity matrices, whatever model they come from. `of_embeddings` takes a dual encoder's
embeddings, and with `config.loss.tile` computes the same numbers without the matrices.

Terms of weight 0 that are `measured` are computed too where there is what they read, so that a contrastive-only run
with teachers configured shows what CSA and USA would be.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from cusa_jax import similarity, tiled
from cusa_jax.losses.term import INPUTS, Compared, Scalars
from cusa_jax.losses.terms import computed
from cusa_jax.types import Embeddings


def objective(compared: Compared, scalars: Scalars, loss: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Weighted sum of the terms, and the terms themselves without their weights.

    scalars: clamped, by the names of `scalars.specifications`. loss: `config.loss`.
    Raises InputError where a term with a weight lacks what it reads.
    """
    chosen = computed(loss, compared.inputs, tiled=False)
    return _weighted({term.name: term.dense(compared, scalars, loss) for term in chosen}, loss)


def of_embeddings(
    embeddings: Embeddings,
    teacher_features: tuple[jax.Array, jax.Array] | None,
    ids: jax.Array | None,
    scalars: Scalars,
    loss: Any,
    *,
    groups: int = 1,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`objective` of embeddings [B, E], the teachers' features ([B, D], [B, D']) and image numbers int [B] or None.

    groups: problems of local negatives, always dense; mesh: where the rows are, for the tiled losses.
    """
    if loss.tile and groups == 1:
        absent = {name for name, value in (("labels", teacher_features), ("ids", ids)) if value is None}
        problems = {
            term.name: term.tiled(loss) for term in computed(loss, INPUTS - absent, tiled=True) if term.tiled
        }
        values = tiled.terms(problems, embeddings, teacher_features, ids, scalars, loss.tile, mesh)
        return _weighted(values, loss)
    labels = None if teacher_features is None else similarity.teacher(*teacher_features, groups=groups)
    ids = None if ids is None else similarity.group_ids(ids, groups)
    return objective(Compared(similarity.student(embeddings, groups), labels, ids), scalars, loss)


def _weighted(terms: dict[str, jax.Array], loss: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    weighted = [loss[name].weight * value for name, value in terms.items() if loss[name].weight > 0]
    return sum(weighted, start=jnp.zeros(())), terms
