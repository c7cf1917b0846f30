"""Experiments in a home's own tables: landed exposures that carry a variant, and live experiments run here."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import pyarrow as pa

from ml.evaluation.plots import data_uri
from ml.experiments.analysis import Effect, effects, effects_by_day, where
from ml.experiments.plots import days_plot
from ml.experiments.user_days import METRICS, NEW_RELEASE_DAYS, USER_DAYS_TABLE
from ml.foundation.lake import ALIAS, FEATURES, ML, Lake
from ml.surfaces.spec import Surface

LANDED = "landed"
CONTROL = "control"
"""Variant that the others are compared with; without it, the first by name."""


@dataclass(frozen=True)
class Analysed:
    """What the experiments of a surface say.

    Attributes:
        numbers: To plot, by name.
        plots: Data URIs by name.
        summary: In Markdown.
        digest: Of the rows.
    """

    numbers: dict[str, float]
    plots: dict[str, str]
    summary: str
    digest: str


def landed_table(surface: Surface) -> str:
    """Return the table of a surface's landed experiment: one row per day, variant and user."""
    return f"{ML}.experiment_{surface.name}"


def record_landed(lake: Lake, surface: Surface, days: Sequence[date]) -> pa.Table:
    """Sum the final examples of days whose exposures carry a variant, record them in the lake and return them.

    Engagement is seconds of the trails after clicks where the surface has that label, else labelled engagement; a
    discovery is labelled as such, else engagement with a creator whom the user did not know; new releases are at most a
    week old. What counts as a request is a session, since exposures do not say what was asked for together.

    Args:
        lake: Holds ``features.examples_<surface>`` and ``features.stg_exposures``.
        surface: The surface.
        days: Days to record; their rows are replaced.

    Returns:
        Columns ``surface``, ``world`` (0), ``arm``, ``estimate`` (``split``), ``day``, ``user_id``, ``requests``,
        ``exposures`` and ``METRICS``.
    """
    examples = f"{FEATURES}.examples_{surface.name}"
    values = _values(set(lake.columns(examples)))
    # Summed as integers: parallel sums of doubles differ from run to run.
    sums = ", ".join(f"sum(round(1000 * coalesce({values[m]}, 0))::bigint)::double / 1000 as {m}" for m in METRICS)
    rows = lake.sql(
        f"select ?::varchar as surface, 0::bigint as world, shown.arm, 'split' as estimate, examples.day, "
        f"examples.user_id, count(distinct examples.session_id)::bigint as requests, count(*)::bigint as exposures, "
        f"{sums} from {ALIAS}.{examples} as examples inner join {ALIAS}.{FEATURES}.stg_exposures as shown "
        "on examples.day = shown.day and examples.exposure_id = shown.exposure_id "
        "where examples.day in (select unnest(?::date[])) and shown.arm is not null and examples.user_id is not null "
        "group by all order by day, arm, user_id",
        [surface.name, list(days)],
    )
    if len(rows) or lake.table_exists(landed_table(surface)):
        lake.replace_days(landed_table(surface), rows, days)
    return rows


def analyse(lake: Lake, surface: Surface, days: Sequence[date]) -> Analysed:
    """Analyse the landed experiment of some days, and every live experiment of the surface that this home holds.

    Args:
        lake: The home's lake; landed rows are recorded in it.
        surface: The surface.
        days: Days whose landed exposures count.
    """
    rows = {LANDED: record_landed(lake, surface, days), **_live(lake, surface)}
    numbers: dict[str, float] = {f"{LANDED}_users": float(len(rows[LANDED]["user_id"].unique()))}
    plots: dict[str, str] = {}
    lines: list[str] = []
    for name, table in rows.items():
        variants = sorted(table["arm"].unique().to_pylist())
        if len(variants) < 2:
            continue
        baseline = CONTROL if CONTROL in variants else variants[0]
        found, by_day = effects(table, baseline), effects_by_day(table, baseline)
        lines += [_line(name, effect) for effect in found]
        numbers |= {f"{name}_{e.variant}_{e.metric}_{e.estimate}_percent": 100 * e.lift.estimate for e in found}
        plots |= {
            f"{name}_{variant}_by_day": data_uri(days_plot(by_day, surface.name, variant))
            for variant in variants
            if variant != baseline
        }
    landed = sorted(rows[LANDED]["arm"].unique().to_pylist())
    if len(landed) < 2:
        what = f"only the variant {landed[0]!r}" if landed else "no variant"
        lines.append(f"\n{what} in the exposures of {surface.name} from {min(days)} to {max(days)}")
    header = (
        "| experiment | variant | figure | estimate | lift, % | 95 % interval | users |\n|---|---|---|---|---|---|---|"
    )
    tabled = any(line.startswith("|") for line in lines)
    summary = "\n".join([header, *lines] if tabled else [line.strip() for line in lines])
    digest = hashlib.sha256(summary.encode()).hexdigest()[:32]
    return Analysed({k: v for k, v in numbers.items() if v == v}, plots, summary, digest)


def _live(lake: Lake, surface: Surface) -> dict[str, pa.Table]:
    """Return {experiment: rows} of the live experiments of a surface."""
    if not lake.table_exists(USER_DAYS_TABLE):
        return {}
    rows = lake.sql(
        f"select * from {ALIAS}.{USER_DAYS_TABLE} where surface = ? "
        "order by name, estimate desc, world, arm, day, user_id",
        [surface.name],
    )
    return {name: where(rows, name=name) for name in rows["name"].unique().to_pylist()}


def _values(columns: set[str]) -> dict[str, str]:
    """Return the SQL expression of each metric on the columns of a surface's examples."""
    if "label_trail" in columns:
        engagement = "exp(examples.label_trail) - 1"
    elif "label_engagement" in columns:
        engagement = "examples.label_engagement"
    else:
        engagement = next(f"examples.{name}" for name in sorted(columns) if name.startswith("label_"))
    return {
        "engagement": engagement,
        "discovery": "examples.label_discovery"
        if "label_discovery" in columns
        else f"case when examples.user_creator_known = 0 then {engagement} end",
        "new_releases": f"case when examples.item_age_days <= {NEW_RELEASE_DAYS} then {engagement} end",
    }


def _line(name: str, effect: Effect) -> str:
    lift = effect.lift
    return (
        f"| {name} | {effect.variant} - {effect.baseline} | {effect.metric.replace('_', ' ')} | {effect.estimate} "
        f"| {100 * lift.estimate:+.2f} | {100 * lift.lo:+.2f} to {100 * lift.hi:+.2f} | {effect.users:,} |"
    )
