"""A folder of landing cases (``app.yaml``, ``_ordinary/``; ``expect.yaml`` and files per case), landed into one home.

``python -m tests.support.landing_cases FOLDER`` prints what each case lacks and fails where one lacks anything.
"""

import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import yaml

from ml.features.build import build_arguments, run_dbt
from ml.foundation.lake import ALIAS, Lake
from ml.foundation.settings import EXAMPLES, Settings
from ml.landing.changes import changed_days
from ml.landing.contract import LandingError
from ml.landing.load import load_days
from ml.surfaces.files import load_surfaces

KEYS = {"exposures": "exposure_id", "listens": "listen_id", "items": "item_id", "users": "user_id"}


@dataclass(frozen=True)
class Case:
    """One case of a folder."""

    folder: Path
    expect: dict[str, Any]

    @property
    def days(self) -> list[date]:
        return [date.fromisoformat(str(day)) for day in self.expect["days"]]

    @property
    def table(self) -> str:
        return self.expect["table"]


def cases(folder: Path) -> list[Case]:
    """Return the cases of a folder, by name."""
    found = sorted(folder.glob("*/expect.yaml"))
    return [Case(path.parent, yaml.safe_load(path.read_text(encoding="utf-8"))) for path in found]


def app_of(folder: Path, into: Path) -> Path:
    """Write an app's folder that says what ``app.yaml`` of the cases says, beside the simulator's surfaces and SQL."""
    told = yaml.safe_load((folder / "app.yaml").read_text(encoding="utf-8"))
    shutil.copytree(EXAMPLES / "simulator", into, dirs_exist_ok=True)
    (into / "sources.yaml").write_text(yaml.safe_dump({"tables": told["sources"]}), encoding="utf-8")
    rules: dict[str, dict[str, Any]] = {}
    for name, rule in told.get("contract", {}).items():
        table, column = name.split(".")
        words = rule.partition(":")[2].replace(" ", "").split(",")
        rules.setdefault(table, {"no_dates": {}})["no_dates"][column] = words
    (into / "contract.yaml").write_text(yaml.safe_dump({"tables": rules}), encoding="utf-8")
    return into


def settings_of(folder: Path, home: Path) -> Settings:
    """Return the settings of the home in which the cases land one after another."""
    told = yaml.safe_load((folder / "app.yaml").read_text(encoding="utf-8"))
    return Settings(
        home=home / "home",
        app=app_of(folder, home / "app"),
        source="files",
        first_day=date.fromisoformat(told["first_day"]),
        max_quarantine_share=told["max_quarantine_share"],
        late_horizon_days=told["late_horizon_days"],
        feature_window_days=3,
        threads=1,
    )


def put(case: Case, ordinary: Path, settings: Settings) -> None:
    """Lay a case's files into the landing zone: its own tables, the ordinary ones, and what is built."""
    zone = settings.landing_dir
    assert zone is not None
    shutil.copytree(case.folder / "landing", zone, dirs_exist_ok=True)
    for built in case.expect.get("build", ()):
        build(zone.parent, built)
    for day in case.days:
        for source in ordinary.glob("*.csv"):
            into = zone / source.stem / f"day={day}"
            if not into.exists():
                into.mkdir(parents=True)
                text = source.read_text(encoding="utf-8").replace("{day}", str(day))
                (into / "ordinary.csv").write_text(text, encoding="utf-8")
            (into / "_SUCCESS").touch()


def build(root: Path, entry: dict[str, str]) -> None:
    """Make one odd entry; ``landing/`` of its path is the landing zone."""
    [kind] = entry.keys() & {"folder", "link", "fifo", "file"}
    place = Path(os.fsdecode(os.fsencode(root / entry[kind]).replace(b"%FF", b"\xff")))
    place.parent.mkdir(parents=True, exist_ok=True)
    match kind:
        case "folder":
            place.mkdir()
        case "link":
            place.symlink_to(entry["to"])
        case "fifo":
            os.mkfifo(place)
        case _:
            place.write_text(entry["text"], encoding="utf-8")


def faults(case: Case, ordinary: Path, settings: Settings) -> Iterator[str]:
    """Land a case and say what is not as it must be."""
    put(case, ordinary, settings)
    if case.expect.get("sensor"):
        changed_days(settings)
    surfaces = set(load_surfaces(settings))
    with Lake(settings) as lake:
        failure = None
        try:
            load_days(lake, settings, case.days, surfaces)
        except LandingError as error:
            failure = str(error)
        if failure is not None:
            if case.expect["lands"] == "yes":
                yield f"did not land: {failure}"
            elif not re.search(case.expect["message"], failure):
                yield f"fails without saying {case.expect['message']}: {failure}"
        if case.expect.get("next_day_lands") and not _landed(lake, case.days[-1]):
            yield "the next day did not land"
        if failure is not None:
            return
        yield from _counted(case, lake)
        yield from _read(case, lake)
        if again := case.expect.get("land_again"):
            before = _state(lake)
            load_days(lake, settings, [date.fromisoformat(str(day)) for day in again], surfaces)
            if _state(lake) != before:
                yield "landing again changed something"
            yield from _counted(case, lake)
            yield from _read(case, lake)
    yield from _labels(case, settings)


def _landed(lake: Lake, day: date) -> bool:
    query = f"select count(*) from {ALIAS}.landing.ledger where day = ? and table_name = 'exposures'"
    [(count,)] = lake.connection.execute(query, [day]).fetchall()
    return bool(count)


def _state(lake: Lake) -> list[tuple[Any, ...]]:
    tables = [f"{schema}.{name}" for schema, name in lake.tables() if schema == "landing" and name != "ledger"]
    ledger = f"(select * exclude (landed_at) from {ALIAS}.landing.ledger)"
    return [(table, *lake.content_hash(table)) for table in tables] + [lake.content_hash(ledger)]


def _counted(case: Case, lake: Lake) -> Iterator[str]:
    query = (
        f"select sum(rows_in), sum(rows_loaded), sum(rows_quarantined) from {ALIAS}.landing.ledger "
        "where table_name = ? and day in (select unnest(?::date[]))"
    )
    days = case.days[:-1] if case.expect.get("next_day_lands") or case.expect.get("labels") else case.days
    days = days if len(case.days) > 1 else case.days
    [found] = lake.connection.execute(query, [case.table, days]).fetchall()
    for (name, wanted), count in zip(case.expect.get("counts", {}).items(), found, strict=True):
        least, most = wanted if isinstance(wanted, list) else (wanted, wanted)
        if not least <= (count or 0) <= most:
            yield f"{name}: {count}, not {wanted}"
    if found[0] != found[1] + found[2]:
        yield f"counts do not add up: {found}"


def _read(case: Case, lake: Lake) -> Iterator[str]:
    key = KEYS[case.table]
    for name, wanted in case.expect.get("rows", {}).items():
        query = f"select * from {ALIAS}.landing.{case.table} where {key} = ? and day in (select unnest(?::date[]))"
        loaded = lake.sql(query, [name, case.days]).to_pylist()
        if loaded and wanted["is"] == "refused":
            yield f"{name}: loaded, must be refused"
        elif loaded:
            yield from _values(name, loaded[0], wanted)
        elif wanted["is"] == "loaded":
            yield f"{name}: not loaded; quarantine has {_refused(case, lake, wanted)}"
        elif not any(re.search(wanted["why"], reason, re.IGNORECASE) for reason in _refused(case, lake, wanted)):
            yield f"{name}: reason is not {wanted['why']}: {_refused(case, lake, wanted)}"


def _values(name: str, row: dict[str, Any], wanted: dict[str, Any]) -> Iterator[str]:
    if "day" in wanted and str(row["day"]) != str(wanted["day"]):
        yield f"{name}: in day {row['day']}, not {wanted['day']}"
    for column, value in wanted.get("values", {}).items():
        found = row[column]
        if isinstance(found, datetime):
            found = found.isoformat(" ", "microseconds")
        if found != value:
            yield f"{name}.{column}: {found!r}, not {value!r}"


def _refused(case: Case, lake: Lake, wanted: dict[str, Any]) -> list[str]:
    query = (
        f"select file, row_number, reason from {ALIAS}.landing.quarantine "
        "where table_name = ? and day in (select unnest(?::date[]))"
    )
    rows = lake.connection.execute(query, [case.table, case.days]).fetchall()
    at, file = wanted.get("at"), wanted.get("file", "")
    return [reason for path, number, reason in rows if at in (None, number) and path.endswith(file)]


def _labels(case: Case, settings: Settings) -> Iterator[str]:
    labels = case.expect.get("labels", ())
    if not labels:
        return
    surfaces, start = load_surfaces(settings), min(case.days)
    arguments = build_arguments(settings, surfaces, ("base", "ranking"), start, max(case.days))
    run_dbt(settings, [*arguments, "--exclude-resource-types", "test"])
    with Lake(settings) as lake:
        for wanted in labels:
            query = f"select * from {ALIAS}.features.examples_{wanted['surface']} where day = ? and ts = ?::timestamp"
            rows = lake.sql(query, [wanted["day"], wanted["ts"]]).to_pylist()
            if not rows and wanted.get("absent") != "allowed":
                yield f"labels: no row at {wanted['ts']}"
            for column in wanted.keys() - {"surface", "day", "ts", "absent"}:
                yield from (
                    f"labels at {wanted['ts']}: {column} {row[column]!r}, not {wanted[column]!r}"
                    for row in rows
                    if row[column] != wanted[column]
                )


def run(folder: Path, home: Path, names: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """Land all cases of a folder, or some, into one home; return {case: what is not as it must be}."""
    settings = settings_of(folder, home)
    found: dict[str, list[str]] = {}
    for case in cases(folder):
        name = case.folder.name
        if names and name not in names:
            continue
        # Features ask for every day since the first: a case that asks for labels has a home of its own.
        own = {"home": home / name, "landing_dir": home / name / "landing", "first_day": min(case.days)}
        at = settings.model_copy(update=own) if case.expect.get("labels") else settings
        try:
            found[name] = list(faults(case, folder / "_ordinary", at))
        except Exception:
            found[name] = [traceback.format_exc(limit=-4)]
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        told = run(Path(sys.argv[1]), Path(scratch), tuple(sys.argv[2:]))
    for name, lacks in told.items():
        print(f"{'ok  ' if not lacks else 'BAD '} {name}", *(f"      {line}" for line in lacks), sep="\n")
    sys.exit(any(told.values()))
