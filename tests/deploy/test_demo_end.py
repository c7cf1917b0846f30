"""The demo's last five lines say what happened, of a surface that is released and of one that is refused."""

from pathlib import Path

from deploy.cli.demo_end import last_words
from ml.evaluation.outcome import Outcome
from ml.evaluation.report import Report, SurfaceReport
from ml.releases.verdicts import Check, GuardResult, because

FEW = Check(name="ctr_users_with_a_positive", outcome=Outcome.INCONCLUSIVE, value=42.0, threshold=">= 100")
POOR = Check(name="ctr_auc", outcome=Outcome.FAIL, value=0.51, threshold=">= 0.6")


def surface(decision: str, why: str, release: str | None) -> SurfaceReport:
    ctr = {"metric": "auc", "delta": 0.0125, "delta_lo": 0.0074, "delta_hi": 0.0176, "flag": None}
    return {
        "rows": {"train": 1, "test": 1},
        "tasks": {"ctr": ctr},  # type: ignore[dict-item]
        "verdict": {"decision": decision, "because": why, "path": "1.json"},
        "release": {"id": release, "path": release} if release else None,
    }


def words(**surfaces: SurfaceReport) -> dict[str, str]:
    landing = {"rows_in": 3001, "rows_loaded": 3000, "rows_quarantined": 1}
    report: Report = {"source": "simulator", "landing": landing, "surfaces": surfaces}
    return last_words(report, Path("home/reports"))


def test_five_lines_say_what_was_built_gained_decided_and_what_is_next() -> None:
    told = words(homepage=surface("pass", "no guard objects", "r1"), radio=surface("fail", "too poor", None))
    assert list(told) == ["built", "gained", "gate", "look", "next"]
    assert all("\n" not in line for line in told.values())
    assert "3,000 rows" in told["built"] and "homepage and radio" in told["built"]
    assert told["gained"].startswith("homepage ctr +1.25 [+0.74, +1.76]; radio ctr +1.25")
    assert told["gate"] == "homepage passed (no guard objects); radio refused (too poor)"
    assert "crossfade open homepage" in told["look"] and "home/reports/demo.json" in told["look"]


def test_where_nothing_was_released_they_point_at_the_verdict_and_promise_no_server() -> None:
    told = words(homepage=surface("inconclusive", "too few", None))
    assert "undecided, nothing is promoted" in told["gate"]
    assert "crossfade release verdict homepage" in told["look"] and "nothing serves" in told["look"]


def test_why_the_gate_decided_so_is_the_first_figure_of_each_guard_that_blocks() -> None:
    guards = (
        GuardResult(number=1, name="data", outcome=Outcome.WARN),
        GuardResult(number=3, name="quality", outcome=Outcome.FAIL, checks=(POOR, POOR)),
        GuardResult(number=8, name="serving", outcome=Outcome.FAIL, reason="could not be evaluated"),
        GuardResult(number=11, name="evidence", outcome=Outcome.INCONCLUSIVE, checks=(FEW,)),
    )
    assert because(guards) == (
        "quality: ctr_auc is 0.51, wanted >= 0.6, and 1 more; serving: could not be evaluated; "
        "evidence: ctr_users_with_a_positive is 42, wanted >= 100"
    )
    assert because(guards[:1]) == "no guard objects; warnings of data"
