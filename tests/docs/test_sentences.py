"""README and tutorials are understood at first reading: short sentences, at most two figures in one."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml.foundation.settings import PROJECT_ROOT

DOCS = PROJECT_ROOT / "docs"
PAGES = [PROJECT_ROOT / "README.md", DOCS / "README.md", *sorted((DOCS / "tutorial").glob("*.md"))]
MAX_WORDS, MAX_FIGURES = 30, 2
NO_PROSE = re.compile(r"^ *```.*?^ *```$|<picture>.*?</picture>|^\|.*?$|^#.*?$|!\[[^\]]*\]\([^)]*\)", re.M | re.S)
FIGURE = re.compile(r"(?<![\w`.])[+-]?\.?\d[\d,.]*")


def sentences(text: str) -> Iterator[str]:
    """The sentences of a page, its links and code read as words; tables, blocks and titles are none."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", NO_PROSE.sub("", text))
    text = re.sub(r"^\s*(?:[-*]|\d+\.) ", "\n\n", re.sub(r"`[^`]*`", "Code", text), flags=re.M)
    for paragraph in re.split(r"\n\s*\n", text):
        yield from filter(None, re.split(r"(?<=[.!?])\s+(?=[A-Z\"*(])", " ".join(paragraph.split())))


def hard(text: str) -> list[str]:
    """The sentences that nobody understands at first reading."""
    return [
        sentence
        for sentence in sentences(text)
        if len(sentence.split()) > MAX_WORDS or len(FIGURE.findall(sentence)) > MAX_FIGURES
    ]


@pytest.mark.parametrize("path", PAGES, ids=[str(path.relative_to(PROJECT_ROOT)) for path in PAGES])
def test_a_sentence_is_short_and_has_two_figures_at_most(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(list(sentences(text))) > 20
    assert not hard(text), "split it, or put its figures into a table"


def test_a_sentence_that_says_too_much_would_be_noticed() -> None:
    figures = "It gains .19, 5 % and 3,000 rows."
    long = " ".join(["word"] * 31) + "."
    assert hard(f"Fine.\n\n{figures} {long.capitalize()}\n- One of 2. Two of 3 [here](a.md), in `1 2 3`.") == [
        figures,
        long.capitalize(),
    ]
