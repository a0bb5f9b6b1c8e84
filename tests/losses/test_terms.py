"""Which terms an objective computes, what it refuses, and a term that a program outside the package adds."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from cusa_jax import objective, scalars
from cusa_jax.config import check_loss, default_config, from_values, typed
from cusa_jax.errors import InputError
from cusa_jax.losses import terms
from cusa_jax.losses.problem import RowSums
from cusa_jax.losses.ranges import LearntRange, scalar
from cusa_jax.losses.term import Compared, Term
from cusa_jax.losses.terms import TERMS
from cusa_jax.settings import number, section
from cusa_jax.types import Embeddings, Similarities, SoftLabels

EYE = jnp.eye(4)


def weighted(**weights):
    loss = default_config().loss
    for term in TERMS:
        loss[term].weight = weights.get(term, 0.0)
    return loss


def start(loss):
    return scalars.init(scalars.specifications(loss))


@pytest.mark.parametrize(
    ("term", "compared", "needs"),
    [
        ("csa", Compared(Similarities(EYE)), "both teachers"),
        ("usa", Compared(Similarities(EYE), SoftLabels(EYE, EYE)), "image_image and text_text"),
    ],
)
def test_a_term_that_counts_does_not_do_without_what_it_reads(term, compared, needs):
    loss = weighted(**{term: 0.5, "contrastive": 1.0})
    with pytest.raises(
        InputError, match=rf"config\.loss\.{term}\.weight=0\.5 needs {needs}; give them, or set"
    ):
        objective.objective(compared, start(loss), loss)
    loss[term].weight = 0.0
    assert term not in objective.objective(compared, start(loss), loss)[1]


def test_tiled_losses_refuse_it_too():
    loss = weighted(csa=0.5)
    loss.tile = 2
    embeddings = Embeddings(EYE, EYE, EYE, EYE)
    with pytest.raises(InputError, match=r"config\.loss\.csa\.weight=0\.5 needs both teachers"):
        objective.of_embeddings(embeddings, None, None, start(loss), loss)


def test_what_the_terms_that_count_read():
    assert terms.reads(weighted(contrastive=1.0)) == {"image_text"}
    assert terms.reads(weighted(sigmoid=1.0, usa=1.0)) == {"image_text", "image_image", "text_text", "labels"}
    assert not terms.reads(weighted())


def test_sigmoid_leaves_no_trace_in_other_recipes():
    """Neither a line in the log nor a number in the state; CSA and USA are measured without a weight."""
    loss = weighted(contrastive=1.0)
    every = Compared(Similarities(EYE, EYE, EYE), SoftLabels(EYE, EYE), jnp.arange(4))
    assert objective.objective(every, start(loss), loss)[1].keys() == {"contrastive", "csa", "usa"}
    assert not any("sigmoid" in name for name in scalars.specifications(loss))
    loss = weighted(sigmoid=1.0)
    assert "sigmoid" in objective.objective(every, start(loss), loss)[1]
    assert {"tau_sigmoid", "bias_sigmoid"} <= scalars.specifications(loss).keys()


# --- a term from outside: the mean square of S around a learnt level -------------------------------------------


@dataclasses.dataclass(frozen=True)
class Settings:
    weight: float = number(0.0, "of the spread", low=0)
    level: LearntRange = section(LearntRange, init=-0.25)


@dataclasses.dataclass(frozen=True)
class Spread:
    pair: str = "image_text"

    def start(self, zeros):
        return RowSums((), zeros)

    def add(self, rows, tile, scalars):
        squares = (tile.student[self.pair] - scalars["level_spread"]) ** 2
        return rows.replace(sums=rows.sums + jnp.where(tile.counts, squares, 0).sum(axis=-1))

    def value(self, sums, columns):
        return sums / columns


SPREAD = Term(
    name="spread",
    reads=frozenset({"image_text"}),
    settings=Settings(),
    scalars=lambda loss: {"level_spread": scalar(loss.spread.level, loss.spread.weight)},
    dense=lambda compared, scalars, loss: (
        (compared.similarities.image_text - scalars["level_spread"]) ** 2
    ).mean(),
    tiled=lambda loss: (Spread(),),
)


@pytest.fixture
def spread(monkeypatch):
    monkeypatch.setitem(TERMS, "spread", SPREAD)


def embeddings():
    rng = np.random.default_rng(0)
    return Embeddings(*(rng.normal(size=(10, 4)).astype(np.float32) for _ in range(4)))


@pytest.mark.usefixtures("spread")
def test_a_term_from_outside_is_configured_computed_and_tiled():
    config = default_config()
    config.loss = weighted(spread=2.0)
    assert typed(config).loss["spread"].level.init == -0.25
    values = start(config.loss)
    assert values["level_spread"] == -0.25
    cosines = np.asarray(objective.similarity.student(embeddings()).image_text)
    for config.loss.tile in (0, 3):
        total, measured = objective.of_embeddings(embeddings(), None, None, values, config.loss)
        np.testing.assert_allclose(measured["spread"], ((cosines + 0.25) ** 2).mean(), rtol=1e-5)
        np.testing.assert_allclose(total, 2 * measured["spread"], rtol=1e-6)


def test_a_term_that_needs_whole_matrices_is_refused_in_tiles(monkeypatch):
    monkeypatch.setitem(TERMS, "spread", dataclasses.replace(SPREAD, tiled=None))
    config = default_config()
    config.loss = weighted(spread=2.0, contrastive=1.0)
    config.loss.negatives, config.loss.tile = "global", 4
    message = r"config\.loss\.spread\.weight=2 needs whole matrices \(config\.loss\.tile=0\)"
    with pytest.raises(InputError, match=message):
        check_loss(config)
    with pytest.raises(InputError, match=message):
        objective.of_embeddings(embeddings(), None, None, start(config.loss), config.loss)


def test_a_file_from_before_a_term_has_its_defaults(spread):
    assert from_values({"loss": {"tile": 4}}, "config.json").loss.spread.weight == 0.0
