"""The search page in a real browser, headless Chromium: `make browser-test`, which fails where there is none.

CUSA_SCREENSHOTS names a folder for pictures of the page.
"""

import base64
import os
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from photo_search import colour_finder, save
from PIL import Image

from cusa_jax.search import server

if not os.environ.get("CUSA_BROWSER"):
    pytest.skip("needs Chromium: make browser-test", allow_module_level=True)

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

MARKUP = "<img src=x onerror=alert(1)>&amp;'\".png"
N = 130
DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes, new Uint8Array(arguments[2])], arguments[1]));
document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("album")
    for n in range(N):
        save(folder / f"{n:03}.png", (250 - n, 10, n))
    save(folder / MARKUP, (255, 0, 0))
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def address(photos):
    listening = socket.create_server(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn.Config(server.app(colour_finder(photos)), log_level="error"))
    thread = threading.Thread(target=running.run, args=([listening],), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    running.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options)
    yield browser
    browser.quit()


@pytest.fixture
def page(browser, address):
    browser.get(address)
    browser.get_log("browser")
    yield browser
    # The dialog of a script in a file's name would be here.
    assert browser.execute_script("return document.querySelectorAll('[onerror]').length") == 0


def at(page, name):
    return page.find_element(By.ID, name)


def wait(page, condition):
    return WebDriverWait(page, 10, 0.02).until(lambda _: condition())


def names(page):
    return page.execute_script("return [...document.querySelectorAll('.name')].map((x) => x.textContent)")


def ask(page, text):
    at(page, "text").clear()
    at(page, "text").send_keys(text)
    wait(page, lambda: names(page) and "best first" in at(page, "status").text)


def drop(page, content, name, padding=0):
    page.execute_script(DROP, base64.b64encode(content).decode(), name, padding)


def test_it_answers_while_one_types(page):
    assert "131 photos" in at(page, "status").text
    ask(page, "blue")
    wait(page, lambda: names(page)[0] == "129.png")
    ask(page, "red")
    wait(page, lambda: names(page)[0] == MARKUP)
    at(page, "text").send_keys(Keys.CONTROL, "a")
    at(page, "text").send_keys(Keys.BACKSPACE)
    wait(page, lambda: names(page) == [])


def test_markup_in_a_name_is_text(page):
    ask(page, "red")
    wait(page, lambda: names(page)[0] == MARKUP)
    page.find_element(By.CLASS_NAME, "hit").click()
    wait(page, lambda: at(page, "viewer-path").text == MARKUP)
    at(page, "like").click()
    wait(page, lambda: MARKUP in at(page, "asked-name").text)
    assert len(page.find_elements(By.CSS_SELECTOR, "#asked img")) == 1
    assert page.switch_to.active_element == at(page, "forget")
    wait(page, lambda: names(page))
    page.switch_to.active_element.send_keys(Keys.ENTER)
    wait(page, lambda: names(page) == [] and at(page, "hint").is_displayed())
    assert page.switch_to.active_element == at(page, "text")


def test_scrolling_shows_every_photo_once(page):
    ask(page, "green")
    for _ in range(30):
        page.execute_script("window.scrollTo(0, document.body.scrollHeight)")
        time.sleep(0.1)
    wait(page, lambda: len(names(page)) == N + 1)
    assert len(set(names(page))) == N + 1
    assert not at(page, "more").is_displayed()


def test_a_dropped_photo_finds_its_like_and_other_files_are_told(page, photos):
    drop(page, photos[100].read_bytes(), "mine.png")
    wait(page, lambda: "mine.png" in at(page, "asked-name").text and names(page)[:1] == [photos[100].name])
    drop(page, b"plain words", "letter.doc")
    wait(
        page, lambda: "“letter.doc”: this file is not a picture that can be read." in at(page, "status").text
    )
    drop(page, b"", "huge.jpg", 50 << 20)
    wait(page, lambda: "“huge.jpg” is larger than 40 MB." in at(page, "status").text)
    ask(page, "red")


def test_the_larger_view_by_keyboard(page):
    ask(page, "blue")
    wait(page, lambda: names(page)[0] == "129.png")
    first = page.find_element(By.CLASS_NAME, "hit")
    page.execute_script("arguments[0].focus()", first)
    page.switch_to.active_element.send_keys(Keys.ENTER)
    wait(page, lambda: at(page, "viewer-path").text == "129.png")
    assert "cosine similarity 0." in at(page, "viewer-score").text
    wait(
        page,
        lambda: page.execute_script("return document.getElementById('viewer-picture').naturalWidth") == 60,
    )
    page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    wait(page, lambda: at(page, "viewer-path").text == "128.png")
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    wait(page, lambda: not at(page, "viewer").is_displayed())
    assert "128.png" in page.switch_to.active_element.text


def test_near_duplicates_as_one(page):
    ask(page, "red")
    at(page, "together").click()
    wait(page, lambda: 0 < len(names(page)) < 10)
    assert "alike" in page.find_element(By.CLASS_NAME, "score").text


def test_a_photo_that_vanished_is_told(page, photos):
    photos[60].rename(photos[60].with_suffix(".away"))
    try:
        drop(page, photos[61].read_bytes(), "near.png")
        wait(page, lambda: "No longer there" in [x.text for x in page.find_elements(By.CLASS_NAME, "gone")])
        page.find_element(By.CSS_SELECTOR, ".hit:has(.gone)").click()
        wait(page, lambda: "This photo is not there any more." in at(page, "viewer-gone").text)
    finally:
        photos[60].with_suffix(".away").rename(photos[60])


def test_other_hosts_and_other_paths_are_refused(page, address):
    port = address.rsplit(":", 1)[1]
    for host, status in ((f"evil.example:{port}", b"400"), (f"127.0.0.1:{port}", b"404")):
        with socket.create_connection(("127.0.0.1", int(port))) as raw:
            raw.sendall(f"GET /large/../../etc/passwd HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert status in raw.recv(1000).split(b"\r\n")[0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
def test_it_fits_its_window_and_is_legible(page, width, scheme):
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                         {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600})  # fmt: skip
    try:
        ask(page, "blue")
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
        assert contrast(page, "#status") >= 4.5
        screenshot(page, f"{width}-{scheme}")
        page.find_element(By.CLASS_NAME, "hit").click()
        wait(page, lambda: at(page, "viewer-picture").is_displayed())
        for button in page.find_elements(By.CSS_SELECTOR, "#viewer button"):
            box = button.rect
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["height"] >= 44
        screenshot(page, f"{width}-{scheme}-viewer")
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def contrast(page, selector):
    """WCAG's contrast ratio of a text and the page."""
    script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    pair = [page.execute_script(script, *what) for what in ((selector, "color"), ("body", "backgroundColor"))]
    channels = [
        np.array([float(x) for x in colour[colour.index("(") + 1 : -1].split(",")[:3]]) / 255
        for colour in pair
    ]
    linear = [np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in channels]
    light, dark = sorted((c @ (0.2126, 0.7152, 0.0722) for c in linear), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def screenshot(page, name):
    if folder := os.environ.get("CUSA_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.save_screenshot(str(Path(folder, f"{name}.png")))
        with Image.open(Path(folder, f"{name}.png")) as picture:
            assert len(set(picture.convert("L").resize((50, 50)).tobytes())) > 5
