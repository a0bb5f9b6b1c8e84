"""Checkpoints of SGRAF, in and out: the goldens' weights come through this table, and here through the file."""

import argparse
import io
import pickle
import zipfile

import golden_models
import jax
import numpy as np
import pytest

from cusa_jax.errors import InputError
from cusa_jax.models import families
from cusa_jax.models.student import Options
from cusa_jax.weights import sgraf, torch_file
from cusa_jax.weights.formats import read_weights, write_weights
from cusa_jax.weights.hub import Weights


def checkpoint(case, **changed):
    """What the authors' train.py saves."""
    config, tensors = (
        golden_models.case(case)["config"],
        golden_models.tensors(case, golden_models.case(case)["shapes"]),
    )
    model = [
        {name.removeprefix(f"{encoder}."): x for name, x in tensors.items() if name.startswith(encoder)}
        for encoder in sgraf.ENCODERS
    ]
    options = {name: config[name] for name in sgraf.OPTIONS if name != "vocab_size"} | {
        "data_name": "f30k_precomp"
    }
    return {
        "epoch": 3,
        "model": model,
        "best_rsum": 400.5,
        "opt": torch_file.Namespace(options),
        "Eiters": 7,
    } | changed


@pytest.mark.parametrize("case", ["sgr_s2", "saf_s3"])
def test_checkpoint_comes_in_and_goes_back(tmp_path, case):
    theirs, back = tmp_path / "model_best.pth.tar", tmp_path / "back.pth.tar"
    torch_file.write(theirs, checkpoint(case))
    weights = read_weights(theirs)
    config = golden_models.case(case)["config"]
    assert {name: getattr(weights.sizes, name) for name in sgraf.OPTIONS} == {
        name: config[name] for name in sgraf.OPTIONS
    }
    assert weights.sizes.regions == config["regions"]
    write_weights(back, weights)
    before, after = torch_file.read(theirs), torch_file.read(back)
    assert after.keys() == before.keys()
    assert {name: after["opt"][name] for name in sgraf.OPTIONS if name != "vocab_size"} == {
        name: before["opt"][name] for name in sgraf.OPTIONS if name != "vocab_size"
    }
    for ours, original in zip(after["model"], before["model"], strict=True):
        assert ours.keys() == original.keys()
        for name, tensor in original.items():
            np.testing.assert_array_equal(ours[name], tensor, err_msg=name)


def test_options_are_a_namespace_to_python(tmp_path):
    torch_file.write(tmp_path / "a.tar", {"opt": torch_file.Namespace({"margin": 0.2, "bi_gru": True})})
    with zipfile.ZipFile(tmp_path / "a.tar") as archive:
        value = pickle.load(io.BytesIO(archive.read("archive/data.pkl")))
    assert value == {"opt": argparse.Namespace(margin=0.2, bi_gru=True)}


def test_uni_modal_heads_are_left_out_on_the_way_home(tmp_path):
    student, variables = golden_models.student("sgr_s1", "f32", fc_width=3)
    variables["params"]["uni_image"] = variables["params"]["uni_text"] = {
        "kernel": np.ones((16, 3), np.float32)
    }
    weights = Weights("sgraf", student.sizes, variables, heads=("uni",))
    write_weights(tmp_path / "a.tar", weights)
    assert read_weights(tmp_path / "a.tar").heads == ()


def renamed(model):
    model[2]["sim_other"] = model[2].pop("sim_eval_w.bias")
    return model


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"model": [{}, {}]}, "no list of three state dicts"),
        ({"opt": 3}, "'opt' is no Namespace"),
        ({"opt": torch_file.Namespace({"module_name": "AVE"})}, "neither SGR nor SAF"),
        ({"opt": torch_file.Namespace({"embed_size": "large"})}, "embed_size"),
        ({"model": [{}, {}, {}]}, "not the weights of SGR or SAF"),
        ({"model": renamed(checkpoint("sgr_s1")["model"])}, "sim_eval_w.bias.*sim_other"),
        ({"opt": torch_file.Namespace({"module_name": "SAF", "embed_size": 16})}, "SAF_module"),
    ],
)
def test_what_is_no_checkpoint_of_sgraf_is_refused(tmp_path, change, complaint):
    file = tmp_path / "model_best.pth.tar"
    torch_file.write(file, checkpoint("sgr_s1", **change))
    with pytest.raises(InputError, match=complaint) as error:
        read_weights(file)
    assert str(error.value).startswith(f"{file}: ")
    assert "\n" not in str(error.value)


def test_sizes_of_the_released_models():
    """Parameters of SGR and SAF at the published sizes, counted from the layers of the paper."""
    embed, sim, word, image = 1024, 256, 300, 2048
    words = 2 * (3 * embed * (word + embed) + 6 * embed)
    attention = 2 * (2 * embed * (embed + 1) + embed + 1)
    common = (
        8481 * word
        + words
        + (image + 1) * embed
        + attention
        + 2 * (36 + embed)
        + 2 * (embed + 1) * sim
        + sim
        + 1
    )
    for name, own in (("sgr", 3 * 3 * (sim + 1) * sim), ("saf", sim + 1 + 2)):
        family, sizes = families.presets()[name]
        shapes = jax.eval_shape(families.make(family, sizes, Options(heads=())).init, jax.random.key(0))
        assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == common + own
