"""Is the control trained as far as its rows allow? It must not lie below a linear model of the same inputs.

Ids and categories become one column each, numbers stand as the ranker standardises them, and the penalty is
scikit-learn's own: logistic regression for a binary task, ridge regression for another. It knows no products and no
order of the rows, so a network that lies below it by its interval was stopped too early, or badly tuned: a student's
gain over such a control says little.
"""

from collections.abc import Mapping

import numpy as np
import torch
from scipy import sparse
from sklearn.linear_model import LogisticRegression, Ridge

from ml.evaluation.bootstrap import UserWeights, interval
from ml.evaluation.results import LinearGain
from ml.evaluation.transfer import REPLICATES, figure
from ml.students.dataset import Dataset
from ml.students.preprocessing import Preprocessing
from ml.surfaces.spec import Surface

MAX_ROWS = 50_000
"""Training rows that the linear model is fitted on, the newest; the control has them all."""

_MOST_STEPS = 200


def linear_scores(train: Dataset, held_out: Dataset, surface: Surface) -> dict[str, np.ndarray]:
    """Return {task: logit or value [m]} of a linear model per task whose training rows define one.

    Args:
        train: Rows in the order of time; the newest ``MAX_ROWS`` are learnt.
        held_out: m rows to score.
        surface: Inputs and tasks.
    """
    train = train.select(slice(max(0, len(train) - MAX_ROWS), None))
    preprocessing = Preprocessing.fit(surface.inputs, train.inputs)
    learn, judge = (_columns(preprocessing, data) for data in (train, held_out))
    found: dict[str, np.ndarray] = {}
    for name, task in surface.tasks.items():
        labels = train.labels[name].numpy().astype(np.float64)
        known = np.isfinite(labels)
        if len(np.unique(labels[known])) < 2:
            continue
        if task.kind == "binary":
            model = LogisticRegression(max_iter=_MOST_STEPS).fit(learn[known], labels[known])
            found[name] = model.decision_function(judge)
        else:
            found[name] = Ridge().fit(learn[known], labels[known]).predict(judge)
    return found


def against_control(
    linear: Mapping[str, np.ndarray], control: Mapping[str, np.ndarray], held_out: Dataset, surface: Surface, seed: int
) -> tuple[LinearGain, ...]:
    """Compare on rows that neither learnt from; a task that they do not define is left out.

    Args:
        linear: ``linear_scores`` of the rows.
        control: The control's scores of them.
        held_out: Labels and users.
        surface: Tasks.
        seed: Of the bootstrap.
    """
    weights = UserWeights(held_out.user_id.numpy(), seed=seed, replicates=REPLICATES)
    found: list[LinearGain] = []
    for name, scores in linear.items():
        labels = held_out.labels[name].numpy().astype(np.float64)
        rows = np.isfinite(labels)
        if len(np.unique(labels[rows])) < 2:
            continue
        binary = surface.tasks[name].kind == "binary"
        (mine, drawn), (own, own_drawn) = (
            figure(weights, weights.codes[rows], labels[rows], of[rows], binary=binary)
            for of in (scores, control[name].astype(np.float64))
        )
        gain = interval(mine - own, drawn - own_drawn)
        metric = "auc" if binary else "r2"
        found.append(LinearGain(name, metric, mine, own, gain.estimate, gain.lo, gain.hi, int(rows.sum())))
    return tuple(found)


def _columns(preprocessing: Preprocessing, data: Dataset) -> sparse.csr_array:
    """Return the inputs of n rows side by side: a column per known id, those unknown empty, then the numbers."""
    with torch.no_grad():
        rows, dense = preprocessing.convert(data.inputs)
    parts = [sparse.csr_array(dense.numpy().astype(np.float64))]
    for place, name in enumerate(preprocessing.ids):
        width = preprocessing.sizes[preprocessing.vocabulary[name]]
        ids, count = rows[:, place].numpy(), len(data)
        ones = (np.ones(count), (np.arange(count), ids))
        parts.append(sparse.csr_array(ones, shape=(count, width))[:, 1:])
    return sparse.csr_array(sparse.hstack(parts))
