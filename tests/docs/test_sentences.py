"""What is read is understood at first reading: short sentences, at most two figures in one, plain words."""

from pathlib import Path

import pytest

from docs.site.prose import PAGES, ROOT, hard, reading_ease, sentences, syllables

ENTRANCE = [page for page in PAGES if page.name == "README.md" or page.parent.name == "tutorial"]
PLAIN = 60
"""Flesch's reading ease of plain English."""


@pytest.mark.parametrize("path", PAGES, ids=[str(path.relative_to(ROOT)) for path in PAGES])
def test_a_sentence_is_short_and_has_two_figures_at_most(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(list(sentences(text))) > 5
    assert not hard(text), "split it, or put its figures into a table"


@pytest.mark.parametrize("path", ENTRANCE, ids=[str(path.relative_to(ROOT)) for path in ENTRANCE])
def test_where_a_newcomer_begins_is_plain_english(path: Path) -> None:
    assert reading_ease(path.read_text(encoding="utf-8")) > PLAIN


def test_reading_ease_knows_plain_words_from_dense_ones() -> None:
    assert [syllables(word) for word in ("rate", "table", "data", "promotion", "the")] == [1, 2, 2, 3, 1]
    dense = "Organisational considerations necessitate comprehensive reevaluation of methodological alternatives."
    assert reading_ease("The cat sat on the mat. It was warm.") > 100 > 0 > reading_ease(dense)


def test_a_sentence_that_says_too_much_would_be_noticed() -> None:
    figures = "It gains .19, 5 % and 3,000 rows."
    long = " ".join(["word"] * 31) + "."
    fine = f"**Fine.** So.\n\n  | {long} |"
    text = f"{fine}\n\n{figures} {long.capitalize()}\n- One of 2. Two of 3 [here](a.md), in `1 2 3`."
    assert hard(text) == [figures, long.capitalize()]
