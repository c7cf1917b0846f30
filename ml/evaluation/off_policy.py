"""What each ranker's own choice would earn, from exposures whose chance to be shown is known.

A *decision* is a place of a list, and its *candidates* are the items that the list showed. The logger put the item of
the row there with the chance ``p`` of ``exposures.propensity``, or with ``1 / k`` where ``random`` says that any of the
k random items of the list could have stood there. The policy that is asked about is the ranker's first choice: of the
list's items the one that it scores highest, items that tie in equal shares. So the value of a ranker is the mean label
at a place of a list, all places alike, if the ranker's first choice of the list stood there. What the ranker would do
with items that the list did not show is not known from such rows, and not said.

With ``w = policy / p``, clipped at the root of the rows, ``r`` the label and ``q`` a model's expected label:

* SNIPS, self-normalised inverse propensity: ``sum w r / sum w``.
* Doubly robust: the mean of ``sum_a policy(a) q(a)`` over decisions, plus ``sum w (r - q) / sum w``. It holds if either
  propensities or ``q`` are right, and says more than SNIPS where ``q`` is good. ``q`` is the control's prediction with
  serving inputs, the same for every ranker; it learnt from earlier days alone.

Assumed: a label depends on its item, its place and its user, not on the other items of the list; every candidate could
stand at every place; and the propensities are right. The last two can be looked at: over a list's candidates they add
up to 1, so ``1 / (k p)`` has the mean 1.

Sources: Swaminathan and Joachims, "The Self-Normalized Estimator for Counterfactual Learning", NIPS 2015; Dudik,
Langford and Li, "Doubly Robust Policy Evaluation and Learning", ICML 2011; self-normalised residuals as in Thomas and
Brunskill, "Data-Efficient Off-Policy Policy Evaluation", ICML 2016; clipping as in Ionides, "Truncated Importance
Sampling", JCGS 17 (2008). Own code because the Open Bandit Pipeline (obp 0.5.7, of 2023) resamples rows, not users.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
from scipy.special import expit

from ml.evaluation.bootstrap import Linear, UserWeights, effective_count, interval
from ml.evaluation.frame import Frame
from ml.evaluation.measures import COMPARISONS
from ml.evaluation.predictions import MODELS, RANK_TASK
from ml.evaluation.results import SHOWN, OffPolicy, OffPolicyValue
from ml.foundation.lake import ALIAS, FEATURES, Lake
from ml.surfaces.spec import Surface

ESTIMATORS = ("snips", "dr")
COLUMNS = ("list_id", "propensity", "random")
"""Columns of ``stg_exposures`` that say what chance did; a table of an earlier version lacks them."""


@dataclass(frozen=True)
class Logged:
    """Rows whose chance to be shown is known, of lists that leave a choice; arrays [n].

    Attributes:
        rows: Place of each in the evaluation rows.
        lists: Code of its list, from 0.
        items: How many such rows its list has, at least 2.
        propensity: Chance with which the logger put the item at its place, above 0.
        random: Rows of them with ``random``, and no propensity of their own.
        alone: Rows besides them whose list has no other.
    """

    rows: np.ndarray
    lists: np.ndarray
    items: np.ndarray
    propensity: np.ndarray
    random: int = 0
    alone: int = 0


@dataclass(frozen=True)
class Estimate:
    """A value as sums over users, and its weights on the rows that it was estimated from.

    Attributes:
        value: On all rows, every user counted once.
        linear: The same in every replicate.
        weights: Clipped importance of each row [n].
        clipped: Share of the rows whose weight was clipped.
    """

    value: float
    linear: Linear
    weights: np.ndarray
    clipped: float


def read_logged(lake: Lake, surface: Surface, days: Sequence[date]) -> Logged | None:
    """Return the evaluation rows whose chance to be shown landed; None where there are none.

    Args:
        lake: Holds ``features.examples_<surface>`` and ``features.stg_exposures``, or a snapshot of it.
        surface: The surface.
        days: Evaluation days.
    """
    shown = f"{FEATURES}.stg_exposures"
    if not lake.table_exists(shown) or not set(COLUMNS) <= set(lake.columns(shown)):
        return None
    found = lake.sql(
        f"""
        with examples as (
            select day, exposure_id, row_number() over (order by exposure_id) - 1 as place
            from {ALIAS}.{FEATURES}.examples_{surface.name} where day between ? and ?
        )
        select
            place,
            coalesce(propensity, 0)::double as propensity,
            -- Items that chance alone put somewhere are candidates for each other wherever the user saw them.
            dense_rank() over (
                order by
                    propensity is null,
                    list_id,
                    if(list_id is null, if(propensity is null, user_id, session_id), null),
                    if(list_id is null and propensity is not null and session_id is null, user_id, null),
                    if(list_id is null and propensity is not null and session_id is null, day, null)
            ) - 1 as list
        from examples inner join {ALIAS}.{shown} as shown using (day, exposure_id)
        where shown.day between ? and ? and (propensity is not null or random)
        order by place
        """,
        [days[0], days[-1], days[0], days[-1]],
    )
    if not len(found):
        return None
    rows, lists, stated = (found[name].to_numpy() for name in ("place", "list", "propensity"))
    return logged(rows, lists, np.where(stated > 0, stated, np.nan))


def logged(rows: np.ndarray, lists: np.ndarray, propensity: np.ndarray) -> Logged:
    """Return the rows [n] whose list leaves a choice; a propensity that is NaN is that of a random row, 1 / items."""
    items = np.bincount(lists)[lists]
    kept = items > 1
    _, codes = np.unique(lists[kept], return_inverse=True)
    items, stated = items[kept], propensity[kept]
    drawn = np.isnan(stated)
    return Logged(rows[kept], codes, items, np.where(drawn, 1 / items, stated), int(drawn.sum()), int((~kept).sum()))


def first_choice(scores: np.ndarray, lists: np.ndarray) -> np.ndarray:
    """Return the chance of each row [n] to be its list's first choice: the highest score, ties in equal shares."""
    top = np.full(int(lists.max(initial=-1)) + 1, -np.inf)
    np.maximum.at(top, lists, scores)
    best = (scores == top[lists]).astype(np.float64)
    return best / np.bincount(lists, best)[lists]


def estimate(
    weights: UserWeights,
    users: np.ndarray,
    labels: np.ndarray,
    policy: np.ndarray,
    log: Logged,
    expected: np.ndarray | None = None,
) -> Estimate:
    """Estimate the mean label under a policy: SNIPS, or doubly robust where ``expected`` is given.

    Args:
        weights: Bootstrap weights.
        users: User code of each row [n] among them.
        labels: Label of each row [n]; a row whose label is NaN is a candidate, and no decision.
        policy: Chance of each row to be what the policy puts at a place of its list [n].
        log: The rows; every candidate of a list is there.
        expected: Expected label of each row [n].
    """
    decided = np.isfinite(labels)
    importance = policy[decided] / log.propensity[decided]
    cap = max(float(decided.sum()) ** 0.5, 1.0)
    clipped, users, labels = np.minimum(importance, cap), users[decided], labels[decided]
    share = float((importance > cap).mean()) if len(importance) else 0.0
    if expected is None:
        linear = weights.ratio(users, clipped * labels, clipped)
    else:
        of_list = np.bincount(log.lists, policy * expected)[log.lists][decided]
        first = weights.ratio(users, of_list, np.ones(len(users)))
        rest = weights.ratio(users, clipped * (labels - expected[decided]), clipped)
        linear = Linear(
            np.concatenate([first.terms, rest.terms]),
            lambda sums: first.combine(sums[:2]) + rest.combine(sums[2:]),
        )
    value = float(linear.combine(linear.terms.sum(axis=1, keepdims=True))[0])
    return Estimate(value, linear, clipped, share)


def off_policy(
    frame: Frame,
    tasks: Sequence[str],
    weights: UserWeights,
    log: Logged | None,
    inputs: str = "serving",
    expected: Mapping[str, np.ndarray] | None = None,
) -> OffPolicy | None:
    """Return what every model's first choice would earn on each task; None where no propensity landed.

    A list counts for a model that scored all its candidates.

    Args:
        frame: Evaluation rows with the scores of all models.
        tasks: Binary tasks; labels of others exist only where something was clicked, so that they are no reward.
        weights: Bootstrap weights of the rows' users.
        log: The rows whose chance to be shown is known.
        inputs: Which scores count.
        expected: Expected label of each evaluation row by task; the control's prediction by default.
    """
    if log is None:
        return None
    if expected is None:
        of_control = {task: frame.scores.get((inputs, "control", task)) for task in tasks}
        expected = {task: expit(logits) for task, logits in of_control.items() if logits is not None}
    found: list[OffPolicyValue] = []
    for task in expected if len(log.rows) else ():
        scores = {m: _scores(frame, inputs, m, task) for m in MODELS if (inputs, m, task) in frame.scores}
        found += _Task(task, frame.labels[task], expected[task], weights, log).values(scores)
    even = 1 / (log.items * log.propensity)
    codes = weights.codes[log.rows]
    total = weights.ratio(codes, even, np.ones(len(even)))
    added = interval(float(even.mean()), weights.replicate([total])[0], _effective(codes, even)) if len(even) else None
    nan = float("nan")
    return OffPolicy(
        rows=len(log.rows),
        random=log.random,
        alone=log.alone,
        lists=int(log.lists.max(initial=-1)) + 1,
        users=len(np.unique(codes)),
        added=added.estimate if added else nan,
        added_lo=added.lo if added else nan,
        added_hi=added.hi if added else nan,
        values=tuple(found),
    )


class _Task:
    """One task's labels, and what models' choices would earn of them."""

    def __init__(self, task: str, labels: np.ndarray, expected: np.ndarray, weights: UserWeights, log: Logged) -> None:
        self.task, self.labels, self.expected, self.weights, self.log = task, labels, expected, weights, log

    def values(self, scores: Mapping[str, np.ndarray]) -> list[OffPolicyValue]:
        """Return each model's value and what it gains over what was shown, and the differences of models."""
        found: list[OffPolicyValue] = []
        for model, own in scores.items():
            found += self._compare(model, None, {model: own})
            found += self._compare(model, SHOWN, {model: own})
        for model, other in COMPARISONS:
            if model in scores and other in scores:
                found += self._compare(model, other, {name: scores[name] for name in (model, other)})
        return found

    def _compare(self, model: str, other: str | None, scores: Mapping[str, np.ndarray]) -> list[OffPolicyValue]:
        log, rows = self._scored(scores)
        labels, users = self.labels[rows], self.weights.codes[rows]
        decided = np.isfinite(labels)
        if not decided.any():
            return []
        policies = {name: first_choice(own[rows], log.lists) for name, own in scores.items()}
        shown = self.weights.mean(users[decided], labels[decided])
        found = []
        for estimator in ESTIMATORS:
            expected = self.expected[rows] if estimator == "dr" else None
            made = [estimate(self.weights, users, labels, p, log, expected) for p in policies.values()]
            replicates = self.weights.replicate([m.linear for m in made] + [shown])
            value, spread = made[0].value, replicates[0]
            if other is not None:
                value -= float(labels[decided].mean()) if other == SHOWN else made[1].value
                spread = spread - (replicates[-1] if other == SHOWN else replicates[1])
            effective = min(_effective(users[decided], m.weights) for m in made)
            bounds = interval(value, spread, effective)
            found.append(
                OffPolicyValue(
                    model=model,
                    reference=other,
                    task=self.task,
                    estimator=estimator,
                    value=bounds.estimate,
                    lo=bounds.lo,
                    hi=bounds.hi,
                    se=bounds.se,
                    n=int(decided.sum()),
                    effective_rows=min(_count(m.weights) for m in made),
                    effective_positives=min(_count(m.weights * labels[decided]) for m in made),
                    effective_users=effective,
                    clipped=max(m.clipped for m in made),
                )
            )
        return found

    def _scored(self, scores: Mapping[str, np.ndarray]) -> tuple[Logged, np.ndarray]:
        """Return the lists of which every model scored all candidates, and their evaluation rows."""
        log = self.log
        scored = np.logical_and.reduce([np.isfinite(own[log.rows]) for own in scores.values()])
        whole = np.bincount(log.lists, ~scored)[log.lists] == 0
        if whole.all():
            return log, log.rows
        _, codes = np.unique(log.lists[whole], return_inverse=True)
        return Logged(log.rows[whole], codes, log.items[whole], log.propensity[whole]), log.rows[whole]


def _scores(frame: Frame, inputs: str, model: str, task: str) -> np.ndarray:
    """Return what a model orders a list by: its ranking score where it has one, else its score of the task."""
    return frame.scores.get((inputs, model, RANK_TASK), frame.scores[inputs, model, task])


def _count(weights: np.ndarray) -> float:
    """Return how many equal weights would say as much; 0 where there is none."""
    return effective_count(weights) if weights.any() else 0.0


def _effective(users: np.ndarray, weights: np.ndarray) -> float:
    """Return how many users with equal weight would say as much."""
    return _count(np.bincount(users, weights))
