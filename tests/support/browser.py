"""The system's Chromium, and what it says of a page: how wide it is, and which of its texts are hard to read."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import pytest
from playwright.sync_api import Browser, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = "no Chromium: apt-get install --no-install-recommends chromium"
needed = pytest.mark.skipif(CHROMIUM is None and os.environ.get("CI") != "true", reason=MISSING)
"""Marks what a machine without Chromium skips, unless it is CI's."""

PHONE = 420
CONTRAST = 4.5
"""What WCAG 2 (AA) asks of text."""

_FAINT = """least => {
  const rgb = colour => {
    const parts = colour.match(/[\\d.]+/g).map(Number);
    const scale = colour.startsWith("color(") ? 1 : 255;
    return {channels: parts.slice(0, 3).map(part => part / scale), alpha: parts.length > 3 ? parts[3] : 1};
  };
  const light = colour => {
    const [r, g, b] = rgb(colour).channels.map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const probe = document.body.appendChild(document.createElement("i"));
  probe.style.backgroundColor = "Canvas"; // what the browser paints below a page that paints nothing
  const canvas = getComputedStyle(probe).backgroundColor;
  probe.remove();
  const below = element => {
    for (let at = element; at; at = at.parentElement) {
      const behind = getComputedStyle(at).backgroundColor;
      if (rgb(behind).alpha === 1) return behind;
    }
    return canvas;
  };
  const own = element => [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
  const faint = new Set();
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  if (dark && light(below(document.body)) > 0.1) faint.add("a light page on a dark screen");
  for (const element of document.body.querySelectorAll("*")) {
    if (!own(element) || !element.getClientRects().length || element.closest("style, script")) continue;
    const style = getComputedStyle(element), ink = element.namespaceURI.endsWith("svg") ? style.fill : style.color;
    const lights = [light(ink), light(below(element))];
    const contrast = (Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05);
    const shown = `${element.tagName} "${element.textContent.trim().slice(0, 30)}" ${contrast.toFixed(1)}`;
    if (contrast < least) faint.add(shown);
  }
  return [...faint];
}"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser that is closed at the end."""
    assert CHROMIUM, MISSING
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def wider_than_a_phone(browser: Browser, addresses: Mapping[str, str]) -> dict[str, int]:
    """Return {name: pixels} of pages that have to be moved sideways on a phone; parts of a page may be."""
    page = browser.new_page(viewport={"width": PHONE, "height": 900})
    found = {}
    for name, address in addresses.items():
        page.goto(address)
        found[name] = page.evaluate("document.scrollingElement.scrollWidth")
    page.close()
    return {name: width for name, width in found.items() if width > PHONE}


def faint(browser: Browser, addresses: Mapping[str, str], scheme: Literal["light", "dark"]) -> dict[str, list[str]]:
    """Return {name: texts} that stand out too little from what is behind them, and pages that ignore the scheme."""
    page = browser.new_page(color_scheme=scheme)
    found = {}
    for name, address in addresses.items():
        page.goto(address)
        found[name] = page.evaluate(_FAINT, CONTRAST)
    page.close()
    return {name: texts for name, texts in found.items() if texts}
