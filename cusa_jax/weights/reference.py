"""The PyTorch reference's own words: its loss configuration and its temperature names, in ours.

Its YAML spells every temperature of both directions, with flags for sharing and freezing
(configs/vitb32/flickr/cusa.yaml); ours says the same per term.
"""

from typing import Any

from ml_collections import ConfigDict

from cusa_jax.config import default_config

DIVERGENCES = {"kl": "kl", "contrastive": "cross_entropy"}

# Our temperature names -> the reference's parameter names (unire/model.py:53-118).
TEMPERATURE_NAMES = {
    "contrastive": "tau",
    **{
        f"{term}{teacher}{side}": f"{theirs}{'_the_softlabel' if teacher else ''}_tau{side}"
        for term, theirs in (("csa", "cross"), ("usa", "uni"))
        for teacher in ("", "_teacher")
        for side in ("", "_image", "_text")
    },
}


def loss_config(reference: dict[str, Any]) -> ConfigDict:
    """`loss_config` of a reference YAML -> `config.loss`. Switched-off terms keep their settings at weight 0."""
    contrastive, cross, uni = (reference[k] for k in ("contrastive", "cross_softlabel", "uni_softlabel"))
    loss = default_config().loss
    loss.contrastive = {
        "weight": _weight(contrastive),
        "reduction": contrastive["contrastive_loss_mode"],
        "tau": {
            "init": float(contrastive["tau"]),
            "min": float(contrastive["tau_min"]),
            "max": float(contrastive["tau_max"]),
            "trainable": not contrastive["is_block_tau"],
        },
    }
    loss.csa = {"targets": cross["cross_softlabel_mode"], **_aligned(cross)}
    loss.usa = _aligned(uni)
    loss.usa.tau.from_csa = uni["use_cross_softlabel_same_tau"]
    loss.usa.teacher_tau.from_csa = uni["use_cross_softlabel_same_softlabel_tau"]
    return loss


def _weight(term: dict[str, Any]) -> float:
    return float(term["rate"]) if term["is_on"] else 0.0


def _aligned(term: dict[str, Any]) -> ConfigDict:
    """What CSA and USA have in common."""
    return ConfigDict(
        {
            "weight": _weight(term),
            "divergence": DIVERGENCES[term["use_loss"]],
            "reduction": term["contrastive_loss_mode"],
            "tau": {
                "shared": term["use_same_tau"],
                "trainable": not term["is_block_tau"],
                **{side: _bounds(term, f"{side}_tau") for side in ("image", "text")},
            },
            "teacher_tau": {
                "shared": term["use_same_softlabel_tau"],
                "trainable": not term["is_block_softlabel_tau"],
                **{side: _bounds(term, f"the_softlabel_{side}_tau") for side in ("image", "text")},
            },
        }
    )


def _bounds(term: dict[str, Any], key: str) -> dict[str, float]:
    return {"init": float(term[key]), "min": float(term[f"{key}_min"]), "max": float(term[f"{key}_max"])}
