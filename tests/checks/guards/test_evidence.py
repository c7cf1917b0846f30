"""Guard `evidence`: enough users, no few of them with most of the rows, and a gain that they show."""

from dataclasses import replace
from typing import Any

import pytest

from checks import gx
from checks.guards import evidence
from ml.evaluation.outcome import Outcome
from ml.evaluation.results import SHOWN, OffPolicy, OffPolicyValue
from ml.operations.release_page import entries, gain, not_shown
from tests.checks.spoilt import Bench, blocked, figure, of


def _gains(bench: Bench, **values: float) -> Bench:
    return bench.figures(of("student", "control"), **values).figures(of("student", "control", "trail", "r2"), **values)


def test_a_gain_that_the_users_show_passes(bench: Bench) -> None:
    result = _gains(bench, value=0.02, lo=0.01, hi=0.03).ask(evidence.GUARD)
    assert (result.outcome, result.reason) == (Outcome.PASS, "")


@pytest.mark.parametrize(
    ("counted", "check"),
    [({"positive_users": 19}, "ctr_users_with_a_positive"), ({"effective_users": 11.4}, "ctr_effective_users")],
)
def test_too_few_users_leave_a_candidate_undecided_and_are_told(bench: Bench, counted: dict[str, float], check: str):
    few = bench.figures(of(bench.manifest.kind, None), **counted)
    result = few.ask(evidence.GUARD)
    assert (result.outcome, blocked(result)) == (Outcome.INCONCLUSIVE, {check})
    assert "wanted >= 20" in result.reason and "positives in" in result.reason
    assert few.judge().decision == "inconclusive"


def test_the_thresholds_are_a_hundred_users_and_fifty_effective_ones_where_a_surface_sets_none(bench: Bench) -> None:
    gate = bench.surface.gate.model_copy(update={"guards": {}})
    result = bench.but(surface=bench.surface.model_copy(update={"gate": gate})).ask(evidence.GUARD)
    assert result.outcome is Outcome.INCONCLUSIVE, "40 users"
    assert {check.threshold for check in result.checks if "users" in check.name} == {">= 100", ">= 50"}


def test_days_without_a_click_are_refused_with_the_reason(bench: Bench) -> None:
    none = bench.figures(of(bench.manifest.kind, None), positives=0, positive_users=0, value=float("nan"))
    result = none.ask(evidence.GUARD)
    assert result.outcome is Outcome.INCONCLUSIVE
    assert "no positive in" in result.reason and str(bench.evaluation.days[0]) in result.reason


def test_an_evaluation_that_counted_no_users_blocks(bench: Bench) -> None:
    result = bench.figures(of(bench.manifest.kind, None), positive_users=None).ask(evidence.GUARD)
    assert result.outcome is Outcome.FAIL and "materialize `evaluation` again" in result.reason


@pytest.mark.parametrize(
    ("value", "lo", "hi", "outcome", "said"),
    [
        (0.01, 0.001, 0.02, Outcome.PASS, ""),
        (-0.008, -0.0286, 0.0057, Outcome.WARN, "the interval includes 0, and the control may be as good"),
        (0.01, -0.001, 0.02, Outcome.WARN, "the interval includes 0, and the control may be as good"),
        (-0.01, -0.02, -0.001, Outcome.WARN, "the student loses to its control"),
        (0.01, float("nan"), float("nan"), Outcome.WARN, "has no interval"),
    ],
)
def test_a_gain_over_the_control_that_is_not_shown_warns(value, lo, hi, outcome: Outcome, said: str) -> None:
    rows: list[Any] = [figure("ctr", "rival", value, lo, hi)]
    (check,) = gx.validate(rows, evidence.gain_suite(rows))
    assert (check.name, check.outcome) == ("ctr_auc_student_minus_control", outcome)
    assert said in check.detail


def test_a_first_candidate_without_evidence_says_so_in_verdict_and_log(bench: Bench) -> None:
    ctr = bench.evaluation.difference("student", "control", "ctr")
    assert ctr.lo < 0 < ctr.hi, "forty users show nothing"
    release = bench.store.release("tiny", bench.promote())
    assert release.verdict.decision == "pass"
    guard = release.verdict.guard("evidence")
    assert guard.outcome is Outcome.WARN and "the control may be as good" in guard.reason
    said = f"ctr {100 * ctr.estimate:+.2f} [{100 * ctr.lo:+.2f}, {100 * ctr.hi:+.2f}]; trail "
    assert gain(release.verdict).startswith(said)
    assert {entry["gain over control"] for entry in entries(bench.store, "tiny")} == {gain(release.verdict)}
    told = {row["where"]: row for row in not_shown(release)}
    assert f"{ctr.estimate:+.4f} [{ctr.lo:+.4f}, {ctr.hi:+.4f}]" == told["ctr_auc"]["student - control"]


def test_a_control_that_is_the_candidate_says_so(bench: Bench) -> None:
    turned = _gains(bench, value=-0.02, lo=-0.03, hi=-0.01).variant(kind="control")
    result = turned.ask(evidence.GUARD)
    assert result.outcome is Outcome.WARN
    assert "what serves learnt nothing from the teacher" in result.reason


def _with_propensities(
    bench: Bench, *, rows: float = 900, positives: float = 90, hi: float = 0.01, added: float = 1.0
) -> Bench:
    """The bench with an evaluation whose exposures carried propensities, and a gain that users show."""
    kind = bench.manifest.kind
    figures: dict[str, Any] = {"task": "ctr", "estimator": "dr", "se": 0.01, "n": 2000, "effective_rows": rows}
    figures |= {"effective_positives": positives, "effective_users": 30.0, "clipped": 0.0}
    values = (
        OffPolicyValue(kind, None, value=0.2, lo=0.18, hi=0.22, **figures),
        OffPolicyValue(kind, SHOWN, value=hi - 0.02, lo=hi - 0.04, hi=hi, **figures),
    )
    known = OffPolicy(2000, 0, 3, 500, 40, added, added - 0.1, added + 0.1, values)
    gained = _gains(bench, value=0.02, lo=0.01, hi=0.03)
    return gained.but(found=replace(gained.found or gained.evaluation, off_policy=known))


def test_choices_that_would_earn_no_less_pass_where_exposures_carry_propensities(bench: Bench) -> None:
    result = _with_propensities(bench).ask(evidence.GUARD)
    assert result.outcome is Outcome.PASS
    said = {check.name: check.outcome for check in result.checks}
    assert said["propensities_add_up"] == said["ctr_earned_minus_shown"] == Outcome.PASS
    assert said["ctr_earned_effective_rows"] is Outcome.PASS
    plain = _gains(bench, value=0.02, lo=0.01, hi=0.03).ask(evidence.GUARD)
    assert not [check.name for check in plain.checks if "earned" in check.name or "propens" in check.name]


@pytest.mark.parametrize(
    ("found", "check", "said"),
    [
        ({"rows": 120}, "ctr_earned_effective_rows", "is 120, wanted >= 200"),
        ({"positives": 12}, "ctr_earned_effective_positives", "is 12, wanted >= 30"),
        ({"hi": -0.001}, "ctr_earned_minus_shown", "is -0.021, wanted interval reaches 0"),
        ({"added": 5.0}, "propensities_add_up", "is 5, wanted 1"),
    ],
)
def test_few_effective_rows_a_losing_choice_and_propensities_of_something_else_warn(
    bench: Bench, found: dict[str, float], check: str, said: str
) -> None:
    result = _with_propensities(bench, **found).ask(evidence.GUARD)
    assert result.outcome is Outcome.WARN and f"{check} {said}" in result.reason
    assert [c.name for c in result.checks if c.outcome is not Outcome.PASS] == [check]


def test_propensities_without_a_list_that_leaves_a_choice_warn(bench: Bench) -> None:
    nan = float("nan")
    gained = _gains(bench, value=0.02, lo=0.01, hi=0.03)
    found = replace(gained.found or gained.evaluation, off_policy=OffPolicy(0, 0, 7, 0, 0, nan, nan, nan, ()))
    result = gained.but(found=found).ask(evidence.GUARD)
    assert result.outcome is Outcome.WARN and "no list leaves a choice" in result.reason
