"""The pages that Crossfade writes are read on a phone and in the dark."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser

from ml.evaluation.page import as_page as as_report
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.operations.dashboard import as_page as as_dashboard
from ml.operations.shown_page import shown_page
from ml.operations.trace import as_page as as_lineage
from ml.operations.trace import find_release, trace
from ml.operations.weeks import weeks
from ml.releases.release import CARD
from ml.releases.store import ReleaseStore
from tests.support.browser import chromium, faint, needed, wider_than_a_phone

pytestmark = needed


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def written(built_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The address of each page, of the tiny demo and of a study."""
    folder = tmp_path_factory.mktemp("pages")
    settings = Settings(home=built_demo, surfaces_dir=PROJECT_ROOT / "tests" / "surfaces", threads=1)
    store = ReleaseStore.of(settings)
    release = find_release(store, "homepage")
    results = PROJECT_ROOT / "docs" / "results"
    texts = {
        "release": shown_page(settings, store, release),
        "card": (release.path / CARD).read_text(encoding="utf-8"),
        "lineage": as_lineage(trace(settings, release)),
        "dashboard": as_dashboard(weeks(settings, 28), "weeks", datetime.now(UTC)),
        "study": as_report((results / "headline.md").read_text(encoding="utf-8"), "study", results),
    }
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: (folder / f"{name}.html").as_uri() for name in texts}


def test_no_page_has_to_be_moved_sideways_on_a_phone(browser: Browser, written: dict[str, str]) -> None:
    assert not wider_than_a_phone(browser, written)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_is_as_dark_as_the_screen_and_its_texts_stand_out(
    browser: Browser, written: dict[str, str], scheme: Literal["light", "dark"]
) -> None:
    assert not faint(browser, written, scheme)


def test_a_wide_page_and_a_faint_text_would_be_noticed(browser: Browser, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.html"
    wrong.write_text('<body><p style="width: 900px; color: #aaa; background: #fff">so</p></body>', encoding="utf-8")
    address = {"wrong": wrong.as_uri()}
    assert wider_than_a_phone(browser, address) == {"wrong": 908}
    assert len(faint(browser, address, "light")["wrong"]) == 1
    assert "a light page on a dark screen" in faint(browser, address, "dark")["wrong"]
