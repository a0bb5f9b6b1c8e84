"""The training objective: contrastive + α CSA + β USA, from similarities, soft labels and temperatures."""

from typing import Any

import jax
import jax.numpy as jnp

from cusa_jax import losses, temperatures
from cusa_jax.types import Similarities, SoftLabels


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
    weighted = [loss[name].weight * value for name, value in terms.items() if loss[name].weight > 0]
    return sum(weighted, start=jnp.zeros(())), terms
