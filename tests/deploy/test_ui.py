"""The Dagster UI as a person uses it: a browser opens the graph, launches a backfill, and reads why a gate failed."""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from benchmarks.process import free_port, running
from tests.support.browser import chromium, needed
from tests.support.commands import home_environment
from tests.support.pages import as_shown

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_MS = 240_000
MAX_ECE = 0.0001
"""A calibration that no model has: the gate fails, and says so."""

pytestmark = needed


@pytest.fixture(scope="module")
def ui(tiny_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `crossfade ui` on the tiny demo, whose homepage has a gate that nothing passes."""
    surfaces = tmp_path_factory.mktemp("surfaces")
    # A candidate evaluated before its champion is judged by no guard.
    (tiny_demo / "artifacts" / "heads" / "homepage.json").unlink()
    for folder in ("champion", "releases", "repository"):
        shutil.rmtree(tiny_demo / "artifacts" / folder / "homepage")
    for name, more in {"homepage": f"gate: {{calibration: {{max_ece: {MAX_ECE}}}}}\n", "radio": ""}.items():
        text = f"extends: {ROOT}/tests/surfaces/{name}.yaml\n{more}"
        (surfaces / f"{name}.yaml").write_text(text, encoding="utf-8")
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "deploy.cli", *as_shown("crossfade ui"), "--port", str(port)]
    environment = home_environment(tiny_demo, CROSSFADE_SURFACES_DIR=str(surfaces))
    with running(command, lambda _: f"http://127.0.0.1:{port}", "/server_info", environment=environment) as (url, _):
        yield url


@pytest.fixture(scope="module")
def page(ui: str) -> Iterator[Page]:
    """One page of a browser for the module."""
    with chromium() as browser:
        context = browser.new_context(base_url=ui, viewport={"width": 1600, "height": 1000})
        context.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        yield context.new_page()


@pytest.fixture(scope="module")
def picture(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], None]:
    """A function that takes a picture of the page; CROSSFADE_PICTURES names a folder to look at afterwards."""
    given = os.environ.get("CROSSFADE_PICTURES")
    folder = Path(given) if given else tmp_path_factory.mktemp("pictures")

    def take(name: str) -> None:
        page.screenshot(path=folder / f"{name}.png", animations="disabled")

    return take


@pytest.fixture(scope="module")
def backfill(page: Page, picture: Callable[[str], None]) -> str:
    """The id of a backfill of two days that was launched from the graph."""
    page.goto("/asset-groups")
    expect(page.get_by_text("Global asset lineage")).to_be_visible()
    for group in ("landing", "staging", "intermediate", "features", "teacher", "homepage", "radio", "study"):
        expect(page.get_by_text(group, exact=True).first).to_be_visible()
    expect(page.get_by_text("fetching statuses")).to_have_count(0)
    picture("graph")
    page.goto("/assets/radio/soft_labels")
    expect(page.get_by_text("If it fails")).to_be_visible()
    picture("soft_labels")
    page.get_by_role("button", name="Materialize").first.click()
    days = page.get_by_placeholder("ex:")
    days.fill("[2026-01-08...2026-01-09]")
    days.press("Enter")
    expect(page.get_by_text("2 partitions")).to_be_visible()
    expect(page.get_by_text("Backfills all partitions in a single run.")).to_be_visible()
    picture("materialize")
    page.get_by_role("button", name="Launch backfill").click()
    created = page.get_by_text(re.compile(r"Created backfill \w+"))
    expect(created).to_be_visible()
    return created.inner_text().split()[2]


def test_a_newcomer_sees_the_graph_and_no_dialog_before_it(page: Page, picture: Callable[[str], None]) -> None:
    with page.expect_response(lambda response: "ShouldShowNux" in (response.request.post_data or "")) as asked:
        page.goto("/locations/crossfade/asset-groups/homepage")
    assert asked.value.json()["data"] == {"shouldShowNux": False}
    expect(page.get_by_text("training_set", exact=True).first).to_be_visible()
    picture("homepage_graph")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_release_opens_as_one_page_in_one_click(page: Page, picture: Callable[[str], None], tmp_path: Path) -> None:
    page.goto("/assets/radio/release")
    link = page.get_by_role("link", name="/releases/radio/").first
    expect(link).to_be_visible()
    picture("release")
    with page.expect_popup() as opened:
        link.click()
    shown = opened.value
    expect(shown.get_by_role("heading", name="The gate: pass")).to_be_visible()
    for frame in ("Model card", "Lineage"):
        expect(shown.frame_locator(f"iframe[title='{frame}']").get_by_role("heading").first).to_be_visible()
    shown.screenshot(path=tmp_path / "page.png", full_page=True)
    if folder := os.environ.get("CROSSFADE_PICTURES"):
        shutil.copy(tmp_path / "page.png", Path(folder) / "release_page.png")
    policy = shown.request.get(shown.url).headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src" not in policy
    missing = shown.request.get("/releases/radio/none")
    assert missing.status == 404 and "crossfade release list radio" in missing.text()
    shown.close()


def test_a_failed_gate_says_why_with_value_and_threshold(
    page: Page, picture: Callable[[str], None], backfill: str
) -> None:
    page.goto("/assets/homepage/onnx")
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_role("button", name="Latest").click()
    page.get_by_role("button", name="Launch 1 run").click()
    # Whoever leaves the page before the dialog closes takes the request along.
    expect(page.get_by_text("Launch runs to materialize homepage / onnx")).to_be_hidden()
    page.goto("/assets/homepage/onnx?view=checks&checkDetail=guard_05_calibration")
    expect(page.get_by_text(re.compile(rf"ctr_ece is 0\.\d+, wanted 0 to {MAX_ECE}"))).to_be_visible()
    picture("failed_check")
    page.get_by_text("[Show Markdown]").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("cell", name=f"0 to {MAX_ECE}").first).to_be_visible()
    picture("failed_check_table")
    page.goto("/assets/homepage/onnx?view=checks&checkDetail=verdict")
    expect(page.get_by_text("guard 5 (calibration) fail")).to_be_visible()
    picture("failed_verdict")


def test_a_backfill_launched_in_the_ui_is_watched_to_its_end(
    page: Page, picture: Callable[[str], None], backfill: str
) -> None:
    page.goto("/runs?view=backfills")
    expect(page.get_by_text(backfill)).to_be_visible()
    picture("backfills")
    expect(page.get_by_text("Success", exact=True)).to_be_visible()
    page.get_by_text(backfill).click()
    expect(page.get_by_text("radio / soft_labels").first).to_be_visible()
    picture("backfill")
