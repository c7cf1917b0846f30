"""docs/explanation/comparison.md: each claim of ours names a test that exists, each fact about others its source."""

import ast
import re
from pathlib import Path

from ml.foundation.settings import PROJECT_ROOT

PAGE = PROJECT_ROOT / "docs" / "explanation" / "comparison.md"
TESTED = re.compile(r"\]\((?P<file>\.\./\.\./tests/[^ )]+) \"(?P<test>[^\"]+)\"\)")
TEXT = PAGE.read_text(encoding="utf-8")


def functions_of(path: Path) -> set[str]:
    """The names of a module's functions."""
    return {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


def rows(section: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_test_that_the_page_names_exists() -> None:
    found = list(TESTED.finditer(TEXT))
    assert len(found) > 15 and len(found) == TEXT.count("](../../tests/")
    for link in found:
        assert link["test"] in functions_of((PAGE.parent / link["file"]).resolve()), link[0]


def test_every_claim_has_a_test_and_every_fact_about_others_its_source() -> None:
    _, described, *compared, lacking = TEXT.split("\n## ")
    for _, _, source in rows(described)[1:]:
        assert "](https://" in source
    assert len(compared) == 3
    for _, here, elsewhere in (row for section in compared for row in rows(section)):
        assert TESTED.search(here), here
        assert not elsewhere or "](https://" in elsewhere, elsewhere
    assert lacking.count("\n- ") > 3
