"""The reference's YAML in our words."""

import golden
import pytest

from cusa_jax.config import default_config, validate
from cusa_jax.errors import InputError
from cusa_jax.weights import reference

GOLDEN = golden.numbers("losses")


def yaml(name):
    return GOLDEN["configs"][name]["loss_config"]


def without_negatives(loss):
    """A reference YAML says elsewhere (`is_all_gather`) what our loss section says of negatives."""
    return {name: loss[name].to_dict() for name in ("contrastive", "csa", "usa")}


def test_the_shipped_cusa_yaml_is_our_default():
    converted = reference.loss_config(yaml("yaml/vitb32/flickr/cusa"))
    assert without_negatives(converted) == without_negatives(default_config().loss)


def test_the_shipped_contrastive_yaml_is_our_default_without_csa_and_usa():
    converted = reference.loss_config(yaml("yaml/vitb32/flickr/only_contrastive"))
    assert (converted.contrastive.weight, converted.csa.weight, converted.usa.weight) == (1.0, 0.0, 0.0)
    assert converted.contrastive == default_config().loss.contrastive


def test_every_setting_of_the_reference_arrives():
    """test.yaml's values differ from side to side; freezing, sharing and borrowing take all their values in turn."""
    theirs = yaml("yaml/test")
    cross, uni = theirs["cross_softlabel"], theirs["uni_softlabel"]
    loss = reference.loss_config(theirs)
    for term, section in ((loss.csa, cross), (loss.usa, uni)):
        assert term.weight == section["rate"]
        for kind, prefix in ((term.tau, ""), (term.teacher_tau, "the_softlabel_")):
            for side in ("image", "text"):
                for ours, suffix in (("init", ""), ("min", "_min"), ("max", "_max")):
                    assert kind[side][ours] == section[f"{prefix}{side}_tau{suffix}"]


@pytest.mark.parametrize("value", [False, True])
@pytest.mark.parametrize(
    ("section", "key", "ours"),
    [
        ("cross_softlabel", "use_same_tau", lambda loss: loss.csa.tau.shared),
        ("cross_softlabel", "use_same_softlabel_tau", lambda loss: loss.csa.teacher_tau.shared),
        ("cross_softlabel", "is_block_tau", lambda loss: not loss.csa.tau.trainable),
        ("cross_softlabel", "is_block_softlabel_tau", lambda loss: not loss.csa.teacher_tau.trainable),
        ("cross_softlabel", "is_on", lambda loss: loss.csa.weight > 0),
        ("uni_softlabel", "use_same_tau", lambda loss: loss.usa.tau.shared),
        ("uni_softlabel", "use_same_softlabel_tau", lambda loss: loss.usa.teacher_tau.shared),
        ("uni_softlabel", "is_block_tau", lambda loss: not loss.usa.tau.trainable),
        ("uni_softlabel", "is_block_softlabel_tau", lambda loss: not loss.usa.teacher_tau.trainable),
        ("uni_softlabel", "use_cross_softlabel_same_tau", lambda loss: loss.usa.tau.from_csa),
        (
            "uni_softlabel",
            "use_cross_softlabel_same_softlabel_tau",
            lambda loss: loss.usa.teacher_tau.from_csa,
        ),
        ("uni_softlabel", "is_on", lambda loss: loss.usa.weight > 0),
        ("contrastive", "is_block_tau", lambda loss: not loss.contrastive.tau.trainable),
        ("contrastive", "is_on", lambda loss: loss.contrastive.weight > 0),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_flags_are_converted(section, key, ours, value):
    theirs = yaml("yaml/vitb32/flickr/cusa")
    theirs = theirs | {section: theirs[section] | {key: value}}
    assert ours(reference.loss_config(theirs)) == value


@pytest.mark.parametrize(
    ("section", "key", "value", "ours"),
    [
        ("contrastive", "contrastive_loss_mode", "sum", lambda loss: loss.contrastive.reduction == "sum"),
        ("cross_softlabel", "contrastive_loss_mode", "sum", lambda loss: loss.csa.reduction == "sum"),
        ("uni_softlabel", "contrastive_loss_mode", "sum", lambda loss: loss.usa.reduction == "sum"),
        ("cross_softlabel", "use_loss", "contrastive", lambda loss: loss.csa.divergence == "cross_entropy"),
        ("uni_softlabel", "use_loss", "contrastive", lambda loss: loss.usa.divergence == "cross_entropy"),
        ("cross_softlabel", "cross_softlabel_mode", "dot", lambda loss: loss.csa.targets == "dot"),
        # the reference dies of integers: "Only Tensors of floating point ... can require gradients"
        ("contrastive", "tau", 1, lambda loss: isinstance(loss.contrastive.tau.init, float)),
        ("cross_softlabel", "image_tau", 1, lambda loss: isinstance(loss.csa.tau.image.init, float)),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_values_are_converted(section, key, value, ours):
    theirs = yaml("yaml/vitb32/flickr/cusa")
    theirs = theirs | {section: theirs[section] | {key: value}}
    assert ours(reference.loss_config(theirs))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"csa": {"targets": "sum"}}, "config.loss.csa.targets='sum' is none of each, add, dot"),
        ({"csa": {"divergence": "js"}}, "config.loss.csa.divergence='js' is none of kl, cross_entropy"),
        (
            {"contrastive": {"reduction": "max"}},
            "config.loss.contrastive.reduction='max' is none of mean, sum",
        ),
        ({term: {"weight": 0.0} for term in ("contrastive", "csa", "usa")}, "at least one > 0"),
    ],
    ids=["bad_cross_mode", "bad_use_loss", "bad_contrastive_mode", "none_on"],
)
def test_configurations_that_fail_late_in_the_reference_are_refused_at_once(change, message):
    config = default_config()
    config.data.path = "captions"
    config.loss.update(change)
    with pytest.raises(InputError, match=message):
        validate(config)
