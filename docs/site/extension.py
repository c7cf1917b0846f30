"""What the pages of ``docs/`` get on the site and not on a forge, as an extension of Python-Markdown.

Words of the glossary lead to it where a page first says them; blocks of code show their file; a picture follows the
switch between light and dark; what lies in the repository and outside ``docs/`` is named without a link.
"""

import posixpath
import re
from pathlib import Path
from xml.etree.ElementTree import Element

from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor
from markdown.treeprocessors import Treeprocessor

GLOSSARY = "reference/glossary.md"
EVERYDAY = {"app", "check", "condition", "day", "example", "input", "look", "reference", "run", "source", "task"}
"""Words of the glossary that pages say in their everyday sense too: a link would often be wrong."""

_ROW = re.compile(r"^\| ([a-z ]+) \| (.+) \|$", re.M)
_FENCE = re.compile(r"^```(?P<language>\w+) (?:run|serve|(?:file|edit)=(?P<path>\S+))$")
_PICTURE = re.compile(
    r'<picture>\s*<source [^>]*srcset="(?P<dark>[^"]+)">\s*'
    r'<img src="(?P<light>[^"]+)" alt="(?P<alt>[^"]*)">\s*</picture>'
)
_OTHER = r"(?<!version\s)(?<!Ray's )(?<!log's )"  # version control, a head of Ray, a head of the champion log
_CLOSED = {"a", "code", "pre", "h1", "h2", "h3", "h4", "th", "button"}


def glossary(page: str) -> dict[str, str]:
    """Return {term: meaning in plain text} of the glossary's tables."""
    rows = {term: re.sub(r"`([^`]*)`", r"\1", meaning) for term, meaning in _ROW.findall(page)}
    rows.pop("term", None)
    return rows


def anchor(term: str) -> str:
    """Return the anchor of a term on the glossary's page."""
    return "term-" + term.replace(" ", "-")


class Blocks(Preprocessor):
    """Writes a block's file as its title, and a picture for light and dark as one for each."""

    def run(self, lines: list[str]) -> list[str]:
        """Return the page's lines, changed."""
        text = "\n".join(_FENCE.sub(self._fence, line) for line in lines)
        return _PICTURE.sub(r"![\g<alt>](\g<light>#only-light)![\g<alt>](\g<dark>#only-dark)", text).split("\n")

    @staticmethod
    def _fence(found: re.Match[str]) -> str:
        return f"```{found['language']}" + (f' title="{found["path"]}"' if found["path"] else "")


class Links(Treeprocessor):
    """Names what lies outside ``docs/`` without a link: the site has no such page."""

    def run(self, root: Element) -> None:
        """Change the page's tree."""
        path = path_of(self.md)
        for link in root.iter("a"):
            target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(path), link.get("href", "")))
            if link.get("href", "").startswith("..") and not target.startswith("docs/"):
                link.tag = "span"
                told = ": ".join([f"{target} in the repository", *filter(None, [link.get("title")])])
                link.attrib = {"class": "in-checkout", "title": told}


class Terms(Treeprocessor):
    """Leads from a page's first mention of a term to the glossary, whose rows get anchors."""

    def __init__(self, md: Markdown, terms: dict[str, str]) -> None:
        super().__init__(md)
        self.terms = terms
        named = sorted(set(terms) - EVERYDAY, key=len, reverse=True)
        self.pattern = re.compile(rf"(?<![\w-]){_OTHER}({'|'.join(map(re.escape, named))})s?(?![\w-])", re.I)

    def run(self, root: Element) -> None:
        """Change the page's tree."""
        path = path_of(self.md)
        if path == GLOSSARY:
            for row in root.iter("tr"):
                if len(row) and (row[0].text or "") in self.terms:
                    row.set("id", anchor(row[0].text or ""))
        elif not path.startswith("results/"):
            self._link(root, posixpath.relpath(GLOSSARY, posixpath.dirname(path) or "."), set())

    def _link(self, element: Element, page: str, linked: set[str]) -> None:
        if element.tag in _CLOSED:
            return
        if element.text:
            self._within(element, 0, element.text, page, linked)
        for child in list(element):
            self._link(child, page, linked)
            if child.tail:
                self._within(element, list(element).index(child) + 1, child.tail, page, linked)

    def _within(self, parent: Element, place: int, text: str, page: str, linked: set[str]) -> None:
        """Cut the text that stands before the child at ``place`` where terms stand in it."""
        pieces, end = [], 0
        for found in self.pattern.finditer(text):
            term = found[1].lower()
            if term not in linked:
                linked.add(term)
                pieces.append((text[end : found.start()], found[0], term))
                end = found.end()
        if not pieces:
            return
        before = parent[place - 1] if place else None
        for lead, word, term in pieces:
            if before is None:
                parent.text = lead
            else:
                before.tail = lead
            link = Element("a", {"href": f"{page}#{anchor(term)}", "class": "term", "title": self.terms[term]})
            link.text = word
            parent.insert(place, link)
            before, place = link, place + 1
        if before is not None:
            before.tail = text[end:]


def path_of(md: Markdown) -> str:
    """Return the page's path in ``docs/``, which Zensical tells its extensions; empty elsewhere."""
    registered = md.preprocessors
    return registered["rendering_context"].page.path if "rendering_context" in registered else ""


class Site(Extension):
    """Everything above."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Register it all: blocks before fences are read, the rest when inline marks have become elements."""
        page = Path(__file__).parents[1] / GLOSSARY
        md.preprocessors.register(Blocks(md), "blocks_of_pages", 27)
        md.treeprocessors.register(Links(md), "links_of_pages", 6)
        md.treeprocessors.register(Terms(md, glossary(page.read_text(encoding="utf-8"))), "terms_of_pages", 5)


def makeExtension(**_: object) -> Site:
    """Return the extension; Python-Markdown asks for it by this name."""
    return Site()
