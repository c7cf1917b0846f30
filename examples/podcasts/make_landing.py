from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

LANDING = Path(__file__).parent / "landing"
DAYS, LISTENERS, EPISODES = [date(2026, 3, n) for n in range(1, 11)], 200, 60
rng = np.random.default_rng(7)
taste, topics = rng.normal(0, 0.5, (LISTENERS, 8)), rng.normal(0, 0.5, (EPISODES, 8))
minutes = rng.integers(8, 40, EPISODES)
events: dict[tuple[str, date], list[dict]] = {(t, d): [] for t in ("exposures", "listens") for d in DAYS}


def listen(ids: dict, ts: datetime, played_s: float, whole_s: float) -> None:
    """A playback; one that begins after the last day has not landed."""
    ended = "completed" if played_s >= whole_s else "stopped"
    row = ids | {"listen_id": f"l-{ids['session_id']}-{ts:%d%H%M%S}", "ts": ts, "played_s": played_s, "outcome": ended}
    if (day := ts.date()) in DAYS:
        events["listens", day].append(row)


for day in DAYS:
    for u in np.flatnonzero(rng.random(LISTENERS) < 0.6):
        start = datetime(day.year, day.month, day.day, 7) + timedelta(minutes=int(rng.integers(600)))
        session = f"{day}-u{u}"
        for column, e in enumerate(rng.choice(EPISODES, 6, replace=False)):
            ts, whole = start + timedelta(minutes=45 * column), 60.0 * minutes[e]
            ids = {"exposure_id": f"{session}-{column}", "user_id": f"u{u}", "session_id": session, "item_id": f"e{e}"}
            events["exposures", day].append(ids | {"ts": ts, "surface": "episodes", "column": column})
            if rng.random() > 0.5:
                continue
            begun = ts + timedelta(seconds=5)
            if rng.random() > 1 / (1 + np.exp(1 - 2 * taste[u] @ topics[e])):
                listen(ids, begun, round(float(rng.uniform(0.05, 0.6)) * whole, 1), whole)  # given up
                continue
            way = rng.integers(3)
            if way == 0:
                listen(ids, begun, whole, whole)  # in one go
            else:
                listen(ids, begun, round(0.4 * whole, 1), whole)
                if way == 1:  # the rest after a pause, from the player, which names no exposure
                    listen(
                        ids | {"exposure_id": None},
                        begun + timedelta(seconds=0.6 * whole),
                        round(0.6 * whole, 1),
                        whole,
                    )
                else:  # the rest two days later, from "continue listening", which does
                    later = ids | {"session_id": f"{session}-later"}
                    listen(later, begun + timedelta(days=2), round(0.6 * whole, 1), whole)


def write(table: str, day: date, rows: list[dict], **types: pl.DataType) -> None:
    """Land a day of a table."""
    folder = LANDING / table / f"day={day}"
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows, schema_overrides=types).write_parquet(folder / "part-0.parquet")
    (folder / "_SUCCESS").touch()


for (table, day), rows in events.items():
    write(table, day, rows, exposure_id=pl.String())
for day in DAYS:
    users = [
        {"user_id": f"u{u}", "signed_up_at": date(2026, 1, 1), "source_user_id": f"r{u}"} for u in range(LISTENERS)
    ]
    items = [
        {
            "item_id": f"e{e}",
            "creator_id": f"show{e % 12}",
            "genre": f"topic{int(np.argmax(topics[e]))}",
            "duration_s": 60.0 * minutes[e],
            "released_at": date(2026, 2, 1 + e % 28),
            "source_item_id": f"p{e}",
            "content_embedding": topics[e].tolist(),
        }
        for e in range(EPISODES)
    ]
    write("users", day, users)
    write("items", day, items)
    heard = [{"source_user_id": f"r{u}", "history_embedding": taste[u].tolist()} for u in range(LISTENERS)]
    write("source_user_profiles", day, heard)
    programmes = [{"source_item_id": f"p{e}", "content_embedding": topics[e].tolist()} for e in range(EPISODES)]
    write("source_item_profiles", day, programmes)
