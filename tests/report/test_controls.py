"""The controls for people: false negatives counted by hand, the pairs that move furthest, a picture and a page."""

import numpy as np
import pytest
from PIL import Image

from cusa_jax.controls import neighbours
from cusa_jax.controls.cells import BASELINE, Cell
from cusa_jax.controls.contrasts import Measured
from cusa_jax.errors import InputError
from cusa_jax.evaluation.human import Rated
from cusa_jax.evaluation.result import Result
from cusa_jax.evaluation.statistics import percent
from cusa_jax.report import controls

CUSA = Cell("cusa", "trained")


def rated(scores, rank=(0, 3, 12, 9)):
    names = ["a", "a", "b", "gone"]
    return Rated(names, np.arange(4), np.array([4.0, 1.0, 3.0, 2.0]), np.array(scores), np.array(rank))


def test_false_negatives_among_the_nearest_are_counted():
    # Three are near, one of which describes its photograph; of the two that do, one is near.
    assert neighbours.shares(rated([0, 0, 0, 0])) == (3, pytest.approx(100 / 3), 50.0)
    text = neighbours.text({BASELINE: [rated([0] * 4), rated([0] * 4, (0, 30, 2, 30))]})
    assert text.splitlines()[-1].split() == ["baseline", "2.5", "66.7", "%", "75.0", "%"]


def test_the_pairs_that_move_furthest_come_first_where_their_photograph_is_there(tmp_path):
    for name in "ab":
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.jpg")
    words = ["first", "second", "third", "fourth"]
    before, after = [rated([1.0, 2, 3, 4])] * 2, [rated([4.0, 2, 1, 3])] * 2
    found = controls.parted(before, after, words, tmp_path)
    assert [pair.caption for pair in found["up"]] == ["first", "second", "third"]
    assert [pair.caption for pair in found["down"]] == ["third", "second", "first"]
    first = found["up"][0]
    assert (first.photo.name, first.rating, first.before, first.after) == ("a.jpg", 4.0, 25.0, 100.0)
    with pytest.raises(InputError, match=r"holds no \.jpg"):
        controls.parted(before, after, words, tmp_path / "nowhere")


def test_effects_and_page(tmp_path):
    rng = np.random.default_rng(0)
    cells = (BASELINE, CUSA, Cell("cusa", "shuffled"), Cell("cusa", "trained", "own"))
    table = {
        cell: Measured([Result("image", (9,), {"r_mean": percent(rng.random(9))}) for _ in range(3)])
        for cell in cells
    }
    picture = tmp_path / "effects.png"
    assert controls.effects(table | {Cell(recipe="frozen"): table[CUSA]}, picture)
    with Image.open(picture) as image:
        assert min(image.size) > 200
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg")
    pair = controls.Parted(tmp_path / "a.jpg", "a <b> dog", 3.5, 20.0, 80.0)
    page = controls.write(tmp_path / "page.html", "TABLE", picture, {"up": [pair], "down": []}, CUSA)
    html = page.read_text()
    assert "TABLE" in html
    assert "a &lt;b&gt; dog" in html
    assert "experts 3.5" in html
    assert "20 % → 80 %" in html
    assert "<img" in html


def test_one_cell_alone_is_compared_with_nothing(tmp_path):
    table = {BASELINE: Measured([Result("image", (9,), {"r_mean": percent(np.ones(9))})])}
    assert not controls.effects(table, tmp_path / "effects.png")
    html = controls.write(tmp_path / "page.html", "TABLE", None, {}, None).read_text()
    assert "TABLE" in html
    assert "<img" not in html
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
