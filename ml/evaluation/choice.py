"""Which of the two rankers of a partition is released."""

from typing import Literal

from ml.evaluation.results import RANKING, Evaluation
from ml.surfaces.expression import parse
from ml.surfaces.spec import Surface


def choose_candidate(evaluation: Evaluation, surface: Surface) -> Literal["student", "control"]:
    """Choose the ranker to release: the student, unless the control is better.

    All rows, serving inputs, by the interval of ``student - control``. What serves has a veto: the control is chosen
    where the student loses a task of ``rank_by``, or the order by the ranking score. Another gated task that it loses
    counts only where it gains none.
    """
    ranked = parse(surface.rank_by, surface.tasks).names
    tasks = dict.fromkeys((*surface.gate.quality, *surface.tasks))
    figures = {(t, None): t in ranked for t in tasks if t in ranked or t in surface.gate.quality}
    figures |= {(t, RANKING): True for t in ranking_tasks(surface)}
    differences = [
        (evaluation.difference("student", "control", task, metric=metric), vetoes)
        for (task, metric), vetoes in figures.items()
    ]
    if any(d.hi < 0 for d, vetoes in differences if vetoes):
        return "control"
    worse = any(d.hi < 0 for d, _ in differences)
    better = any(d.lo > 0 for d, _ in differences)
    return "control" if worse and not better else "student"


def ranking_tasks(surface: Surface) -> list[str]:
    """Return the binary tasks of ``rank_by``: the gains that the order of the ranking score is judged by."""
    ranked = parse(surface.rank_by, surface.tasks).names
    return [name for name, task in surface.tasks.items() if name in ranked and task.kind == "binary"]
