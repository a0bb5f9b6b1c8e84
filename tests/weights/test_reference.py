"""The reference's YAML in our words, and back."""

import runpy

import golden
import pytest
import yaml as pyyaml

from cusa_jax.config import default_config, flat, validate
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
        ({term: {"weight": 0.0} for term in ("contrastive", "csa", "usa")}, "at least one must be above 0"),
    ],
    ids=["bad_cross_mode", "bad_use_loss", "bad_contrastive_mode", "none_on"],
)
def test_configurations_that_fail_late_in_the_reference_are_refused_at_once(change, message):
    config = default_config()
    config.data.path = "captions"
    config.loss.update(change)
    with pytest.raises(InputError, match=message):
        validate(config)


# --- the whole YAML -------------------------------------------------------------------------------------------

NAMES = ("yaml/vitb32/flickr/cusa", "yaml/vitb32/flickr/only_contrastive", "yaml/test")


def whole(name="yaml/vitb32/flickr/cusa", **changes):
    """configs/NAME.yaml: what is around `loss_config` in every shipped file."""
    return {
        "save_path": "output/x",
        "dataset_name": "cross_coco",
        "data_path": "flickr",
        "batch_size_train": 128,
        "batch_size_test": 128,
        "batch_size_testall": 128,
        "clip_model": "ViT-B/32",
        "is_all_gather": False,
        "loss_config": yaml(name),
        "optimizer": {"opt": "adamW", "lr": 0.00001, "weight_decay": 0.0001},
        "schedular": {
            "sched": "cosine", "epochs": 40, "min_lr": 0.000001, "decay_rate": 1, "warmup_lr": 0.00001,
            "warmup_epochs": 0, "cooldown_epochs": 0,
        },
        **changes,
    }  # fmt: skip


def test_the_shipped_yaml_is_the_shipped_config():
    converted = reference.config_of(whole(), "cusa.yaml")
    ours = flat(default_config())
    different = {key: value for key, value in flat(converted).items() if value != ours[key]}
    assert different == {
        "data.path": "flickr",
        "eval.batch_size": 128,
        "schedule.warmup_lr": 1e-5,
        "teacher.image": "flickr/train_unicom.npy",
        "teacher.text": "sentence-transformers/all-mpnet-base-v2",
    }
    validate(converted)


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back_is_the_same_yaml(name):
    before = whole(name, save_path="output")
    assert reference.yaml_of(reference.config_of(before, "x.yaml")) == before


@pytest.mark.parametrize(
    ("changes", "ours", "value"),
    [
        ({"batch_size_train": 16}, "batch_size", 64),
        ({"batch_size_train": 16}, "loss.local_batch", 16),
        ({"is_all_gather": True}, "loss.negatives", "global"),
        ({"batch_size_testall": 7}, "eval.batch_size", 7),
        ({"clip_model": "ViT-L/14@336px"}, "model.name", "vit_l_14_336"),
        ({"clip_model": "ViT-B/16"}, "model.name", "vit_b_16"),
        ({"clip_model": "weights/mine.pt"}, "model.name", "auto"),
        ({"clip_model": "weights/mine.pt"}, "init_from", "weights/mine.pt"),
        ({"optimizer": {"opt": "AdamW", "lr": "3e-5", "weight_decay": 1}}, "optim.lr", 3e-5),
        ({"optimizer": {"opt": "AdamW", "lr": "3e-5", "weight_decay": 1}}, "optim.weight_decay", 1.0),
    ],
)
def test_settings_around_the_losses(changes, ours, value):
    assert flat(reference.config_of(whole(**changes), "x.yaml"))[ours] == value


def without(mapping, key):
    return {name: value for name, value in mapping.items() if name != key}


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (None, "there is no loss_config"),
        ({"a": 1}, "there is no loss_config"),
        (whole(learning_rate=1, momentum=2), "unknown key learning_rate; unknown key momentum"),
        (whole(optimizer={"opt": "sgd", "lr": 1e-5, "weight_decay": 0}), "optimizer.opt='sgd' .only adamw"),
        (whole(clip_model="ViT-B/31"), "clip_model='ViT-B/31' is none of ViT-B/32"),
        (whole(batch_size_train="128"), "x.yaml: batch_size_train='128'"),
        (whole(batch_size_train=True), "x.yaml: batch_size_train=True"),
        (without(whole(), "data_path"), "missing key data_path"),
        (
            whole(loss_config=yaml(NAMES[0]) | {"contrastive": {"is_on": True, "rate": "a", "is_block_tau": 0}}),
            r"contrastive.rate='a'; .*is_block_tau=0; missing key loss_config.contrastive.tau; ",
        ),
    ],
)  # fmt: skip
def test_every_wrong_key_is_named(raw, told):
    with pytest.raises(InputError, match=told):
        reference.config_of(raw, "x.yaml")


def test_a_term_that_is_off_may_be_without_settings():
    """The reference reads them only where the term is on."""
    raw = whole(loss_config=yaml(NAMES[0]) | {"uni_softlabel": {"is_on": False}})
    loss = reference.config_of(raw, "x.yaml").loss
    assert loss.usa.to_dict() == {**default_config().loss.usa.to_dict(), "weight": 0.0}


def test_the_file_that_is_written_says_the_same(tmp_path):
    (tmp_path / "test.yaml").write_text(pyyaml.safe_dump(whole("yaml/test", data_path='it\'s "here"\n')))
    converted = reference.read_yaml(tmp_path / "test.yaml")
    (tmp_path / "test.py").write_text(reference.source(converted))
    get_config = runpy.run_path(str(tmp_path / "test.py"))["get_config"]
    assert get_config() == converted
    assert get_config("loss=contrastive").loss.usa.weight == 0


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a: [", "not a YAML file"),
        (b"\xff\xfe\x00", "not a YAML file"),
        (b"!!python/object/apply:os.getcwd []", "not a YAML file"),
        (b"a: &a [1]\nb: [*a, *a]", "YAML aliases"),
        (b"[" * 600, "not a YAML file"),
        (b"- 1", "there is no loss_config"),
    ],
)
def test_other_files_are_told_in_a_line(tmp_path, content, told):
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(InputError, match=rf"x\.yaml: .*{told}"):
        reference.read_yaml(tmp_path / "x.yaml")


def test_usa_gets_the_temperatures_that_it_borrowed_from_a_csa_that_is_off():
    config = reference.config_of(whole(), "x.yaml")
    config.loss.csa.weight = 0.0
    config.loss.csa.teacher_tau.text.init = 0.7
    own = reference.with_own_temperatures(config)
    assert not own.loss.usa.teacher_tau.from_csa
    assert own.loss.usa.teacher_tau.text.init == 0.7
    assert own.loss.usa.teacher_tau.shared
    assert config.loss.usa.teacher_tau.from_csa


def test_a_term_that_the_reference_does_not_know_is_not_written():
    config = reference.config_of(whole(), "x.yaml")
    config.loss.sigmoid.weight = 1.0
    with pytest.raises(
        InputError, match=r"the reference has no sigmoid loss; set config\.loss\.sigmoid\.weight=0"
    ):
        reference.yaml_of(config)
