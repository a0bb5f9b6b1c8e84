"""From a configuration to the parts of a run: what is wrong is told before what takes long."""

import pytest

from cusa_jax import experiment
from cusa_jax.config import default_config, typed
from cusa_jax.errors import InputError
from cusa_jax.keys import Config


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
