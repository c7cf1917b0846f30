from dataclasses import replace
from pathlib import Path

import pytest

from ml.evaluation.bootstrap import Interval
from ml.evaluation.diagnosis import Judgement, SliceGain, TaskDiagnosis
from ml.evaluation.transfer import Ratio
from ml.lab.study.analysis import Lift
from ml.lab.study.design import load_design
from ml.lab.study.foretelling import Foretold, error_rates, kept, write_foretelling

GAIN = Interval(0.01, 0.0, 0.02, 0.005, 0.014)


def foretold(judgement: Judgement, lo: float, hi: float, condition: str = "", untuned: str = "") -> Foretold:
    diagnosis = TaskDiagnosis(
        task="ctr",
        metric="auc",
        rows=100,
        positives=10,
        users=9,
        control=0.7,
        teacher=None,
        teacher_ratio=None,
        baseline=None,
        stacked=replace(GAIN, estimate=hi),
        student=replace(GAIN, estimate=lo),
        kept=None,
        shuffled=GAIN,
        slices=(),
        untuned=untuned,
        judgement=judgement,
    )
    ends = ((lo + hi) / 2, lo, hi, 0.5, 0.1, 1, 1, 1)
    lift = Lift(condition, "homepage", "ctr", "all", "auc", "student", "control", False, 0.7, *ends)
    return Foretold("demo-1", condition, "homepage", diagnosis, lift)


def test_error_rates_count_promises_that_did_not_come_and_gains_that_were_denied(tmp_path: Path):
    table = [
        foretold("helps", 0.001, 0.02),
        foretold("helps", -0.02, 0.001),
        foretold("helps", -0.02, -0.001, "shared_taste 0"),
        foretold("nothing to learn", 0.001, 0.003),
        foretold("hurts", -0.01, 0.02),
        foretold("promising", -0.01, 0.02, "shared_taste 0"),
        foretold("too few rows", -0.01, 0.02),
        foretold("control untuned", -0.01, 0.02, untuned="R2 -3.00, worse than the mean label"),
    ]
    counts = [(rate.errors, rate.of) for rate in error_rates(table)]
    assert counts == [(2, 3), (1, 3), (1, 2), (1, 2), (1, 2), (1, 8), (1, 8)]
    first = error_rates(table)[0]
    assert (first.lo, first.hi) == pytest.approx((0.094, 0.992), abs=1e-3), "Clopper and Pearson, 2 of 3"
    text = write_foretelling([*table, replace(table[0], world="demo-2")], load_design("taste"), 2, tmp_path / "d.md")[0]
    assert "| said `helps`, and the lift later is not above 0 | 2 of 4 | 50 % [7, 93] |" in text.read_text()
    assert error_rates([])[0].of == 0


def test_the_diagnosis_is_judged_on_twenty_worlds_that_share_all_half_and_none_of_their_taste():
    shared = {world.seed: world.shared_taste for world in load_design("taste").by_world()}
    assert len(shared) == 20 and sorted(set(shared.values())) == [0.0, 0.5, 1.0]


def test_a_diagnosis_that_was_made_is_not_made_again(tmp_path: Path):
    slices = (SliceGain("few_rows", "3 to 11", 12, 5, GAIN),)
    task = foretold("helps", 0.01, 0.02).diagnosis
    task = replace(task, control=float("nan"), kept=Ratio(0.5, 0.3, 0.7), slices=slices)
    asked: list[str] = []

    def ask(name: str) -> tuple[TaskDiagnosis, ...]:
        return kept(tmp_path, name, lambda: asked.append(name) or (task,))

    assert repr(ask("rows")) == repr(ask("rows")) == repr((task,))
    ask("others")
    assert asked == ["rows", "others"]
