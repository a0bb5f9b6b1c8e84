"""The README's own code runs, and says what it says it says."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp

from cusa_jax import objective, similarity
from cusa_jax.config import default_config, flat
from cusa_jax.losses.term import Compared
from cusa_jax.types import Embeddings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BATCH = 128


def test_the_losses_in_three_lines_are_the_paper_s_objective():
    keys = jax.random.split(jax.random.key(0), 6)
    cross_image, cross_text, uni_image, uni_text = (jax.random.normal(key, (BATCH, 16)) for key in keys[:4])
    image_teacher, text_teacher = (jax.random.normal(key, (BATCH, 24)) for key in keys[4:])
    names = {
        "cross_image": cross_image, "cross_text": cross_text, "uni_image": uni_image, "uni_text": uni_text,
        "image_teacher_features": image_teacher, "text_teacher_features": text_teacher,
        "ids": jnp.arange(BATCH) // 2,
    }  # fmt: skip
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(code, names)

    loss = default_config().loss
    labels = similarity.teacher(image_teacher, text_teacher)
    student = similarity.student(Embeddings(cross_image, cross_text, uni_image, uni_text))
    scalars = {
        "tau_contrastive": 0.05, "tau_csa": 0.45, "tau_csa_teacher": 1.0, "tau_usa_image": 0.45, "tau_usa_text": 0.45,
    }  # fmt: skip
    total, _ = objective.objective(Compared(student, labels, names["ids"]), scalars, loss)
    assert jnp.allclose(
        names["loss"], BATCH * total, rtol=1e-5
    )  # the paper's is divided by the batch once more


def test_every_page_that_is_linked_is_there():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_option_and_file_of_a_command_is_there():
    """Commands of the pages: their scripts, presets and configuration keys exist."""
    keys = flat(default_config())
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = page.read_text()
        for name in re.findall(r"\b((?:scripts|configs)/\w+\.py)", text):
            assert (ROOT / name).is_file(), f"{page.name}: {name}"
        for key in re.findall(r"--config\.([\w.]+)=", text):
            assert key in keys, f"{page.name}: {key}"
