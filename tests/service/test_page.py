"""The page in a browser: what a person sees, by pointer, by keyboard, and when something is wrong."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from tests.conftest import DATA
from tests.service.conftest import LIMITS, Client, GatedCodec

import glc

pytestmark = pytest.mark.slow

PHOTO = DATA / "images" / "coffee_200x300.png"

TIMES = "\N{MULTIPLICATION SIGN}"

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        words = f"no browser is installed (looked for {', '.join(BROWSERS)}): apt-get install chromium"
        if os.environ.get("GLC_REQUIRE_BROWSER"):
            pytest.fail(f"{words}; GLC_REQUIRE_BROWSER is set, so this test may not be skipped")
        pytest.skip(words)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser, client: Client) -> Iterator[Page]:
    """The page, opened; at its end no script may have failed, and nothing been asked of another place."""
    opened = browser.new_page(viewport={"width": 1100, "height": 1300}, accept_downloads=True)
    opened.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    failures: list[str] = []
    asked: list[str] = []
    opened.on("pageerror", lambda error: failures.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(f"http://127.0.0.1:{client.port}/")
    yield opened
    opened.close()
    assert failures == []
    ours = (f"http://127.0.0.1:{client.port}/", f"blob:http://127.0.0.1:{client.port}/", "data:,")
    assert [url for url in asked if not url.startswith(ours)] == []


def _choose(page: Page, path: Path) -> None:
    page.get_by_label("Photograph or .glc file").set_input_files(path)


def _number(page: Page, heading: str) -> str:
    """What stands under a heading."""
    return page.locator("dl div", has=page.get_by_text(heading, exact=True)).locator("dd").inner_text().splitlines()[0]


def test_a_photograph_is_encoded_shown_measured_and_given(page: Page, demo_codec: GatedCodec, tmp_path: Path) -> None:
    expect(page.locator("#about")).to_contain_text(demo_codec.bundle.manifest.model_id[:8])
    _choose(page, PHOTO)
    expect(page.get_by_role("img", name="Decoded image")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download .glc").click()
    assert download.value.suggested_filename == "coffee_200x300.glc"
    download.value.save_as(tmp_path / "photo.glc")
    data = (tmp_path / "photo.glc").read_bytes()
    assert data == demo_codec.encode(np.asarray(Image.open(PHOTO).convert("RGB")), 1)

    assert _number(page, "Bitstream") == f"{len(data)} B"
    assert _number(page, "Bits per pixel") == f"{glc.inspect(data).bpp:.4f}"
    assert _number(page, "Ratio") == f"{round(3 * 200 * 300 / len(data))} : 1"
    assert _number(page, "Image") == f"300 {TIMES} 200"
    for table, stage in (("Stages of encoding", "analysis"), ("Stages of decoding", "synthesis")):
        expect(page.get_by_role("table", name=table)).to_contain_text(re.compile(rf"{stage}\s*\d+\.\d ms"))

    with page.expect_download() as download:
        page.get_by_role("link", name="Download decoded PNG").click()
    download.value.save_as(tmp_path / "decoded.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "decoded.png")), demo_codec.decode(data))


def test_the_slider_works_by_keyboard_and_pointer(page: Page) -> None:
    _choose(page, PHOTO)
    slider = page.get_by_role("slider", name="Divider between original and decoded image")
    slider.focus()
    page.keyboard.press("Home")
    expect(slider).to_have_attribute("aria-valuetext", "0 % original")
    page.keyboard.press("ArrowRight")
    expect(slider).to_have_value("1")
    clip = "getComputedStyle(document.getElementById('right')).clipPath"
    assert page.evaluate(clip) == "inset(0px 0px 0px 1%)"
    box = page.locator("#pair").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 20)
    expect(slider).to_have_value("75")


def test_another_quality_encodes_again(page: Page) -> None:
    _choose(page, PHOTO)
    expect(page.get_by_role("img", name="Decoded image")).to_be_visible()
    before = _number(page, "Bitstream")
    page.get_by_label("Quality").focus()
    page.keyboard.press("End")
    expect(page.locator("#bytes")).to_contain_text("quality 3")
    assert int(_number(page, "Bitstream").replace(",", "").split()[0]) > int(before.split()[0])


def test_a_bitstream_that_is_dropped_is_decoded_beside_its_preview(
    page: Page, stream: bytes, demo_codec: GatedCodec
) -> None:
    drop = """data => {
        const held = new DataTransfer();
        held.items.add(new File([new Uint8Array(data)], "dropped.glc"));
        document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: held, bubbles: true}));
    }"""
    page.evaluate(drop, list(stream))
    expect(page.get_by_role("img", name="Preview image")).to_be_visible()
    assert _number(page, "Bitstream") == f"{len(stream)} B"
    expect(page.get_by_role("table", name="Stages of encoding")).not_to_be_visible()
    expect(page.get_by_role("slider", name="Divider between preview and decoded image")).to_be_visible()


def test_what_the_service_refuses_is_a_sentence_and_the_next_file_works(
    page: Page, stream: bytes, tmp_path: Path
) -> None:
    alert = page.get_by_role("alert")
    (tmp_path / "note.png").write_text("not a photograph")
    _choose(page, tmp_path / "note.png")
    expect(alert).to_have_text("note.png: What was sent is no PNG, JPEG or WebP image.")
    (tmp_path / "cut.glc").write_bytes(stream[:-9])
    _choose(page, tmp_path / "cut.glc")
    expect(alert).to_contain_text("cut or damaged")
    _choose(page, PHOTO)
    expect(page.get_by_role("img", name="Decoded image")).to_be_visible()
    expect(alert).not_to_be_visible()


def test_a_photograph_of_too_many_pixels_is_made_smaller_and_that_is_said(page: Page, tmp_path: Path) -> None:
    side = 2 * int(LIMITS.pixels**0.5)
    Image.new("RGB", (side, side), "teal").save(tmp_path / "large.png")
    _choose(page, tmp_path / "large.png")
    expect(page.get_by_role("img", name="Decoded image")).to_be_visible()
    expect(page.locator("#told")).to_contain_text(f"Made smaller here, from {side} {TIMES} {side}")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read_in_both_themes(theme: str, browser: Browser, client: Client) -> None:
    """WCAG's contrast of 4.5 to 1, for text on what is behind it."""
    opened = browser.new_page(color_scheme="dark" if theme == "dark" else "light")
    opened.goto(f"http://127.0.0.1:{client.port}/")
    ratios = opened.evaluate(_CONTRASTS)
    opened.close()
    assert len(ratios) > 5
    assert min(ratios.values()) >= 4.5, ratios


_CONTRASTS = """() => {
    const light = (colour) => {
        const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
            .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (node) => {
        const colour = getComputedStyle(node).backgroundColor;
        return /, 0\\)$/.test(colour) && node.parentElement ? behind(node.parentElement) : colour;
    };
    document.querySelectorAll("[hidden]").forEach((node) => { node.hidden = false; });
    const found = {};
    for (const node of document.querySelectorAll("h1, h2, p, strong, span, label, output, dt, .takes a")) {
        const [a, b] = [getComputedStyle(node).color, behind(node)].map(light).sort((x, y) => y - x);
        found[node.id || `${node.tagName} ${node.textContent.trim().slice(0, 20)}`] = (a + 0.05) / (b + 0.05);
    }
    return found;
}"""
