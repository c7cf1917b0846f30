"""Experiments in a home's own tables: landed exposures that carry a variant, and live experiments run here."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import pyarrow as pa

from ml.evaluation.plots import data_uri
from ml.experiments.analysis import Effect, effects, effects_by_day, where
from ml.experiments.lift import MIN_USERS
from ml.experiments.looks import SPLIT, Look, Looks, look_daily
from ml.experiments.plots import days_plot
from ml.experiments.user_days import METRICS, NEW_RELEASE_DAYS, USER_DAYS_TABLE
from ml.foundation.lake import ALIAS, FEATURES, ML, Lake
from ml.inference.interleaving import INTERLEAVED, TEAMS
from ml.surfaces.spec import Surface

LANDED = "landed"
CONTROL = "control"
"""Variant that the others are compared with; without it, the first by name."""

HISTORY_DAYS = 28
"""Days before the start whose figures of a user explain part of what the user does after it."""


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
    week old. What counts as a request is a session, since exposures do not say what was asked for together. Exposures
    of answers that two rankers gave together are credited to whose picks they are; both have the user's requests.

    Args:
        lake: Holds ``features.examples_<surface>`` and ``features.stg_exposures``.
        surface: The surface.
        days: Days to record; their rows are replaced.

    Returns:
        Columns ``surface``, ``world`` (0), ``arm``, ``estimate`` (``split`` or ``interleaved``), ``day``, ``user_id``,
        ``requests``, ``exposures`` and ``METRICS``.
    """
    shown = (
        f"inner join {ALIAS}.{FEATURES}.stg_exposures as shown "
        "on examples.day = shown.day and examples.exposure_id = shown.exposure_id"
    )
    names = "?::varchar as surface, 0::bigint as world, examples.day, {arm}, '{estimate}' as estimate, examples.user_id"
    condition = "examples.day in (select unnest(?::date[])) and {not_}starts_with(shown.arm, '" + INTERLEAVED + "')"
    teams = " cross join (values " + ", ".join(f"('{team}')" for team in TEAMS) + ") as team(arm)"
    parameters = [surface.name, list(days)]
    split = _summed(
        lake,
        surface,
        names.format(arm="shown.arm", estimate=SPLIT),
        shown,
        condition.format(not_="not "),
        parameters,
    )
    together = _summed(
        lake,
        surface,
        names.format(arm="team.arm", estimate="interleaved"),
        shown + teams,
        condition.format(not_=""),
        parameters,
        counted=f"shown.arm = '{INTERLEAVED}' || team.arm",
    )
    rows = pa.concat_tables([split, together])
    if len(rows) or lake.table_exists(landed_table(surface)):
        lake.replace_days(landed_table(surface), rows, days)
    return rows


def user_days(lake: Lake, surface: Surface, first: date, last: date) -> pa.Table:
    """Return what every user did on each day with final examples, whatever variant was shown.

    Args:
        lake: Holds ``features.examples_<surface>``.
        surface: The surface.
        first: First day.
        last: Last day, included.

    Returns:
        Columns ``day``, ``user_id``, ``requests``, ``exposures`` and ``METRICS``; empty where no example was built.
    """
    if not lake.table_exists(f"{FEATURES}.examples_{surface.name}"):
        names = [("day", pa.date32()), *((name, pa.int64()) for name in ("user_id", "requests", "exposures"))]
        return pa.schema([*names, *((metric, pa.float64()) for metric in METRICS)]).empty_table()
    return _summed(
        lake,
        surface,
        "examples.day, examples.user_id",
        "",
        "examples.day between ? and ?",
        [first, last],
    )


def _summed(
    lake: Lake,
    surface: Surface,
    names: str,
    join: str,
    condition: str,
    parameters: Sequence[object],
    *,
    counted: str = "true",
) -> pa.Table:
    """Return requests, exposures and ``METRICS`` of the examples of known users, grouped by ``names``.

    Examples that are not ``counted`` add to requests alone.
    """
    examples = f"{FEATURES}.examples_{surface.name}"
    values = _values(set(lake.columns(examples)))
    # Summed as integers: parallel sums of doubles differ from run to run.
    sums = ", ".join(
        f"sum(case when {counted} then round(1000 * coalesce({values[m]}, 0))::bigint else 0 end)::double / 1000 as {m}"
        for m in METRICS
    )
    return lake.sql(
        f"select {names}, count(distinct examples.session_id)::bigint as requests, "
        f"count_if({counted})::bigint as exposures, "
        f"{sums} from {ALIAS}.{examples} as examples {join} where {condition} and examples.user_id is not null "
        "group by all order by all",
        parameters,
    )


def present_experiment(lake: Lake, surface: Surface, through: date) -> pa.Table | None:
    """Return the recorded rows of the landed experiment that runs on a day, from its start through that day.

    It began on the first of the unbroken days on which the same variants were shown; None where fewer than two were.

    Args:
        lake: Holds what ``record_landed`` recorded.
        surface: The surface.
        through: The day.
    """
    if not lake.table_exists(landed_table(surface)):
        return None
    rows = lake.sql(
        f"select * from {ALIAS}.{landed_table(surface)} where day <= ? order by day, arm, user_id", [through]
    )
    shown: dict[date, set[str]] = {}
    for day, arm in zip(rows["day"].to_pylist(), rows["arm"].to_pylist(), strict=True):
        shown.setdefault(day, set()).add(arm)
    start, variants = through, shown.get(through, set())
    if len(variants) < 2:
        return None
    while shown.get(start - timedelta(days=1)) == variants:
        start -= timedelta(days=1)
    return rows.filter(pa.array([day >= start for day in rows["day"].to_pylist()]))


def look_landed(lake: Lake, surface: Surface, through: date) -> Looks | None:
    """Look at the landed experiment that runs on a day, on each day since its start; None where none runs.

    Args:
        lake: Holds what ``record_landed`` recorded, and the examples of the days before.
        surface: Says how users should be split, and which difference is expected.
        through: The last day that counts.
    """
    rows = present_experiment(lake, surface, through)
    if rows is None:
        return None
    start = min(rows["day"].to_pylist())
    history = user_days(lake, surface, start - timedelta(days=HISTORY_DAYS), start - timedelta(days=1))
    return look_daily(
        rows,
        _baseline(rows),
        history,
        shares=surface.experiment.shares or None,
        expected=surface.experiment.expected_lift,
    )


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
    looks = look_landed(lake, surface, max(days))
    refused = looks is not None and looks.ratio is not None and looks.ratio.refused
    for name, table in rows.items():
        variants = sorted(table["arm"].unique().to_pylist())
        if len(variants) < 2 or (refused and name == LANDED):
            continue
        baseline = _baseline(table)
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
    if looks is not None:
        summary = "\n\n".join(part for part in (looks_summary(looks), summary) if part)
        numbers |= {"landed_sample_ratio_p": looks.ratio.p} if looks.ratio else {}
    digest = hashlib.sha256(summary.encode()).hexdigest()[:32]
    return Analysed({k: v for k, v in numbers.items() if v == v}, plots, summary, digest)


def looks_summary(looks: Looks) -> str:
    """Return what an experiment's last look says, in Markdown: the split first, then each figure."""
    lines = [f"**{looks.ratio}**" if looks.ratio.refused else str(looks.ratio)] if looks.ratio else []
    if looks.looks:
        lines.append(
            f"Day {len(looks.days)} of the experiment, {looks.days[0]} to {looks.days[-1]}. These intervals hold "
            "however often one looks; who stops at the first that leaves 0 out errs in at most 5 % of the experiments "
            "without effect. Decide by one figure, chosen before the start."
        )
        header = "| variant | figure | lift, % | 95 % at every look | users | variance left | decided |"
        lines.append("\n".join([header, "|---|---|---|---|---|---|---|", *(_look(looks, k) for k in looks.last())]))
    elif looks.ratio and not looks.ratio.refused:
        lines.append(f"fewer than {MIN_USERS} users in a variant: no daily look yet")
    return "\n\n".join(lines)


def _look(looks: Looks, look: Look) -> str:
    decided = looks.decided_on(look)
    return (
        f"| {look.variant} - {looks.baseline} | {look.metric.replace('_', ' ')} | {100 * look.lift.relative:+.2f} "
        f"| {100 * look.lo:+.2f} to {100 * look.hi:+.2f} | {look.users:,} | {look.variance_left:.2f} "
        f"| {decided or 'not yet'} |"
    )


def _baseline(rows: pa.Table) -> str:
    variants = sorted(rows["arm"].unique().to_pylist())
    return CONTROL if CONTROL in variants else variants[0]


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
