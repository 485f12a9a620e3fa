"""The report in a real browser: no message in the console, no request, no script, nothing missing and nothing cut off.

The page has every section, with real pictures and figures.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CUT_OFF, Browser
from report_fixture import full_report

from msal_deploy.report import save_report

A4 = 703  # px between the margins of the printed page
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
WHITE = "rgb(255, 255, 255)"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_report(tmp_path_factory.mktemp("report"), full_report())


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path / "profile") as browser:
        yield browser


def test_the_page_says_nothing_in_the_console_and_requests_nothing_else(browser: Browser, page: Path) -> None:
    visit = browser.visit(page)
    assert visit.messages == []
    assert visit.requests == [page.resolve().as_uri()]
    assert "onnxruntime:int8 may not" in visit.text and "This page works offline" in visit.text


def test_every_picture_is_shown_and_described(browser: Browser, page: Path) -> None:
    pictures = browser.visit(page).pictures
    assert len(pictures) == 10 + 4 * 9  # figures; four panels of each patch
    assert all(picture["width"] > 0 and len(picture["alt"]) > 20 for picture in pictures)
    assert len({picture["alt"] for picture in pictures}) > 30


def test_the_page_needs_no_script(browser: Browser, page: Path) -> None:
    with_scripts, without = browser.visit(page), browser.visit(page, scripts=False)
    assert with_scripts == without


def test_nothing_is_cut_off_on_a_telephone_and_on_paper(browser: Browser, page: Path) -> None:
    def resize(width: int) -> None:
        browser.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)

    browser.visit(page)
    resize(400)  # wide tables scroll by themselves, and the page does not
    assert browser.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    resize(A4)
    browser.send("Emulation.setEmulatedMedia", media="print")
    assert browser.evaluate(CUT_OFF) == []


def test_the_page_is_dark_on_a_dark_screen_and_white_on_paper(browser: Browser, page: Path) -> None:
    browser.visit(page)
    assert browser.evaluate(BACKGROUND) == WHITE
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.send("Emulation.setEmulatedMedia", features=dark)
    assert browser.evaluate(BACKGROUND) == "rgb(20, 24, 28)"
    browser.send("Emulation.setEmulatedMedia", media="print", features=dark)
    assert browser.evaluate(BACKGROUND) == WHITE


# --- would these tests notice? ---------------------------------------------------------------------------------------

IMAGE = '<img src="http://127.0.0.1:9/outside.png" alt="outside">'  # port 9: nobody answers


@pytest.fixture
def planted(page: Path, tmp_path: Path):
    """Write the page with something added to it, with or without its content security policy."""

    def plant(html: str, *, policy: bool) -> Path:
        source = page.read_text(encoding="utf-8").replace("</body>", f"{html}</body>")
        assert "Content-Security-Policy" in source and html in source
        changed = tmp_path / "planted.html"
        changed.write_text(source if policy else source.replace("Content-Security-Policy", "x"), encoding="utf-8")
        return changed

    return plant


def test_a_request_is_noticed(browser: Browser, planted) -> None:
    visit = browser.visit(planted(IMAGE, policy=False))
    assert visit.requests[1:] == ["http://127.0.0.1:9/outside.png"]
    assert any("ERR_" in message for message in visit.messages)
    assert visit.pictures[-1] == {"alt": "outside", "width": 0}


def test_the_policy_of_the_page_blocks_requests_and_scripts(browser: Browser, planted) -> None:
    visit = browser.visit(planted(f"{IMAGE}<script>document.body.append('ran')</script>", policy=True))
    failed = [event["params"] for event in browser.events if event["method"] == "Network.loadingFailed"]
    assert [failure["blockedReason"] for failure in failed] == ["csp"]  # the request was announced and not sent
    assert len(visit.messages) == 2 and all("Content Security Policy" in message for message in visit.messages)
    assert not visit.text.endswith("ran")


def test_messages_and_scripts_and_wide_tables_are_noticed(browser: Browser, planted) -> None:
    for code in ("console.log('a message')", "throw Error('broken')", "fetch('http://127.0.0.1:9/')"):
        assert browser.visit(planted(f"<script>{code}</script>", policy=False)).messages
    changed = planted("<script>document.body.append('written by a script')</script>", policy=False)
    assert browser.visit(changed) != browser.visit(changed, scripts=False)
    browser.visit(planted('<table style="width: 2000px"><tr><td>wide</td></tr></table>', policy=True))
    assert "TABLE wide" in browser.evaluate(CUT_OFF)
