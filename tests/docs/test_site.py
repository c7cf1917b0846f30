"""The site of docs/: its links lead somewhere, its pages fetch nothing elsewhere, its terms are explained."""

import posixpath
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ml.foundation.settings import PROJECT_ROOT
from tests.support.browser import chromium, needed, wider_than_a_phone

DOCS = PROJECT_ROOT / "docs"
FETCHED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "srcset"), ("form", "action")}


class Read(HTMLParser):
    """What a built page has: its links, what it fetches by itself, its anchors, its terms."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.terms: list[str] = []
        self.classes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = {name: value or "" for name, value in attrs}
        self.classes |= set(has.get("class", "").split())
        self.anchors |= {has["id"]} if "id" in has else set()
        if tag == "a" and "href" in has:
            self.links.append(has["href"])
            if has.get("class") == "term":
                self.terms.append(has["href"].partition("#")[2])
        if tag == "link" and has.get("rel") != "canonical":
            self.fetched.append(has.get("href", ""))
        self.fetched += [value for name, value in has.items() if (tag, name) in FETCHED]


def build(folder: Path) -> "subprocess.CompletedProcess[str]":
    """Build the site of a folder that has its own docs/."""
    shutil.copy(PROJECT_ROOT / "zensical.toml", folder)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(DOCS, folder / "docs")
    built = build(folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / ".site"


@pytest.fixture(scope="module")
def site(root: Path) -> dict[str, Read]:
    """Every built page by its path."""
    pages = {str(path.relative_to(root)): Read(path.read_text(encoding="utf-8")) for path in root.rglob("index.html")}
    others = {str(path.relative_to(root)): Read("") for path in root.rglob("*") if path.suffix != ".html"}
    return pages | others


def pages(site: dict[str, Read]) -> dict[str, Read]:
    return {path: page for path, page in site.items() if path.endswith(".html")}


def test_the_site_has_every_page_and_its_navigation_leads_there(site: dict[str, Read]) -> None:
    written = {str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.md")} - {"README"}
    assert set(pages(site)) == {"index.html"} | {f"{page}/index.html" for page in written}
    assert not {f"./{page}/" for page in written} - set(site["index.html"].links)


def test_every_link_of_the_site_leads_somewhere(site: dict[str, Read]) -> None:
    wrong = []
    for path, page in pages(site).items():
        for link in [*page.links, *page.fetched]:
            name, _, anchor = link.partition("#")
            if ":" in name:
                continue
            target = posixpath.normpath(posixpath.join(posixpath.dirname(path), name)) if name else path
            if name.endswith("/") or target == ".":
                target = posixpath.normpath(posixpath.join(target, "index.html"))
            shown = target in site and (not anchor or anchor in {"only-dark", "only-light"} | site[target].anchors)
            wrong += [] if shown else [(path, link)]
    assert not wrong


def test_a_page_fetches_nothing_from_another_host(site: dict[str, Read]) -> None:
    for path, page in pages(site).items():
        assert page.fetched and not [link for link in page.fetched if "//" in link], path
        assert "mermaid" not in page.classes, f"{path}: the theme fetches what draws it"


@needed
def test_a_page_fits_a_phone_with_its_widest_tables_and_plots(root: Path) -> None:
    shown = (
        "",
        "tutorial/first_look",
        "reference/settings",
        "reference/tables",
        "results/headline",
        "results/benchmarks",
    )
    with chromium() as browser:
        assert not wider_than_a_phone(browser, {page: (root / page / "index.html").as_uri() for page in shown})


def test_a_term_is_linked_where_a_page_first_says_it(site: dict[str, Read]) -> None:
    glossary = site["reference/glossary/index.html"]
    assert not glossary.terms
    linked = [page.terms for path, page in pages(site).items() if page.terms]
    assert all(len(terms) == len(set(terms)) and set(terms) <= glossary.anchors for terms in linked)
    assert {"term-soft-label", "term-control", "term-gate"} <= set(site["explanation/how_it_works/index.html"].terms)


def test_a_link_to_nowhere_stops_the_build(tmp_path: Path) -> None:
    for name in ("site/extension.py", "reference/glossary.md", "README.md"):
        (tmp_path / "docs" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(DOCS / name, tmp_path / "docs" / name)
    (tmp_path / "docs" / "README.md").write_text("# One\n\n[there](reference/glossary.md#evidence)\n", encoding="utf-8")
    assert build(tmp_path).returncode == 0
    (tmp_path / "docs" / "README.md").write_text("# One\n\n[there](reference/glossary.md#nowhere)\n", encoding="utf-8")
    built = build(tmp_path)
    assert built.returncode != 0 and "anchor does not exist" in built.stdout + built.stderr
