"""Ended runs in the order in which they ended, each handed on once; what waits stands in a sensor's cursor."""

from collections.abc import Callable
from datetime import datetime, timedelta
from time import monotonic

import dagster as dg
from pydantic import BaseModel

from deploy.automation.jobs import ENDED

LOOK_BACK = timedelta(minutes=10)
"""Several machines write runs: one that ended earlier may be seen later."""
TRY_AGAIN = (401, 403, 404, 408, 429)
"""Refusals that are about the server, or about who asks, and not about what was sent."""
_PAGE = 20
_BUDGET_S = 40.0
"""A look that takes a minute is ended before its cursor is kept."""


class Unreachable(RuntimeError):
    """What is to be told does not answer, or does not let us in: it is tried again."""


class Place(BaseModel):
    """How far the runs of an instance were handed on.

    Attributes:
        reached: When the last one of them ended; None before the first.
        seen: When those ended that the next look finds again, by run id.
    """

    reached: datetime | None = None
    seen: dict[str, datetime] = {}

    def passed(self, record: dg.RunRecord) -> None:
        """Note that a run was handed on."""
        self.reached = max(record.update_timestamp, self.reached or record.update_timestamp)
        self.seen[record.dagster_run.run_id] = record.update_timestamp
        self.seen = {run: at for run, at in self.seen.items() if at >= self.reached - LOOK_BACK}


def hand_on(
    context: dg.SensorEvaluationContext, place: Place, send: Callable[[dg.DagsterInstance, dg.RunRecord], None]
) -> str:
    """Hand on the next runs that ended; return what was done, for people.

    A run whose record cannot be sent is warned of and left out: the same record would fail for ever.

    Args:
        context: Of a look, which begins now; has the runs, and hears of what is left out.
        place: Where to go on; moved.
        send: Sends one run.

    Raises:
        Unreachable: Not one run could be sent; ``place`` stands where it stood.
    """
    instance, started = context.instance, monotonic()
    after = place.reached - LOOK_BACK if place.reached else None
    found = instance.get_run_records(
        dg.RunsFilter(statuses=ENDED, updated_after=after),
        limit=_PAGE + len(place.seen),
        order_by="update_timestamp",
        ascending=True,
    )
    waiting = [record for record in found if record.dagster_run.run_id not in place.seen]
    sent = 0
    for record in waiting:
        if monotonic() - started > _BUDGET_S:
            break
        try:
            send(instance, record)
        except Unreachable as error:
            if not sent:
                raise
            return f"{sent} runs were sent, then: {error}"
        except Exception as error:  # of one run: the others are sent all the same
            context.log.warning(f"run {record.dagster_run.run_id} was left out: {type(error).__name__}: {error}")
        place.passed(record)
        sent += 1
    return f"{sent} runs were sent" if sent else "every run that ended was sent"
