"""Configurations: the shipped ones make sense, and whatever cannot be meant is refused in one line."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from cusa_jax.config import (
    LOSSES,
    default_config,
    flat,
    from_values,
    needs_teachers,
    typed,
    validate,
    with_argument,
)
from cusa_jax.errors import InputError
from cusa_jax.keys import Config, defaults
from cusa_jax.settings import options

ROOT = Path(__file__).parent.parent


def shipped(name: str, argument: str | None = None):
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument)


def usable(**changed):
    config = default_config()
    config.data.path, config.teacher.image, config.teacher.text = "photos", "image", "text"
    config.update_from_flattened_dict(changed)
    return config


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("model", ["vit_b_32", "vit_l_14_336", "toy"])
@pytest.mark.parametrize("name", ["flickr", "coco", "demo"])
def test_shipped_configurations_are_valid(name, model, loss):
    config = shipped(name, f"model={model},loss={loss}")
    validate(config)
    assert config.model.name == model
    weights = {term: config.loss[term].weight for term in ("contrastive", "csa", "usa")}
    paper = {"contrastive": 1.0, "csa": 0.1, "usa": 0.5}
    assert weights == {term: weight * (term in LOSSES[loss]) for term, weight in paper.items()}
    assert needs_teachers(config) == (loss != "contrastive")


def test_the_paper_s_batches():
    """Reference configs/vitb32 and vitl14@336: 4 processes of 128 and of 16 rows."""
    for name, epochs in (("flickr", 40), ("coco", 30)):
        small, large = shipped(name), shipped(name, "model=vit_l_14_336")
        assert (small.batch_size, small.loss.local_batch, small.schedule.epochs) == (512, 128, epochs)
        assert (large.batch_size, large.loss.local_batch) == (64, 16)


@pytest.mark.parametrize(
    ("name", "argument"), [("own", None), ("own", "model=toy"), ("finetune", "loss=contrastive")]
)
def test_our_recipe_starts_from_the_pretrained_model_s_own_figures(name, argument):
    config = shipped(name, argument)
    config.data.path = "photos"
    assert validate(config).model.heads == "residual"
    assert config.model.name == ("toy" if argument == "model=toy" else "auto")
    assert config.schedule.warmup_lr == config.schedule.min_lr == 0
    assert needs_teachers(config) == (name == "own")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("model=vit_b_23", r"model='vit_b_23' is none of .* \(did you mean 'vit_b_32'\?\)"),
        ("loss=cusaa", r"loss='cusaa' is none of .* \(did you mean 'cusa'\?\)"),
        ("loss=csa,loss=usa", "'loss=' is given twice"),
        ("lr=1", "unknown argument 'lr' after ':'; it takes model=… and loss=…"),
    ],
)
def test_unknown_arguments_are_refused(argument, message):
    with pytest.raises(InputError, match=message):
        with_argument(default_config(), argument)


CHOICES = [key for key, option in options(defaults()).items() if option.allowed]


@pytest.mark.parametrize("key", CHOICES)
def test_values_outside_the_choices_are_refused(key):
    config = usable()
    validate(config)
    *groups, leaf = key.split(".")
    group = config
    for name in groups:
        group = group[name]
    group[leaf] = "no such choice"
    with pytest.raises(InputError, match=rf"config\.{key}='no such choice' is none of "):
        validate(config)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data.path": ""}, r"config\.data\.path is empty"),
        ({"batch_size": 1}, r"config\.batch_size=1 must be at least 2"),
        ({"batch_size": True}, r"config\.batch_size=True must be int, such as 512"),
        ({"seed": 2**32}, r"config\.seed=4294967296 must be at least 0 and below 4294967296"),
        ({"optim.lr": -1.0}, r"config\.optim\.lr=-1\.0 must be at least 0"),
        ({"optim.lr": float("nan")}, r"config\.optim\.lr=nan must be at least 0 and finite"),
        ({"optim.b1": 1.0}, r"config\.optim\.b1=1\.0 must be at least 0 and below 1"),
        ({"schedule.min_lr": 1.0}, r"min_lr=1\.0 exceeds optim\.lr"),
        ({"loss.contrastive.tau.min": 0.5}, r"contrastive\.tau: min 0\.5 exceeds max 0\.1"),
        ({"loss.csa.tau.image.init": 0.0}, r"csa\.tau\.image\.init=0\.0 must be above 0"),
        ({"batch_size": 200}, r"batch_size=200 is not a multiple of loss\.local_batch=128"),
        ({"loss.csa.weight": -0.1}, r"loss\.csa\.weight=-0\.1 must be at least 0"),
        ({"loss.sigmoid.bias.max": -200.0}, r"loss\.sigmoid\.bias: min -100\.0 exceeds max -200\.0"),
        ({"loss.csa.weight": 0.0, "loss.usa.weight": 0.0, "loss.contrastive.weight": 0.0}, r"one must be above 0"),
        ({"schedule.warmup_epochs": 40.0}, r"warmup_epochs must be smaller"),
        ({"optim.rules": "image/.* after=40"}, r"'image/\.\*' begins after=40 epochs"),
        ({"optim.rules": "image/.* lr=fast"}, r"'lr=fast' is none of"),
        ({"teacher.text": ""}, r"config\.teacher\.text is empty, but soft labels need both teachers"),
        ({"teacher.text": "", "teacher.image": ""}, r"config\.teacher\.image and config\.teacher\.text is empty"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(changed, message):
    with pytest.raises(InputError, match=message):
        validate(usable(**changed))


def test_keys_are_checked_both_ways():
    config = usable()
    with config.unlocked():
        config.loss.csa.wieght = 0.2
    with pytest.raises(
        InputError, match=r"unknown key 'loss\.csa\.wieght' \(did you mean 'loss\.csa\.weight'\?\)"
    ):
        validate(config)
    config = usable()
    with config.unlocked():
        del config.optim.b1
    with pytest.raises(InputError, match=r"lacks the key 'optim\.b1' \(default 0\.9\)"):
        validate(config)


def test_a_configuration_in_a_file_may_be_older_than_a_key():
    found = from_values({"seed": 7, "model": {"name": "toy"}}, "config.json")
    assert (found.seed, found.model.name, found.model.attention) == (7, "toy", "xla")
    deep: dict = {}
    for _ in range(100_000):
        deep = {"deeper": deep}
    for wrong in ({"seed": {"a": 1}}, {"model": 3}, 5, deep):
        with pytest.raises(InputError, match=r"config\.json: its configuration is not one of this program's"):
            from_values(wrong, "config.json")


def test_flat_names_every_leaf():
    names = flat(default_config())
    assert names["loss.csa.tau.image.init"] == 0.45
    assert not any(hasattr(value, "items") for value in names.values())


def test_the_typed_configuration_says_the_same_and_cannot_be_changed():
    config = usable(**{"loss.csa.weight": 0.25, "loss.sigmoid.bias.init": -2.5, "optim.rules": "head lr=10"})
    settings = validate(config)
    assert isinstance(settings, Config)
    assert dataclasses.asdict(settings) == config.to_dict()
    assert settings.loss["csa"] is settings.loss.csa
    assert settings.loss.csa.tau.image.init == 0.45
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.loss.csa.weight = 1.0
    assert settings == typed(config)
    assert hash(settings) == hash(typed(config))
    assert settings != typed(usable())


def test_whole_numbers_become_floats_where_floats_are_meant():
    config = usable().to_dict()
    config["optim"]["lr"] = 1
    assert isinstance(typed(config).optim.lr, float)


def test_every_key_has_a_meaning():
    assert all(option.help for option in options(defaults()).values())


def test_a_start_outside_its_bounds_is_said_once(caplog):
    """It is clamped in the first step, and the reference's own test.yaml asks for that."""
    with caplog.at_level("WARNING"):
        validate(usable(**{"loss.csa.tau.image.init": 2.0}))
    (record,) = caplog.records
    assert "config.loss.csa.tau.image.init=2 lies outside its bounds, 0.1 to 0.99" in record.getMessage()


def test_terms_that_no_recipe_names_keep_their_weight():
    config = default_config()
    config.loss.sigmoid.weight = 0.5
    loss = with_argument(config, "loss=contrastive").loss
    assert (loss.contrastive.weight, loss.csa.weight, loss.sigmoid.weight) == (1.0, 0.0, 0.5)
