"""How hard the pages are to read: ``python docs/site/prose.py [COMMIT]`` prints it, and how hard they were at a commit.

Flesch's reading ease is 206.8 - 1.015 words per sentence - 84.6 syllables per word: 60 to 70 is plain English, below 30
is for graduates. Source: Flesch, "A new readability yardstick", Journal of Applied Psychology 32 (1948).
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
KINDS = ("tutorial", "how-to", "explanation")
"""Pages that are read; those of the reference are looked up, those of results are figures."""
PAGES = [
    ROOT / "README.md",
    ROOT / "docs" / "README.md",
    *sorted(page for kind in KINDS for page in (ROOT / "docs" / kind).glob("*.md")),
]
MAX_WORDS, MAX_FIGURES = 30, 2
_NO_PROSE = re.compile(r"^ *```.*?^ *```$|<picture>.*?</picture>|^ *\|.*?$|^#.*?$|!\[[^\]]*\]\([^)]*\)", re.M | re.S)
_FIGURE = re.compile(r"(?<![\w`.])[+-]?\.?\d[\d,.]*")
_END = re.compile(r"(?:(?<=[.!?])|(?<=[.!?]\*\*))\s+(?=[A-Z\"*(])")


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a page, its links and code read as words; tables, blocks and titles are none."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", _NO_PROSE.sub("", text))
    text = re.sub(r"^\s*(?:[-*]|\d+\.) ", "\n\n", re.sub(r"`[^`]*`", "Code", text), flags=re.M)
    for paragraph in re.split(r"\n\s*\n", text):
        yield from filter(None, _END.split(" ".join(paragraph.split())))


def hard(text: str) -> list[str]:
    """Return the sentences that nobody understands at first reading."""
    return [
        sentence
        for sentence in sentences(text)
        if len(sentence.split()) > MAX_WORDS or len(_FIGURE.findall(sentence)) > MAX_FIGURES
    ]


def syllables(word: str) -> int:
    """Return about how many syllables an English word has: groups of vowels, an e at the end left out."""
    found = len(re.findall(r"[aeiouy]+", re.sub(r"(?<![aeiouyl])e$", "", word.lower())))
    return max(found, 1)


def reading_ease(text: str) -> float:
    """Return Flesch's reading ease of a page's prose."""
    found = [re.findall(r"[A-Za-z][A-Za-z'-]*", sentence) for sentence in sentences(text)]
    words = [word for sentence in found for word in sentence]
    return 206.835 - 1.015 * len(words) / len(found) - 84.6 * sum(map(syllables, words)) / len(words)


def at(commit: str, page: Path) -> str | None:
    """Return a page as it was at a commit, also before it had a folder of its kind; None where it was not there."""
    for place in (page.relative_to(ROOT).as_posix(), f"docs/{page.name}"):
        command = ["git", "-C", str(ROOT), "show", f"{commit}:{place}"]
        shown = subprocess.run(command, capture_output=True, text=True, check=False)
        if shown.returncode == 0:
            return shown.stdout
    return None


def main(commit: str | None = None) -> None:
    """Print a line per page: reading ease, words per sentence, sentences that are too long, now and at ``commit``."""
    print(f"{'page':42} {'ease':>6} {'words':>6} {'hard':>5}" + (f"   at {commit}" if commit else ""))
    for page in PAGES:
        texts = [page.read_text(encoding="utf-8"), at(commit, page) if commit else None]
        print(f"{page.relative_to(ROOT).as_posix():42}", "  ".join(map(_told, filter(None, texts))))


def _told(text: str) -> str:
    found = list(sentences(text))
    length = sum(len(sentence.split()) for sentence in found) / len(found)
    return f"{reading_ease(text):6.1f} {length:6.1f} {len(hard(text)):5}"


if __name__ == "__main__":
    main(*sys.argv[1:])
