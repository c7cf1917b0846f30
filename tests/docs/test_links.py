"""README and docs: every link and picture leads somewhere, every page is listed."""

import re
import runpy
from pathlib import Path

import pytest

from ml.foundation.settings import PROJECT_ROOT

DOCS = PROJECT_ROOT / "docs"
PAGES = sorted([*PROJECT_ROOT.glob("*.md"), *DOCS.rglob("*.md")])
KINDS = ("tutorial", "how-to", "reference", "explanation", "results")
FENCED = re.compile(r"^```.*?^```$", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")


def prose(path: Path) -> str:
    """The text of a page without its blocks of code."""
    return FENCED.sub("", path.read_text(encoding="utf-8"))


def links(text: str) -> list[str]:
    """The targets of a page that lie in the repository."""
    found = [a or b for a, b in LINK.findall(re.sub(r"`[^`\n]*`", "", text))]
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(text: str) -> set[str]:
    """The anchors that the headings of a page get where Markdown is shown."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(path: Path) -> list[str]:
    """The links of a page that lead nowhere."""
    wrong = []
    for target in links(prose(path)):
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (anchor and anchor not in anchors(prose(file))):
            wrong.append(target)
    return wrong


@pytest.mark.parametrize("path", PAGES, ids=[str(path.relative_to(PROJECT_ROOT)) for path in PAGES])
def test_every_link_of_a_page_leads_somewhere(path: Path) -> None:
    assert not broken(path)


def test_a_broken_link_or_anchor_would_be_noticed(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# There is `one`, here\n", encoding="utf-8")
    page = tmp_path / "a.md"
    page.write_text('[a](b.md#there-is-one-here) [b](c.md) [c](b.md#two)\n<img src="d.png">\n', encoding="utf-8")
    assert broken(page) == ["c.md", "b.md#two", "d.png"]


def test_the_index_lists_every_page() -> None:
    index = DOCS / "README.md"
    listed = {(DOCS / target.partition("#")[0]).resolve() for target in links(prose(index))}
    pages = {path for kind in KINDS for path in (DOCS / kind).glob("*.md")}
    assert pages and not pages - listed
    assert not set(DOCS.rglob("*.md")) - pages - {index}, f"a page outside {KINDS}"


def test_every_picture_is_shown_by_a_page() -> None:
    shown = {(path.parent / target).resolve() for path in PAGES for target in links(prose(path))}
    pictures = {path for end in ("png", "svg") for path in DOCS.rglob(f"*.{end}")}
    assert pictures and not pictures - shown


@pytest.mark.parametrize("name", ["idea", "flow"])
def test_a_drawn_picture_is_what_its_script_draws(name: str) -> None:
    drawn = runpy.run_path(str(DOCS / "pictures" / f"{name}.py"))
    for mode, theme in drawn["THEMES"].items():
        shown = (DOCS / "pictures" / f"{name}-{mode}.svg").read_text(encoding="utf-8")
        assert shown == drawn["picture"](theme), f"python docs/pictures/{name}.py draws it again"


def test_every_page_begins_with_a_title_of_its_own_and_a_paragraph() -> None:
    titles = []
    for path in sorted(DOCS.rglob("*.md")):
        title, empty, first = path.read_text(encoding="utf-8").splitlines()[:3]
        assert title.startswith("# ") and not empty and re.match(r"\w|`|\[", first), path
        titles.append(title)
    assert len(titles) == len(set(titles))


def test_the_page_of_a_study_is_named_like_the_study() -> None:
    named = {
        path.stem: re.search(r"study `(\w+)`$", path.read_text(encoding="utf-8").partition("\n")[0])
        for path in (DOCS / "results").glob("*.md")
    }
    studies = {stem: title[1] for stem, title in named.items() if title}
    assert studies and all(stem == study for stem, study in studies.items())


def test_the_readme_is_read_in_five_minutes() -> None:
    assert len((PROJECT_ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
