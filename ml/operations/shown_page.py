"""A release as one shows it to a colleague: verdict, model card and lineage on one page, with links between them."""

import re
from pathlib import Path

from ml.foundation.settings import Settings
from ml.operations.page import page
from ml.operations.release_page import standing
from ml.operations.trace import as_page, trace
from ml.releases.release import CARD, Release
from ml.releases.store import ReleaseStore

_TEMPLATE = Path(__file__).with_name("shown_page.html.j2")


def shown_page(settings: Settings, store: ReleaseStore, release: Release) -> str:
    """Return the page as HTML that needs no other file; card and lineage stand in frames that run nothing."""
    return page(
        _TEMPLATE,
        release=release,
        facts=standing(store, release),
        verdict=release.verdict,
        card=_alone((release.path / CARD).read_text(encoding="utf-8")),
        lineage=as_page(trace(settings, release)),
    )


def _alone(card: str) -> str:
    """Return the card with the names of files beside it in place of links there: a page that is sent has none."""
    return re.sub(r'<a href="[^":#]+">(.*?)</a>', r"\1", card)
