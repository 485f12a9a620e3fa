"""The viewer in a real browser: zoom, layers, selection; no message in the console and no request to another host."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from view_fixture import SHAPE, SQUARES, Memory, write

from msal_deploy.prediction.view import Gallery, make_server
from msal_deploy.prediction.view.server import Server

sys.path.insert(0, str(Path(__file__).parents[1]))
from browser import Browser, _messages

READY = "document.body.dataset.ready && viewer.world.getItemAt(0) && viewer.world.getItemAt(0).getFullyLoaded()"
DRAWN = "Number($('outlines').dataset.drawn)"
# Pixels of a layer that are not transparent, in a box around a point of the model's resolution
PAINTED = """(() => {{
  const at = viewer.viewport.imageToViewerElementCoordinates(new OpenSeadragon.Point({x}, {y}));
  const size = 2 * {reach}, copy = Object.assign(document.createElement("canvas"), {{ width: size, height: size }});
  const context = copy.getContext("2d", {{ willReadFrequently: true }});
  context.drawImage($("{layer}"), {reach} - at.x, {reach} - at.y);
  const data = context.getImageData(0, 0, size, size).data;
  return data.filter((value, index) => index % 4 === 3 && value > 0).length;
}})()"""
SCREEN = """(() => {{
  const at = viewer.viewport.imageToWindowCoordinates(new OpenSeadragon.Point({x}, {y}));
  return [at.x, at.y];
}})()"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    tmp_path = tmp_path_factory.mktemp("view")
    for name in ("squares", "twice"):
        write(tmp_path / "out" / name)
    with make_server(Gallery(tmp_path / "out", lambda record: Memory())) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        browser.send("Emulation.setDeviceMetricsOverride", width=1300, height=800, deviceScaleFactor=1, mobile=False)
        yield browser


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Browser]:
    browser.send("Page.navigate", url="about:blank")
    browser.events.clear()
    browser.send("Page.navigate", url=server.url)
    wait(browser, READY)
    yield browser
    assert [message for event in browser.events for message in _messages(event)] == []
    urls = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    hosts = {urlsplit(url).netloc for url in urls if not url.startswith(("data:", "blob:", "about:"))}
    assert hosts == {f"127.0.0.1:{server.server_port}"}


def wait(browser: Browser, condition: str) -> None:
    """Wait until a condition is true; the browser's own patience is the limit."""
    browser.evaluate(
        "new Promise(done => { const look = () => { let ok = false; "
        f"try {{ ok = Boolean({condition}); }} catch {{ }} ok ? done() : setTimeout(look, 20); }}; look(); }})"
    )


def click(browser: Browser, x: float, y: float) -> None:
    for kind in ("mousePressed", "mouseReleased"):
        browser.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


def click_on(browser: Browser, element: str) -> None:
    box = f"(b => [b.x + b.width / 2, b.y + b.height / 2])($('{element}').getBoundingClientRect())"
    click(browser, *browser.evaluate(box))


def press(browser: Browser, key: str) -> None:
    browser.send("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
    browser.send("Input.dispatchKeyEvent", type="keyUp", key=key)


def text(browser: Browser, element: str) -> str:
    return str(browser.evaluate(f"$('{element}').textContent"))


def painted(browser: Browser, layer: str, square: int, reach: int = 30) -> int:
    top, left, side = SQUARES[square]
    return int(browser.evaluate(PAINTED.format(layer=layer, x=left + side / 2, y=top + side / 2, reach=reach)))


def feature(browser: Browser, name: str) -> str:
    return str(browser.evaluate(f"document.querySelector('[data-feature={name}]').textContent"))


def test_the_page_shows_the_slide_its_nuclei_and_their_numbers(page: Browser) -> None:
    assert text(page, "count") == str(len(SQUARES)) and page.evaluate(DRAWN) == len(SQUARES)
    assert text(page, "name") == "squares" and "5 nuclei" in text(page, "facts")
    assert all(painted(page, "outlines", square) > 20 for square in range(len(SQUARES)))
    assert page.evaluate(PAINTED.format(layer="outlines", x=800, y=200, reach=30)) == 0  # nothing is there
    assert page.evaluate("$('bar').textContent.trim()").endswith("µm")
    assert page.evaluate("[...$('histogram').querySelectorAll('rect')].length") == 20


def test_layers_are_switched_by_mouse_and_by_key(page: Browser) -> None:
    assert painted(page, "heat", 1) == 0
    click_on(page, "show-heat")
    assert painted(page, "heat", 1) > 0 and page.evaluate("$('scale').hidden") is False
    press(page, "d")
    assert painted(page, "heat", 1) == 0
    press(page, "o")
    assert painted(page, "outlines", 1) == 0 and page.evaluate("$('show-outlines').checked") is False
    click_on(page, "show-outlines")
    assert painted(page, "outlines", 1) > 20


def test_zooming_counts_what_is_in_view_and_back(page: Browser) -> None:
    whole = page.evaluate("viewer.viewport.getZoom()")
    page.evaluate(f"viewer.viewport.panTo(new OpenSeadragon.Point(320 / {SHAPE[1]}, 120 / {SHAPE[1]}), true); 0")
    for _ in range(2):
        click_on(page, "zoom-in")
    wait(page, f"viewer.viewport.getZoom(true) > 3.9 * {whole} && {READY} && $('count').textContent === '1'")
    assert text(page, "median") == "100"  # µm², by hand: 40² · 0.25²
    click_on(page, "home")
    wait(page, f"viewer.viewport.getZoom(true) < 1.01 * {whole} && {READY} && $('count').textContent === '5'")


def test_a_click_selects_a_nucleus_and_shows_its_features(page: Browser) -> None:
    top, left, side = SQUARES[2]
    click(page, *page.evaluate(SCREEN.format(x=left + side / 2, y=top + side / 2)))
    wait(page, "!$('values').hidden")
    assert feature(page, "area_um2") == "64 µm²" and feature(page, "mean_probability") == "1"
    assert feature(page, "x") == "278 px" and feature(page, "y") == "173 px"  # level 0: (540 + 16) / 2, (330 + 16) / 2
    click(page, *page.evaluate(SCREEN.format(x=800, y=200)))  # no nucleus is there
    wait(page, "$('values').hidden")


def test_the_keyboard_selects_the_nucleus_nearest_to_the_centre(page: Browser) -> None:
    press(page, "n")
    assert feature(page, "area_um2") == "64 µm²"


def test_far_away_only_the_density_is_shown(page: Browser) -> None:
    page.evaluate("viewer.viewport.minZoomLevel = 0.01; viewer.viewport.zoomTo(0.05, null, true); 0")
    wait(page, f"{DRAWN} === 0 && !$('far').hidden")
    page.evaluate("viewer.viewport.goHome(true); 0")
    wait(page, f"{DRAWN} === {len(SQUARES)} && $('far').hidden")


def test_outlines_are_coloured_by_a_feature(page: Browser) -> None:
    page.evaluate("$('colour').value = 'area_um2'; $('colour').dispatchEvent(new Event('input'))")
    assert text(page, "low") == "25" and text(page, "high") == "100 µm²"
    colours = page.evaluate("state.visible.flatMap(part => [...part.groups.keys()])")
    assert {"#00b7ff", "#ff2d55"} <= set(colours)  # the smallest and the largest


def test_another_slide_is_chosen_from_the_list(page: Browser) -> None:
    assert page.evaluate("[...$('slides').children].map(link => link.textContent)") == ["squares5", "twice5"]
    page.evaluate("$('slides').children[1].click()")
    wait(page, f"{READY} && document.body.dataset.ready.startsWith('1:')")
    assert text(page, "name") == "twice"
    assert page.evaluate("$('slides').children[1].getAttribute('aria-current')") == "page"


def test_would_a_message_be_noticed(page: Browser) -> None:
    page.evaluate("console.error('broken')")
    assert [message for event in page.events for message in _messages(event)] == ["broken"]
    page.events[:] = [event for event in page.events if not _messages(event)]
