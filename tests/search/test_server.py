"""What the search page's server answers, and what it refuses; the browser's side is in test_browser.py."""

import asyncio
import io
from types import SimpleNamespace

import httpx2
import jax.numpy as jnp
import numpy as np
import pytest
from photo_search import Colours, colour_finder, save
from PIL import Image
from starlette.testclient import TestClient

from cusa_jax.data.tokenize import ClipTokenizer
from cusa_jax.inputs import Inputs, Pixels, Text
from cusa_jax.search import server
from cusa_jax.search.finder import best

N = 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """N photos from red to blue, whose shades all differ."""
    folder = tmp_path_factory.mktemp("photos") / "album"
    folder.mkdir()
    for n in range(N):
        save(folder / f"{n:03}.png", (250 - 2 * n, 10, 2 * n))
    (folder.parent / "secret.png").write_bytes(b"not in the index")
    return folder


@pytest.fixture
def client(folder):
    app = server.app(colour_finder(sorted(folder.glob("*.png"))))
    with TestClient(app, base_url="http://127.0.0.1:8765", raise_server_exceptions=False) as client:
        yield client


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), colour).save(buffer, "PNG")
    return buffer.getvalue()


def numbers(answer):
    assert answer.status_code == 200, answer.text
    return [hit["number"] for hit in answer.json()["hits"]]


def test_a_text_finds_photos_page_by_page(client):
    red = client.get("/find?text=red")
    assert numbers(red) == list(range(server.PAGE))
    assert red.json()["total"] == N
    assert red.json()["hits"][0]["path"] == "000.png"
    pages = [numbers(client.get(f"/find?text=blue&start={start}")) for start in (0, 40, 80, 120)]
    assert [number for page in pages for number in page] == list(range(N))[::-1]


@pytest.mark.parametrize(("cleaned", "asked"), [(True, "a red dog"), (False, "A red-dog!")])
def test_a_text_is_cleaned_where_the_models_captions_were(monkeypatch, folder, cleaned, asked):
    finder = colour_finder(sorted(folder.glob("*.png")))
    inputs = Inputs(Pixels(8), Text(77, 49408, cleaned=cleaned))
    monkeypatch.setattr(Colours, "student", SimpleNamespace(inputs=inputs))
    seen = []
    monkeypatch.setattr(finder, "_tokenize", lambda texts: seen.extend(texts) or ClipTokenizer()(texts))
    finder.embed_text("A red-dog!")
    assert seen == [asked]


def test_only_the_beginning_of_a_long_text_is_used_and_that_is_told(client):
    for words in ("red " * 64, "red " * 65, "extraordinarily " * 50):
        told = client.get("/find", params={"text": words}).json()["note"]
        assert bool(told) == (words != "red " * 64), words


def test_a_photo_finds_what_is_like_it(client):
    key = client.post("/photo", content=png((10, 10, 240))).json()["photo"]
    assert numbers(client.get(f"/find?photo={key}"))[0] >= N - 5
    # Blanks are no text.
    assert numbers(client.get(f"/find?photo={key}&text=%20")) == numbers(client.get(f"/find?photo={key}"))
    assert numbers(client.get("/find?like=50"))[0] == 50
    assert client.get("/find?photo=of-yesterday").status_code == 410


def test_near_duplicates_are_shown_as_one(client):
    grouped = client.get("/find?text=red&together=1").json()
    shown = [hit["number"] for hit in grouped["hits"]]
    alike = [other["number"] for hit in grouped["hits"] for other in hit["alike"]]
    assert len(shown) < 10
    assert sorted(shown + alike) == list(range(N))


def test_pictures_are_jpegs_of_a_photo_by_its_number(client, folder):
    for address in ("/thumbnail/3", "/large/3"):
        answer = client.get(address)
        assert answer.headers["content-type"] == "image/jpeg"
        with Image.open(io.BytesIO(answer.content)) as picture:
            np.testing.assert_allclose(picture.getpixel((5, 5)), (244, 10, 6), atol=3)


def test_a_photo_that_vanished_or_is_no_picture_any_more_is_told(client, folder):
    gone, broken = folder / "098.png", folder / "099.png"
    before = gone.read_bytes(), broken.read_bytes()
    gone.unlink()
    broken.write_text("no picture")
    try:
        assert client.get("/large/98").status_code == 404
        assert client.get("/large/98").json() == {"error": "this photo is not there any more"}
        assert client.get("/thumbnail/99").json() == {"error": "this photo cannot be read any more"}
        assert len(numbers(client.get("/find?like=98"))) == server.PAGE
    finally:
        gone.write_bytes(before[0])
        broken.write_bytes(before[1])


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "192.168.0.1", ""]
)
def test_another_host_is_refused(client, host):
    assert client.get("/find?text=red", headers={"host": host}).status_code == 400


def test_other_sites_are_refused_and_their_scripts_not_loaded(client):
    refused = client.get("/large/1", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"})
    assert refused.status_code == 403
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http" not in page.text.replace("http-equiv", "")
    linked = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert client.get("/", headers=linked).status_code == 200
    for asset, kind in (("page.js", "text/javascript"), ("page.css", "text/css")):
        assert client.get(f"/{asset}").headers["content-type"].startswith(kind)


@pytest.mark.parametrize(
    "address",
    ["/large/../secret.png", "/large/..%2f..%2fsecret.png", "/..%2fsecret.png", "/large/-1", "/large/100",
     "/large/99999999999999999999", "/thumbnail/%2e%2e", "//etc/passwd", "/page.html.j2", "/find?like=-1",
     "/find?like=..", "/find?like=٣٣٣٣", "/large/" + "9" * 5000],
)  # fmt: skip
def test_nothing_outside_the_index_is_read(client, address):
    answer = client.get(address)
    assert answer.status_code == 404
    assert "error" in answer.json()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("/find", "ask with a text"),
        ("/find?text=%20", "ask with a text"),
        ("/find?text=red&like=3", "ask with a text"),
        ("/find?text=red&start=x", "start is a number"),
        ("/find?text=" + "a" * 3000, "longer than 2000"),
    ],
)
def test_what_cannot_be_answered_is_told(client, address, message):
    answer = client.get(address)
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_what_is_dropped_may_be_anything(client):
    for content in (
        b"",
        b"no picture",
        png((1, 2, 3))[:60],
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    ):
        answer = client.post("/photo", content=content)
        assert answer.status_code == 415
        assert answer.json() == {"error": "this file is not a picture that can be read"}
    large = client.post("/photo", content=bytes(50 << 20))
    assert large.status_code == 413
    assert "larger than 40 MB" in large.json()["error"]
    chunks = client.post("/photo", content=(bytes(1 << 20) for _ in range(50)))
    assert chunks.status_code == 413
    assert numbers(client.get("/find?text=red"))


def test_a_thousand_requests_at_once_are_all_answered(client):
    async def ask_all():
        transport = httpx2.ASGITransport(client.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as asking:
            addresses = [(f"/find?text=red{n % 9}", f"/thumbnail/{n % N}")[n % 2] for n in range(1000)]
            return await asyncio.gather(*map(asking.get, addresses))

    assert [answer.status_code for answer in asyncio.run(ask_all())] == [200] * 1000


def test_the_best_are_those_of_a_full_sort_with_equal_ones_by_number():
    rng = np.random.default_rng(0)
    items = rng.integers(-2, 3, (50, 3)).astype(np.float32)
    query = np.float32([1, 2, -1])
    expected = np.argsort(-(items @ query), kind="stable")
    for k in (1, 8, 50, 99):
        assert [hit.number for hit in best(jnp.asarray(items), query, k)] == expected[:k].tolist()
