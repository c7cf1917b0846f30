"""Many requests ranked one after another, each as ``/rank`` ranks it: by the same inputs, model and order."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, islice
from typing import NamedTuple

import numpy as np

from ml.inference.model import SCORE, Model, order_of
from ml.inference.request import ITEM, USER, RequestError, RequestPlan
from ml.inference.snapshot import KNOWN, BoundFeatures

MOST_ROWS = 10_000
"""Candidates of a user that are scored at once; of more, the best are kept while the others are scored."""


class RankingError(ValueError):
    """Rows that cannot be ranked; the message names the user, and what is wrong."""


class Row(NamedTuple):
    """A candidate of a user: inputs that all of the user's candidates share, ``item_id`` and inputs of its own."""

    user: str | None
    shared: Mapping[str, object]
    candidate: Mapping[str, object]


@dataclass(frozen=True)
class Ranked:
    """The first candidates of a user, best first: items [k], and float32 [k] by output."""

    user: str | None
    items: list[str]
    values: dict[str, np.ndarray]


class Ranker:
    """Ranks the candidates of users.

    Args:
        model: The ranker.
        features: Features bound to its inputs.
        top_k: Candidates of each user that are kept.

    Attributes:
        users: Users ranked.
        rows: Candidates ranked.
        unknown: {feature table: users or candidates that it lacks}.
        not_finite: Candidates whose score is no number; they rank last.
    """

    def __init__(self, model: Model, features: BoundFeatures, top_k: int) -> None:
        self._model, self._features, self._top_k = model, features, top_k
        self._plan = RequestPlan(model.schema.inputs)
        self.users = self.rows = self.not_finite = 0
        self.unknown = Counter[str]()

    def rank(self, rows: Iterable[Row]) -> Iterator[Ranked]:
        """Rank rows, which are in the order of their users, and of items within each.

        Raises:
            RankingError: A value that does not fit its input, a user with two values of a shared input, or with one
                item twice.
        """
        for user, own in groupby(rows, key=lambda row: row.user):
            try:
                yield self._first(user, own)
            except RequestError as error:
                raise RankingError(f"user {user!r}: {error}") from error
            self.users += 1

    def _first(self, user: str | None, rows: Iterator[Row]) -> Ranked:
        items: list[str] = []
        kept: dict[str, np.ndarray] = {}
        first = last = None
        while part := list(islice(rows, MOST_ROWS)):
            first = first or part[0]
            last = _checked(first, last, part)
            candidates = [row.candidate for row in part]
            feeds, unknown = self._plan.feeds({USER: user, **first.shared}, candidates, self._features)
            scored = self._model.run(feeds)
            self.rows += len(part)
            self.not_finite += int(np.count_nonzero(~np.isfinite(scored[SCORE])))
            self.unknown[KNOWN[ITEM]] += unknown.get(KNOWN[ITEM], 0)
            self.unknown[KNOWN[USER]] += 0 if items else unknown.get(KNOWN[USER], 0)
            items += [str(row.candidate[ITEM]) for row in part]
            kept = {name: np.concatenate([kept[name], of]) if kept else of for name, of in scored.items()}
            best = order_of(kept[SCORE])[: self._top_k]
            items, kept = [items[place] for place in best], {name: of[best] for name, of in kept.items()}
        return Ranked(user, items, kept)


def _checked(first: Row, last: Row | None, part: list[Row]) -> Row:
    """Return the last of some rows of a user, which are like the first one and of other items than those before."""
    for row in part:
        if row.shared is not first.shared and row.shared != first.shared:
            name = next(name for name, value in row.shared.items() if value != first.shared[name])
            raise RankingError(
                f"user {row.user!r} has {name} {first.shared[name]!r} and {row.shared[name]!r}: all candidates of a "
                "user are ranked in one request, which has one value"
            )
        if last is not None and row.candidate[ITEM] == last.candidate[ITEM]:
            raise RankingError(f"user {row.user!r} has item {row.candidate[ITEM]!r} twice")
        last = row
    assert last is not None
    return last
