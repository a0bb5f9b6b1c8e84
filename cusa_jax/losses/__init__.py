"""CUSA's losses as the paper writes them: pure functions of similarities, soft labels and temperatures.

Notation: S [..., B, B] student similarities, rows = queries; T = teacher similarities; τ, τ_t = student and teacher
temperatures. Q = softmax(T/τ_t) are the soft labels, P = softmax(S/τ) the student's distribution, both over a row.
Leading axes are groups of local negatives (see similarity.py); every loss averages over them.
All is differentiable in S, τ and τ_t; T is frozen by `similarity.teacher`. float32 in, float32 out (float64 too).
An unknown mode raises InputError.

    loss = contrastive(S, ids, tau) + α csa(S, T, …) + β usa(S_II, S_TT, T, …)

`terms.TERMS` is the table of them as the objective sees them: with settings, scalars, and forms without matrices.
"""

from cusa_jax.losses.alignment import align
from cusa_jax.losses.contrastive import contrastive
from cusa_jax.losses.csa import csa
from cusa_jax.losses.hinge import hinge
from cusa_jax.losses.sigmoid import sigmoid
from cusa_jax.losses.usa import usa

__all__ = ["align", "contrastive", "csa", "hinge", "sigmoid", "usa"]
