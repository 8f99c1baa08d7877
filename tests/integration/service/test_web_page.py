# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The web page in headless Chromium."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Page, expect

from mobius.service.tokens import line_for, new_token
from tests.browser import browser
from tests.integration.service.samples import GOLDEN, PICTURE, bearer, flat, smaller

if TYPE_CHECKING:
    from tests.integration.service.conftest import ServiceHost

__all__ = ["browser"]

OLD, NEW = "1.0.0-aaaaaaaaaaaa", "1.1.0-bbbbbbbbbbbb"


class Visit:
    """A page, the URLs that it requested, and its errors."""

    def __init__(self, browser: Browser, host: ServiceHost) -> None:
        self.context = browser.new_context(base_url=f"http://127.0.0.1:{host.port}")
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(15_000)
        self.requested: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.goto("/")


@pytest.fixture
def token(host: ServiceHost, tmp_path: Path) -> str:
    """Start an instance with a photograph and four similar pictures; returns ada's token."""
    token = new_token()
    tokens = tmp_path / "tokens"
    tokens.write_text(line_for("ada", token) + "\n")
    host.start(OLD, index=str(tmp_path / "index.sqlite"), tokens=str(tokens))
    with host.client() as client:
        for picture in (PICTURE, *(flat(seed * 20) for seed in range(4))):
            assert client.post("/v1/images", content=picture, headers=bearer(token)).status_code == 201
    return token


def waiting(host: ServiceHost) -> list[str]:
    with host.client() as client:
        return [pair["id"] for pair in client.get("/v1/review").json()["pairs"]]


def test_a_picture_is_looked_up_and_its_nearest_are_shown(browser: Browser, host: ServiceHost, token: str) -> None:
    visit = Visit(browser, host)
    page = visit.page
    expect(page.locator("#images")).to_have_text("5", timeout=15_000)
    expect(page.locator("#release")).to_have_text(OLD)
    expect(page.locator("#health")).to_have_text("pass")
    page.get_by_label("A picture of yours").set_input_files(
        {"name": "my <b>copy</b>.jpg", "mimeType": "image/jpeg", "buffer": smaller(PICTURE)}
    )
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_role("heading", name="1 similar to my <b>copy</b>.jpg, the best first.")).to_be_visible()
    figure = page.locator("#results figure")
    expect(figure).to_contain_text(re.compile("Perhaps the same, \\d+ bits? differs?"))
    image = figure.locator("img")
    expect(image).to_have_attribute("alt", re.compile("posted, [0-9a-f]{16}"))
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 256

    page.get_by_label("A picture of yours").set_input_files(
        {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"}
    )
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_role("status")).to_contain_text("not a picture")
    assert all(url.startswith(("blob:", f"http://127.0.0.1:{host.port}/", "data:")) for url in visit.requested), (
        visit.requested
    )
    assert [error for error in visit.errors if "415" not in error] == []


def test_pairs_are_decided_by_buttons_and_by_keys(browser: Browser, host: ServiceHost, token: str) -> None:
    queue = waiting(host)
    assert len(queue) >= 3
    visit = Visit(browser, host)
    page = visit.page
    pair, status = page.locator("#pair"), page.get_by_role("status")
    expect(pair).to_have_attribute("data-id", queue[0])
    expect(page.locator("#pair img")).to_have_count(2)
    boxes = [page.locator(f"#{name} img").bounding_box() for name in ("first", "second")]
    assert boxes[0] is not None and boxes[1] is not None
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"], "side by side"

    # without a token nothing is written, and the page asks for one
    page.get_by_role("button", name="Same").click()
    expect(status).to_contain_text("needs a valid token")
    assert waiting(host) == queue
    page.get_by_label("Token", exact=True).fill(token)
    page.keyboard.press("Enter")
    expect(status).to_have_text("The token is used from now on.")
    assert waiting(host) == queue, "letters typed into a field decide nothing"

    page.get_by_role("button", name="Same").click()
    expect(pair).not_to_have_attribute("data-id", queue[0])
    assert queue[0] not in waiting(host)
    page.keyboard.press("b")
    expect(pair).to_have_attribute("data-id", queue[0])
    page.get_by_label("use the keys").uncheck()
    page.keyboard.press("d")
    page.get_by_label("use the keys").check()
    assert pair.get_attribute("data-id") == queue[0], "keys that were turned off decide nothing"
    page.keyboard.press("d")
    expect(status).to_contain_text("are different")

    # postpone one, decide the others by key until the queue is empty
    shown = pair.get_attribute("data-id")
    page.keyboard.press("n")
    expect(pair).not_to_have_attribute("data-id", str(shown))
    none = page.locator("#none")
    while none.is_hidden():
        shown = pair.get_attribute("data-id")
        page.keyboard.press("d")
        page.wait_for_function(
            "shown => !document.getElementById('none').hidden || document.getElementById('pair').dataset.id !== shown",
            arg=shown,
        )
    expect(none).to_have_text("That was the last one.")
    assert len(waiting(host)) == 1
    with host.client() as client:
        assert client.get("/v1/duplicates").json()["groups"] == [], "the slip was corrected"
    assert [error for error in visit.errors if "401" not in error] == []


def test_the_page_can_be_used_with_a_screen_reader_and_a_keyboard(
    browser: Browser, host: ServiceHost, token: str
) -> None:
    page = Visit(browser, host).page
    expect(page.locator("#pair img")).to_have_count(2)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('input, button, img, summary, section, dl')].filter(one =>
            !(one.labels?.length || one.textContent.trim() || one.alt || one.getAttribute('aria-labelledby')
              || one.getAttribute('aria-label'))).map(one => one.outerHTML)"""
    )
    assert nameless == []
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("h1").count() == 1
    focused = []
    for _ in range(12):
        page.keyboard.press("Tab")
        focused.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    assert focused[0] == "Skip to the review queue"
    assert [
        name for name in ("picture", "transforms", "Find", "same", "different", "later", "keys") if name not in focused
    ] == []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert page.evaluate(CONTRAST, "#same") >= 4.5, scheme
        assert page.evaluate(CONTRAST, "h2") >= 4.5, scheme
    page.set_viewport_size({"width": 320, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320, "a telephone shows it without scrolling aside"


CONTRAST = """selector => {  // https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio
  const one = document.querySelector(selector), style = getComputedStyle(one);
  const dark = matchMedia('(prefers-color-scheme: dark)').matches;
  const light = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map(value => value / 255)
    .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
  const back = style.backgroundColor.endsWith(', 0)') ? (dark ? 'rgb(18, 18, 18)' : 'rgb(255, 255, 255)')
    : style.backgroundColor;
  const [high, low] = [light(style.color), light(back)].sort((a, b) => b - a);
  return (high + 0.05) / (low + 0.05);
}"""


def test_when_reading_needs_a_token_the_page_works_once_it_has_it(
    browser: Browser, host: ServiceHost, token: str, tmp_path: Path
) -> None:
    host.start(NEW, index=str(tmp_path / "index.sqlite"), tokens=str(tmp_path / "tokens"), reads="token")
    page = Visit(browser, host).page
    expect(page.locator("#none")).to_contain_text("needs a valid token")
    page.get_by_label("Token", exact=True).fill(token)
    page.get_by_role("button", name="Use it").click()
    expect(page.locator("#pair img")).to_have_count(2)


def test_the_page_can_load_nothing_and_cannot_be_framed(host: ServiceHost) -> None:
    host.start(OLD)
    with host.client() as client:
        answer = client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert (policy["default-src"], policy["frame-ancestors"], policy["connect-src"]) == ("'none'", "'none'", "'self'")
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert "http://" not in answer.text
    assert "https://" not in answer.text


def test_the_page_is_part_of_every_bundle() -> None:
    from mobius.control.bundle import builder as bundle

    for path in (GOLDEN.parents[2] / "mobius/service/page").iterdir():
        assert bundle.goes_into_a_bundle(f"mobius/service/page/{path.name}")
