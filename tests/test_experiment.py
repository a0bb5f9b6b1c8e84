"""From a configuration to the parts of a run: what is wrong is told before what takes long."""

import dataclasses
import re

import jax
import pytest

from cusa_jax import dry_run, experiment
from cusa_jax.config import default_config, typed, validate
from cusa_jax.data import tokenizer_file, vocabulary
from cusa_jax.errors import InputError
from cusa_jax.jsonfile import write_json
from cusa_jax.keys import Config
from cusa_jax.models import families
from cusa_jax.sgraf_recipe import recipe


def config(**changed) -> Config:
    config = default_config()
    config.update_from_flattened_dict({"batch_size": 512, "model.name": "toy", **changed})
    return typed(config)


@pytest.fixture
def nothing_is_built(monkeypatch):
    monkeypatch.setattr(experiment, "build_student", lambda config: pytest.fail("built a model first"))


def test_missing_data(tmp_path, nothing_is_built):
    with pytest.raises(InputError, match="nowhere: no such folder or file of captions"):
        experiment.build(config(**{"data.path": str(tmp_path / "nowhere")}))


def test_every_path_that_is_missing_is_named_at_once(tmp_path, nothing_is_built):
    missing = {
        "init_from": "weights/model.pt",
        "teacher.image": "features.npy",
        "teacher.text": "./none",
        "data.image_root": str(tmp_path / "none"),
    }
    with pytest.raises(InputError, match="no such file or folder: ") as raised:
        experiment.build(config(**missing))
    for key, path in missing.items():
        assert f"config.{key}={path}" in str(raised.value)


@pytest.mark.parametrize("views", [{"data.crop": 0.5}, {"data.flip": True}])
def test_views_of_prepared_pixels_are_refused(views, tmp_path, monkeypatch, nothing_is_built):
    monkeypatch.setattr(experiment, "is_prepared", lambda path: True)
    told = "is prepared, its pixels are cropped for good; train on the original images"
    with pytest.raises(InputError, match=told):
        experiment.build(config(**{"data.path": str(tmp_path), **views}))


def test_a_missing_split(tmp_path, nothing_is_built):
    (tmp_path / "train.json").write_text("[]")
    with pytest.raises(InputError, match="no captions of split 'val'"):
        experiment.build(config(**{"data.path": str(tmp_path)}))


def test_a_batch_that_the_devices_cannot_share(nothing_is_built):
    with pytest.raises(InputError, match=r"config\.batch_size=500 does not split over 8 devices"):
        experiment.build(config(batch_size=500))


def test_cudnn_where_it_cannot_be(monkeypatch):
    wanted = config(**{"model.attention": "cudnn"})
    with pytest.raises(
        InputError, match=r"attention='cudnn' runs on NVIDIA GPUs, and this is cpu; set 'xla'"
    ):
        experiment.build_student(wanted)
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    with pytest.raises(InputError, match=r"'cudnn' computes in bfloat16, and config\.model\.dtype='float32'"):
        experiment.build_student(wanted)


def test_a_resnet_is_not_encoded_in_micro_batches():
    with pytest.raises(InputError, match=r"config\.accumulate=2: the model's batch norms would see parts"):
        experiment.build_student(config(accumulate=2, **{"model.name": "rn50"}))


@pytest.mark.parametrize(
    ("off", "heads", "expected"),
    [((), "linear", ("cross", "uni")), (("usa",), "linear", ("cross",)), (("csa", "contrastive"), "linear", ("uni",)),
     ((), "none", ()), ((), "residual", ("cross", "uni"))],
)  # fmt: skip
def test_heads_are_those_that_the_terms_compare(off, heads, expected):
    weights = {f"loss.{term}.weight": 0.0 for term in off}
    options = experiment.student_options(config(**weights, **{"model.heads": heads}))
    assert options.heads == expected
    assert options.head_kind == ("residual" if heads == "residual" else "linear")


def test_sizes_that_differ_from_a_preset_s():
    changes = "embed_size=64, bi_gru=false,regions=49,dropout=0.1"
    family, sizes, _ = experiment.find_sizes(config(**{"model.name": "saf", "model.sizes": changes}))
    assert (family, sizes.module_name) == ("sgraf", "SAF")
    assert (sizes.embed_size, sizes.bi_gru, sizes.regions, sizes.dropout) == (64, False, 49, 0.1)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("saf", "embed_sise=64", r"no 'embed_sise' \(did you mean 'embed_size'\?\)"),
        ("saf", "embed_size=many", "'embed_size=many' should be a int, such as embed_size=1024"),
        ("saf", "bi_gru=1", "'bi_gru=1' should be a bool"),
        ("saf", "regions=0", "regions 0 must be at least 1"),
        ("auto", "regions=9", "takes those of init_from"),
    ],
)
def test_sizes_that_make_no_model(name, changes, said):
    with pytest.raises(InputError, match=said):
        experiment.find_sizes(
            config(**{"model.name": name, "model.sizes": changes, "init_from": "" if name != "auto" else "x"})
        )


def test_a_clip_has_a_tokenizer_of_its_own():
    with pytest.raises(InputError, match=r"model\.tokenizer='x\.json': a CLIP has a tokenizer of its own"):
        experiment.build_student(config(**{"model.tokenizer": "x.json"}))


def test_a_dry_run_says_what_would_be_trained_and_writes_nothing(tmp_path):
    """The counts are the world's own; frozen parts are not counted as trained."""
    settings = {
        "model.sizes": "vision_layers=1,text_layers=1", "data.path": str(tmp_path / "world"), "batch_size": 32,
        "loss.negatives": "global", "loss.csa.weight": 0.0, "loss.usa.weight": 0.0, "optim.freeze": "image",
        "schedule.epochs": 3, "data.world.train": 32, "data.world.val": 4, "data.world.test": 4,
    }  # fmt: skip
    # The world would be written into an empty folder too.
    (tmp_path / "world").mkdir()
    said = dry_run.describe(config(**settings), tmp_path / "run")
    assert "train     160 captions of 32 images\nval       20 captions of 4 images\n" in said
    assert "steps     15: 3 epochs of 5, 32 pairs each" in said
    counts = re.search(r"([\d,]+) parameters, ([\d,]+) of them trained", said).groups()
    whole, trained = (int(count.replace(",", "")) for count in counts)
    _, variables, _ = experiment.build_student(config(**settings))
    count = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in variables["params"].items()}
    assert trained == whole - count["image"]
    assert whole == sum(count.values())
    assert list(tmp_path.rglob("*")) == [tmp_path / "world"]


def test_a_dry_run_finds_another_configuration_s_workdir_and_a_finished_run(tmp_path):
    settings = config(**{"data.path": str(tmp_path / "none")})
    write_json(tmp_path / "config.json", dataclasses.asdict(config(seed=5)))
    with pytest.raises(InputError, match="belongs to another configuration"):
        dry_run.describe(settings, tmp_path)
    write_json(tmp_path / "config.json", dataclasses.asdict(settings))
    write_json(tmp_path / "results.json", {})
    assert dry_run.describe(settings, tmp_path).startswith("finished: ")
    longer = dataclasses.replace(settings.schedule, epochs=settings.schedule.epochs + 1)
    with pytest.raises(InputError, match=r"none"):
        dry_run.describe(dataclasses.replace(settings, schedule=longer), tmp_path)


def words(path, count):
    """A vocabulary of so many words."""
    special = vocabulary.SPECIAL
    vocabulary.write(path, vocabulary.Vocabulary((*special, *(f"w{n}" for n in range(count - len(special))))))
    return str(path)


def test_the_vocabulary_decides_how_many_words_a_model_has(tmp_path):
    file = words(tmp_path / "vocab.json", 9)
    given = {"model.name": "vse", "model.tokenizer": file}
    family, sizes, _ = experiment.find_sizes(config(**given))
    assert (family, sizes.vocab_size) == ("vse", 9)
    with pytest.raises(InputError, match=r"vocab\.json: 9 words, but .* vocab_size=8; leave that out"):
        experiment.find_sizes(config(**given, **{"model.sizes": "vocab_size=8"}))
    # A CLIP has its own.
    assert experiment.find_sizes(config(**{"model.tokenizer": file}))[1] == families.presets()["toy"][1]


def test_a_vocabulary_that_is_not_the_weights(tmp_path):
    file = words(tmp_path / "vocab.json", 9)
    sizes = families.edited(families.presets()["saf"][1], "vocab_size=8")
    with pytest.raises(InputError, match=r"vocab\.json: a vocabulary of 9 words, but saf\.tar .* one of 8"):
        tokenizer_file.check_words(file, sizes, "saf.tar")


@pytest.mark.parametrize(("model", "csa"), [("sgr", 0.6), ("saf", 1.0), ("saf_coco", 1.0), (None, 0.6)])
def test_the_recipe_over_regions_is_the_papers(model, csa):
    made = recipe("f30k_precomp", f"model={model}" if model else None)
    assert (made.loss.csa.weight, made.loss.usa.weight, made.loss.hinge.weight) == (csa, 0.75, 1.0)
    assert made.loss.contrastive.weight == 0
    assert made.model.name == (model or "sgr")
    only = recipe("f30k_precomp", "loss=contrastive")
    assert (only.loss.hinge.weight, only.loss.csa.weight, only.loss.usa.weight) == (1.0, 0, 0)
    validate(made)


def test_the_recipe_over_regions_has_no_weights_of_other_models():
    with pytest.raises(
        InputError, match=r"model='vit_b_32' is not of this recipe, whose weights are those of sgr, "
    ):
        recipe("f30k_precomp", "model=vit_b_32")
