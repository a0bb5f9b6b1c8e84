"""The training objective: contrastive + α CSA + β USA.

`objective` takes similarity matrices, whatever model they come from. `of_embeddings` takes a dual encoder's
embeddings, and with `config.loss.tile` computes the same numbers without the matrices.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from cusa_jax import losses, similarity, temperatures, tiled
from cusa_jax.types import Embeddings, Similarities, SoftLabels


def of_embeddings(
    embeddings: Embeddings,
    teacher_features: tuple[jax.Array, jax.Array] | None,
    ids: jax.Array | None,
    taus: dict[str, jax.Array],
    loss: Any,
    *,
    groups: int = 1,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`objective` of embeddings [B, E], the teachers' features ([B, D], [B, D']) and image numbers int [B] or None.

    groups: problems of local negatives, always dense; mesh: where the rows are, for the tiled losses.
    """
    if loss.tile and groups == 1:
        return _weighted(tiled.terms(embeddings, teacher_features, ids, taus, loss, mesh), loss)
    labels = None if teacher_features is None else similarity.teacher(*teacher_features, groups=groups)
    ids = None if ids is None else similarity.group_ids(ids, groups)
    return objective(similarity.student(embeddings, groups), labels, ids, taus, loss)


def objective(
    student: Similarities,
    labels: SoftLabels | None,
    ids: jax.Array | None,
    taus: dict[str, jax.Array],
    loss: Any,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Weighted sum of the terms, and the terms themselves without their weights.

    student, labels: matrices [..., B, B]; ids: int [..., B]; taus: clamped; loss: `config.loss`.
    Terms of weight 0 are measured too where there is what they need, so that a contrastive-only run with
    teachers configured shows what CSA and USA would be.
    """
    terms = {
        "contrastive": losses.contrastive(
            student.image_text, ids, taus["contrastive"], reduction=loss.contrastive.reduction
        )
    }
    if labels is not None:
        terms["csa"] = losses.csa(
            student.image_text,
            labels,
            **temperatures.arguments(taus, loss, "csa"),
            targets=loss.csa.targets,
            divergence=loss.csa.divergence,
            reduction=loss.csa.reduction,
        )
        terms["usa"] = losses.usa(
            student.image_image,
            student.text_text,
            labels,
            **temperatures.arguments(taus, loss, "usa"),
            divergence=loss.usa.divergence,
            reduction=loss.usa.reduction,
        )
    return _weighted(terms, loss)


def _weighted(terms: dict[str, jax.Array], loss: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    weighted = [loss[name].weight * value for name, value in terms.items() if loss[name].weight > 0]
    return sum(weighted, start=jnp.zeros(())), terms
