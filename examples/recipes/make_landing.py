import gzip
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

LANDING = Path(__file__).parent / "landing"
DAYS, USERS, RECIPES = [date(2026, 3, n) for n in range(1, 7)], 200, 50
rng = np.random.default_rng(9)
taste, greens = rng.uniform(-1, 1, USERS), rng.uniform(-1, 1, RECIPES)
quality = rng.normal(0, 0.6, RECIPES)


def write(table: str, day: date, suffix: str, rows: list[dict]) -> None:
    folder = LANDING / table / f"day={day}"
    folder.mkdir(parents=True, exist_ok=True)
    path, frame = folder / f"part-0.{suffix}", pl.DataFrame(rows)
    if suffix == "parquet":
        frame.write_parquet(path)
    elif suffix == "jsonl":
        frame.write_ndjson(path)
    else:
        text = frame.write_csv().encode()
        path.write_bytes(gzip.compress(text) if suffix == "csv.gz" else text)
    (folder / "_SUCCESS").touch()


for day in DAYS:
    shown, opened, results = [], [], []
    for u in np.flatnonzero(rng.random(USERS) < 0.7):
        start = datetime(day.year, day.month, day.day, 8) + timedelta(minutes=int(rng.integers(540)))
        guests = int(rng.integers(1, 7))
        for column, r in enumerate(rng.choice(RECIPES, 8, replace=False)):
            exposure, ts = f"{day}-u{u}-{column}", start + timedelta(seconds=20 * column)
            ids = {"exposure_id": exposure, "user_id": f"u{u}", "session_id": f"{day}-u{u}", "item_id": f"r{r}"}
            shown.append(ids | {"ts": ts, "surface": "suggestions", "column": column, "guests": guests})
            if rng.random() < 0.4 / (1 + 0.1 * column):
                stay = float(rng.exponential(60))
                ended = "completed" if stay > 30 else "skipped"
                later = ts + timedelta(seconds=5)
                opened.append(ids | {"listen_id": f"open-{exposure}", "ts": later, "played_s": stay, "outcome": ended})
            liking = 4 * taste[u] * greens[r] + quality[r]
            if rng.random() < 1 / (1 + np.exp(1.2 - liking + 0.1 * guests)):
                stars = float(np.clip(np.round(3 + liking / 2 + rng.normal(0, 0.5)), 1, 5))
                for name, value in {"cooked": 1.0, "rating": stars}.items():
                    evening = ts + timedelta(hours=3)
                    results.append({"exposure_id": exposure, "name": name, "value": value, "ts": evening})
    if day == DAYS[0]:
        suggested = [row["exposure_id"] for row in shown[::10]]
    if day == DAYS[5]:  # five days later, some order what they were shown
        noon = datetime(day.year, day.month, day.day, 12)
        results += [{"exposure_id": e, "name": "ordered", "value": 1.0, "ts": noon} for e in suggested]
    write("exposures", day, "parquet", shown)
    write("listens", day, "csv.gz", opened)
    write("outcomes", day, "jsonl", results)
    users = [
        {"user_id": f"u{u}", "signed_up_at": date(2026, 1, 1 + u % 28), "source_user_id": f"card{u}"}
        for u in range(USERS)
    ]
    items = [
        {
            "item_id": f"r{r}",
            "creator_id": f"cook{r % 7}",
            "genre": "green" if greens[r] > 0 else "hearty",
            "released_at": date(2026, 1, 1 + r % 28),
            "source_item_id": f"kit{r}",
        }
        for r in range(RECIPES)
    ]
    write("users", day, "csv", users if day == DAYS[0] else [])  # later days: nobody changed
    write("items", day, "csv", items if day == DAYS[0] else [])
    cards = [{"source_user_id": f"card{u}", "vegetable_share": (1 + taste[u]) / 2} for u in range(USERS)]
    kits = [
        {"source_item_id": f"kit{r}", "vegetable_share": (1 + greens[r]) / 2, "price": 5.0 + r % 9}
        for r in range(RECIPES)
    ]
    write("source_user_profiles", day, "csv", cards)
    write("source_item_profiles", day, "csv", kits)
