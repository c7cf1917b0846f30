"""The page that one shows to a colleague holds all three parts, links them, and runs nothing of what it shows."""

import re
from html import unescape
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli.main import app
from ml.foundation.settings import Settings
from ml.operations.trace import as_page, find_release, trace
from ml.releases.release import BOM, CARD
from ml.releases.store import ReleaseStore
from tests.support.known import present
from tests.support.pages import as_shown

pytestmark = pytest.mark.slow


def test_a_release_is_one_page_with_verdict_card_and_lineage(tiny_demo: Path) -> None:
    environment = {"CROSSFADE_HOME": str(tiny_demo)}
    result = CliRunner().invoke(app, as_shown("crossfade open homepage"), env=environment)
    assert result.exit_code == 0, result.output
    page = Path(result.stdout.strip())
    text, settings = page.read_text(encoding="utf-8"), Settings(home=tiny_demo)
    store = ReleaseStore.of(settings)
    release = find_release(store, present(re.fullmatch(r"release_(.*)\.html", page.name)).group(1))
    frames = [unescape(one) for one in re.findall(r'<iframe sandbox title="[^"]*" srcdoc="([^"]*)"', text)]
    card = (release.path / CARD).read_text(encoding="utf-8")
    beside = '<a href="bom.cdx.json">bom.cdx.json</a>'
    assert beside in card and frames == [card.replace(beside, BOM), as_page(trace(settings, release))]
    # Where the page is sent to, nothing lies beside it.
    assert not [link for link in re.findall(r'href="([^"]*)"', "".join(frames)) if not re.match(r"#|https:", link)]
    links = re.findall(r'<a href="#(\w+)"', text)
    assert links == ["verdict", "card", "lineage"] and all(f'id="{name}"' in text for name in links)
    assert all(f"<td>{guard.name}</td>" in text for guard in release.verdict.guards)
