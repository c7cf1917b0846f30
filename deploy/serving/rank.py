"""POST /rank: a user, request inputs and candidate items in, ranked items out."""

import logging
from datetime import datetime
from typing import Annotated, cast

import numpy as np
import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    StrictInt,
    StrictStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from deploy.serving.engine import Engine, Served
from deploy.serving.limits import Limits
from deploy.serving.metrics import Metrics, log
from deploy.serving.protocol import BadRequest, parse_object
from ml.inference.model import SCORE, order_of
from ml.inference.request import RequestError, show

_TOP = 10
_YEARS_OF_NUMBERS = range(2000, 2100)


class Candidate(BaseModel):
    """One item to rank, with the `request` inputs that belong to each candidate."""

    model_config = ConfigDict(extra="allow")

    item_id: StrictStr | StrictInt = Field(description="Id of the item, as in the landed events")
    container_id: StrictStr | StrictInt | None = Field(
        default=None, description="Shelf that would hold the item, where the surface has it"
    )
    exposure_id: StrictStr | StrictInt | None = Field(
        default=None, description="Id that the exposure will have if the item is shown: for the log, not for the model"
    )


class RankRequest(BaseModel):
    """What to rank for whom. Further keys are the surface's `request` inputs by name, such as `seed_item_id`."""

    model_config = ConfigDict(extra="allow")

    surface: StrictStr = Field(description="Surface whose champion ranks", examples=["homepage"])
    user_id: StrictStr | StrictInt | None = Field(
        default=None, description="Id of the user, as in the landed events; null for an unknown visitor"
    )
    session: dict[str, object] | None = Field(
        default=None,
        description="The session so far; `outcomes`: of the last listens that ended before the request, newest first",
        examples=[{"outcomes": ["completed", "skipped"]}],
    )
    ts: datetime | None = Field(
        default=None,
        description="Time of the request, UTC unless it says otherwise; a number is seconds or milliseconds",
    )
    candidates: Annotated[list[dict[str, object]], FailFast()] = Field(  # each fault becomes an object: one is told
        min_length=1,
        description="Items to rank; `item_id` and the surface's per-candidate `request` inputs, such as `container_id`",
        examples=[[{"item_id": "track-1", "container_id": "new"}]],
    )

    @field_validator("ts", mode="wrap")
    @classmethod
    def _time(cls, given: object, read: ValidatorFunctionWrapHandler) -> datetime | None:
        """Take a number for seconds or milliseconds only where it can be but one of them, and a day for no time."""
        ts: datetime | None = read(given)
        if ts is None or isinstance(given, datetime) or (isinstance(given, str) and ":" in given):
            return ts
        try:
            float(cast("float | str", given))
        except ValueError as error:
            raise ValueError("a day is no time; send 2026-03-01T10:00:00Z") from error
        if ts.year not in _YEARS_OF_NUMBERS:
            raise ValueError("as seconds or milliseconds it is no time of 2000 to 2099; send 2026-03-01T10:00:00Z")
        return ts


class RankedItem(BaseModel):
    """One ranked item; further keys are the raw task outputs by name: logits of binary tasks, values of regressions."""

    model_config = ConfigDict(extra="allow")

    item_id: str | int = Field(description="As sent")
    index: int = Field(description="Position in the request's candidates")
    arm: str = Field(
        default="",
        description="Where two rankers answer together: whose pick it is, to be logged as the exposure's `arm`",
    )
    score: float | None = Field(description="Ranking score; higher is better")


class Interleaved(BaseModel):
    """How a challenger took part in an answer."""

    release: str = Field(description="The challenger's release; `release` beside it is the champion's")
    seed: int = Field(description="Of the coins that said who picks first, made of the releases and the request")


class RankResponse(BaseModel):
    """Candidates by falling score; equal scores keep the order of the request."""

    surface: str
    release: str = Field(description="Release that ranked")
    feature_day: str = Field(description="Day of the features that were looked up")
    interleaved: Interleaved | None = Field(
        default=None, description="Where a challenger picked every other item; scores of two models do not compare"
    )
    items: list[RankedItem]


class ErrorResponse(BaseModel):
    """Why a request was refused."""

    error: str


def read_request(body: bytes, limits: Limits) -> RankRequest:
    """Read the body of a ranking request.

    Raises:
        BadRequest: 400 for what is no JSON object, 422 for what does not fit.
    """
    try:
        request = RankRequest.model_validate(parse_object(body, limits.max_depth, limits.max_values // 4))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        given = "" if first["type"] == "missing" else f", got {show(first['input'])}"
        raise BadRequest(f"{'.'.join(map(str, first['loc']))}: {first['msg']}{given}", status=422) from error
    if len(request.candidates) > limits.max_rows:
        raise BadRequest(f"{len(request.candidates)} candidates; at most {limits.max_rows} are ranked", status=422)
    return request


def prepare(request: RankRequest, served: Served, engine: Engine, metrics: Metrics) -> dict[str, np.ndarray]:
    """Return the model's inputs for one request.

    Raises:
        BadRequest: 503 where features are missing or too old, 422 for values that do not fit.
    """
    features = served.features
    if features is None:
        raise BadRequest("no features are published", status=503)
    if stale := engine.stale(features.day):
        raise BadRequest(stale, status=503)
    values = {"user_id": request.user_id, "session": request.session, "ts": request.ts, **(request.model_extra or {})}
    try:
        feeds, unknown = served.released.plan.feeds(values, request.candidates, features)
    except RequestError as error:
        raise BadRequest(str(error), status=422) from error
    for table, count in unknown.items():
        metrics.unknown.labels(request.surface, table).inc(count)
    return feeds


def compare(
    request: RankRequest, values: dict[str, np.ndarray], shadow: Served, engine: Engine, metrics: Metrics
) -> None:
    """Score a request with a shadow too, and record how far its scores and first places lie from what was answered.

    It never fails: an outcome that is no comparison is counted as such.
    """
    labels = (request.surface, shadow.released.release)
    try:
        scores = shadow.released.model.run(prepare(request, shadow, engine, metrics), [SCORE])[SCORE]
    except Exception as error:  # the answer is out already, and nobody waits for this one
        metrics.shadowed.labels(*labels, "failed").inc()
        log(logging.WARNING, "shadow failed", surface=labels[0], release=labels[1], error=str(error))
        return
    answered = values[SCORE]
    metrics.shadowed.labels(*labels, "scored").inc()
    metrics.shadow_shift.labels(*labels).observe(float(np.abs(scores - answered).mean()))
    top = min(_TOP, len(answered))
    first = [set(order_of(s)[:top].tolist()) for s in (answered, scores)]
    metrics.shadow_overlap.labels(*labels).observe(len(first[0] & first[1]) / top)


def render(request: RankRequest, served: Served, values: dict[str, np.ndarray], metrics: Metrics) -> bytes:
    """Return the ranked candidates as JSON; a score that is no number is null and ranks last."""
    count_not_finite(request, values, metrics)
    order = order_of(values[SCORE])
    items = [{"item_id": request.candidates[place]["item_id"], "index": place} for place in order.tolist()]
    for name in (SCORE, *(name for name in values if name != SCORE)):
        for item, value in zip(items, values[name].take(order).tolist(), strict=True):
            item[name] = value
    return orjson.dumps({"surface": request.surface, **served.label, "items": items})


def count_not_finite(request: RankRequest, values: dict[str, np.ndarray], metrics: Metrics) -> None:
    """Count the scores that are no number."""
    scores = values[SCORE]
    if bad := scores.size - int(np.count_nonzero(np.isfinite(scores))):
        metrics.not_finite.labels(request.surface).inc(bad)
