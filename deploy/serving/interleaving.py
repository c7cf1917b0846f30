"""A /rank request that champion and challenger answer together: each place names the team that picked it."""

import numpy as np
import orjson

from deploy.serving.answering import run
from deploy.serving.engine import Engine, Served
from deploy.serving.metrics import Metrics
from deploy.serving.rank import RankRequest, count_not_finite, prepare
from deploy.serving.served_log import Picked, Scored, ServedLog
from ml.inference.interleaving import INTERLEAVED, TEAMS, seed_of, team_draft
from ml.inference.model import SCORE, order_of


def ranked_together(
    request: RankRequest,
    body: bytes,
    teams: tuple[Served, Served],
    engine: Engine,
    metrics: Metrics,
    served_log: ServedLog | None = None,
) -> tuple[dict[str, np.ndarray], bytes]:
    """Return what the champion gives, and the answer.

    Args:
        request: The request.
        body: As it came: with the releases it seeds the coins, so that a request sent again gets the same answer.
        teams: Champion and challenger.
        engine: Says how old features may be.
        metrics: Where to count.
        served_log: Where to log, if anywhere.

    Raises:
        BadRequest: One of them cannot answer.
    """
    feeds = [prepare(request, team, engine, metrics) for team in teams]
    values = [run(team, own, team.released.model.outputs, metrics) for team, own in zip(teams, feeds, strict=True)]
    for own in values:
        count_not_finite(request, own, metrics)
    releases = [team.released.release for team in teams]
    seed = seed_of(*(release.encode() for release in releases), body)
    order, team_of = team_draft(order_of(values[0][SCORE]), order_of(values[1][SCORE]), seed)
    items = [
        {
            "item_id": request.candidates[place]["item_id"],
            "index": place,
            "arm": INTERLEAVED + TEAMS[team],
            **{name: value[place].item() for name, value in values[team].items()},
        }
        for place, team in zip(order.tolist(), team_of.tolist(), strict=True)
    ]
    if served_log is not None:
        served_log.offer(request, [*map(Scored, teams, feeds, values)], Picked(order, team_of))
    label = {"surface": request.surface, **teams[0].label, "interleaved": {"release": releases[1], "seed": seed}}
    return values[0], orjson.dumps({**label, "items": items})
