import re
from html.parser import HTMLParser

from ml.evaluation.outcome import Outcome
from ml.releases.model_card import render_model_card
from ml.releases.release import manifest_of
from ml.releases.verdicts import Check, GuardResult, Override

FIGURE = {
    "inputs": "serving",
    "slice": "all",
    "task": "ctr",
    "metric": "auc",
    "n": 9000,
    "positives": 800,
    "flag": None,
}
EVALUATION = {
    "results": [
        FIGURE | {"model": "student", "reference": None, "value": 0.8123, "lo": 0.8, "hi": 0.82},
        FIGURE | {"model": "control", "reference": None, "value": 0.8011, "lo": 0.79, "hi": 0.81},
        FIGURE | {"model": "student", "reference": "control", "value": 0.0112, "lo": 0.004, "hi": 0.018},
        FIGURE
        | {"slice": "new_users", "model": "student", "reference": None, "value": None, "lo": None, "hi": None}
        | {"flag": "3 rows, fewer than 500"},
        FIGURE | {"inputs": "logged", "model": "student", "reference": None, "value": 0.9999, "lo": 0.9, "hi": 1.0},
    ],
    "transfer": [
        {"task": "ctr", "stacked": 0.0226, "stacked_lo": 0.0102, "stacked_hi": 0.0345}
        | {"kept": 0.496, "kept_lo": 0.21, "kept_hi": 0.88},
    ],
    "inputs": [
        {"input": name, "task": "ctr", "metric": "auc", "drop": drop, "lo": drop - 0.01, "hi": drop + 0.01, "n": 9000}
        for name, drop in (("user_id", 0.0834), ("hour", 0.0021))
    ],
}


class _Balance(HTMLParser):
    """Checks that tags are closed in order."""

    VOID = frozenset({"meta", "img", "br", "rect", "line"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in self.VOID or self.open.pop() == tag


def _card(shop, **options) -> str:
    candidate = shop.candidate(0)
    stored = shop.judge(candidate)
    manifest = manifest_of(candidate)
    return render_model_card(manifest, stored.verdict, release="r1", **options)


def test_the_card_shows_figures_guards_days_and_limits_and_is_well_formed(shop) -> None:
    page = _card(shop, evaluation=EVALUATION, plots={"deltas": b"png"})
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []
    for told in ("0.8123", "+0.0112", "+0.0040 to +0.0180", "2026-01-27", "score shift", "guard 6", "3 rows, fewer"):
        assert told in page
    assert "0.9999" not in page and "undertrained" not in page


def test_the_card_says_that_the_control_is_undertrained(shop) -> None:
    below = {
        "task": "ctr",
        "metric": "auc",
        "linear": 0.7,
        "control": 0.66,
        "gain": 0.04,
        "lo": 0.02,
        "hi": 0.06,
        "n": 9,
    }
    fine = below | {"task": "trail", "lo": -0.02}
    page = _card(shop, evaluation=EVALUATION | {"linear": [below, fine]})
    assert "ctr: the control is undertrained" in page and "trail: the control" not in page


def test_the_card_says_what_leaving_the_teacher_out_costs_and_how_much_more_there_was_to_take(shop) -> None:
    section = _card(shop, evaluation=EVALUATION).split("What the teacher is worth")[1].split("</section>")[0]
    for told in ("+0.0112", "+0.0040 to +0.0180", "+0.0226", "+0.0102 to +0.0345", "50 %", "(21 % to 88 %)"):
        assert told in section, told
    nothing = {"stacked": 0.0001, "stacked_lo": -0.002, "stacked_hi": 0.003, "kept": None, "kept_lo": None}
    page = _card(shop, evaluation=EVALUATION | {"transfer": [{"task": "ctr", "kept_hi": None, **nothing}]})
    assert "none is shown to be there" in page
    older = {name: value for name, value in EVALUATION.items() if name not in ("transfer", "inputs")}
    page = _card(shop, evaluation=older)
    assert "What the teacher is worth" in page and "What each input is worth" not in page


def test_the_card_says_what_each_input_is_worth_the_most_valuable_first(shop) -> None:
    section = _card(shop, evaluation=EVALUATION).split("What each input is worth")[1].split("</section>")[0]
    assert section.index("user_id") < section.index("hour")
    assert "+0.0834" in section and "(+0.0734 to +0.0934)" in section and "(-0.0079 to +0.0121)" in section


def test_the_card_says_what_a_request_costs_where_it_was_measured(shop) -> None:
    passed = {"outcome": Outcome.PASS, "threshold": "<= 20"}
    checks = (
        Check(name="milliseconds_of_200_rows", value=0.9712, **passed),
        Check(name="champion_over_candidate", value=1.02, interval=(0.98, 1.05), **passed),
        Check(name="feature_schema", value="abc", **passed),
    )
    candidate = shop.candidate(0)
    judged = shop.judge(candidate).verdict

    def page_of(*checks: Check) -> str:
        serving = GuardResult(number=8, name="serving", outcome=Outcome.PASS, checks=checks)
        guards = tuple(serving if guard.name == "serving" else guard for guard in judged.guards)
        verdict = judged.model_copy(update={"guards": guards})
        return render_model_card(manifest_of(candidate), verdict, release="r1")

    page = page_of(*checks)
    section = page.split("What it costs to serve")[1].split("</section>")[0]
    told = ("Milliseconds of 200 rows", "0.9712", "Champion over candidate", "1.0200", "(0.9800 to 1.0500)")
    assert all(text in section for text in told) and "abc" not in section
    assert "What it costs to serve" not in page_of(checks[-1])


def test_the_card_needs_nothing_from_elsewhere(shop) -> None:
    page = _card(shop, evaluation=EVALUATION, plots={"deltas": b"png"})
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert "<script" not in page
    assert "@import" not in page


def test_what_others_wrote_is_escaped(shop) -> None:
    page = _card(shop, override=Override(by="<script>alert(1)</script>", reason="a & b"), plots={'"><b>': b"x"})
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "a &amp; b" in page
    assert "<b>as told</b>" not in page


def test_the_card_of_a_release_without_evaluation_still_shows_its_guards(shop) -> None:
    page = _card(shop)
    assert "How good it is" not in page
    assert "What the gate found" in page


def test_the_card_says_what_a_guard_that_warned_means_and_what_to_do(shop) -> None:
    candidate = shop.candidate(0)
    warned = GuardResult(
        number=4,
        name="slices",
        outcome=Outcome.WARN,
        reason="few rows",
        means="Rare items <too>.",
        to_do="look at `evaluation`.",
    )
    verdict = shop.judge(candidate).verdict.model_copy(update={"guards": (warned,)})
    page = render_model_card(manifest_of(candidate), verdict, release="r1")
    assert "Rare items &lt;too&gt;." in page
    assert "<strong>What to do</strong>: look at `evaluation`." in page
    assert "What to do" not in _card(shop), "nothing there warned or blocked"


def test_the_card_says_what_own_choices_would_earn_where_exposures_carry_propensities(shop) -> None:
    value = {
        "task": "ctr",
        "model": "student",
        "se": 0.01,
        "n": 2000,
        "effective_rows": 512.4,
        "effective_positives": 61.0,
        "effective_users": 88.0,
    }
    value |= {"lo": 0.1911, "hi": 0.2311, "clipped": 0.05, "reference": None, "value": 0.2111}
    known = {"rows": 2000, "random": 40, "alone": 3, "lists": 500, "users": 120}
    known |= {"added": 1.01, "added_lo": 0.98, "added_hi": 1.04}
    over = value | {"estimator": "dr", "reference": "shown", "value": 0.0311, "lo": None, "hi": None}
    values = [value | {"estimator": "dr"}, value | {"estimator": "snips", "value": 0.2222}, over]
    page = _card(shop, evaluation=EVALUATION | {"off_policy": {**known, "values": values}})
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []
    section = page[page.index("What its own choices would earn") :]
    for told in ("2,000 evaluation rows of 500 lists", "40 of them by chance", "0.2111", "0.2222", "+0.0311", "512"):
        assert told in section, told
    assert "own choices" not in _card(shop, evaluation=EVALUATION)
