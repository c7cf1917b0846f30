"""Pairs that nobody was shown: users of a day's exposures with items of other exposures of that day.

Which pairs follows from day, surface and rule alone. What is known of a pair is what the SQL of the app says of it: the
queries of ``examples_<surface>`` and ``teacher_inputs_<surface>`` run over the pairs in the place of the exposures, so
that the user, the item and the two together are as of the exposure's time. What such a query finds by the exposure's id
is of the item that was shown, not of the pair, and is null.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import duckdb

from ml.features.build import build_ranges, dbt_vars, run_dbt
from ml.foundation.lake import ALIAS, FEATURES, Lake, escaped, quoted
from ml.foundation.progress import Progress, Step, silent
from ml.foundation.settings import Settings
from ml.surfaces.learning import Unshown
from ml.surfaces.spec import Surface

_DRAWS = 3
"""Draws per wanted pair: some give a pair that was shown, or the same one again."""
_EXPOSURES, _PAIRS, _STANDINS = "stg_exposures", "unshown_pairs", "unshown_exposures"


class UnshownError(ValueError):
    """Pairs that cannot be drawn; the message names the surface and what to do."""


@dataclass(frozen=True)
class Drawn:
    """Pairs of some days.

    Attributes:
        pairs: {day: pairs that were drawn}.
        wanted: {day: pairs that the rule asks for}; fewer are drawn where a user was shown nearly every item.
        unknown: {input: share of the pairs for which the app's SQL knows nothing}, of the branch's inputs.
    """

    pairs: Mapping[date, int]
    wanted: Mapping[date, int]
    unknown: Mapping[str, float]


def unshown_table(surface: str) -> str:
    """Return ``schema.table`` of a surface's pairs, with the inputs of a student's branch."""
    return f"{FEATURES}.unshown_{surface}"


def unshown_inputs_table(surface: str) -> str:
    """Return ``schema.table`` of the teacher's inputs of a surface's pairs."""
    return f"{FEATURES}.unshown_teacher_inputs_{surface}"


def draw_pairs(
    lake: Lake,
    surfaces: Mapping[str, Surface],
    surface: Surface,
    days: Sequence[date],
    *,
    parsed: Path | None = None,
    progress: Progress = silent,
) -> Drawn:
    """Replace the pairs of some days by those of the surface's rule, with what student and teacher know of them.

    Args:
        lake: The lake, with base and feature tables of these days.
        surfaces: The home's surfaces, for the variables of dbt.
        surface: The one whose pairs are drawn.
        days: Consecutive days.
        parsed: As in ``run_dbt``.
        progress: Told after each range of days.

    Raises:
        UnshownError: The surface declares no pairs, or the app's SQL gives another number of rows than there are pairs.
        DbtError: The app's SQL does not compile.
    """
    rule = _rule(surface)
    pairs, wanted, done = dict.fromkeys(days, 0), dict.fromkeys(days, 0), 0
    for first, last in build_ranges(lake, days, share=rule.per_exposure):
        counts = _draw(lake, surface, first, last)
        queries = compiled_queries(lake.settings, surfaces, surface, first, last, parsed)
        try:
            _write(lake, surface, queries, first, last)
        except duckdb.BinderException as error:  # a column that the app's SQL does not have
            raise UnshownError(f"{surface.name}: no inputs of pairs: {' '.join(str(error).split())}") from error
        pairs |= {day: n for day, n, _ in counts}
        wanted |= {day: n for day, _, n in counts}
        done += (last - first).days + 1
        progress(Step(unshown_table(surface.name), done, len(days), line=f"{first} to {last}, {sum(pairs.values()):,}"))
    return Drawn(pairs, wanted, _unknown(lake, surface, days))


def compiled_queries(
    settings: Settings, surfaces: Mapping[str, Surface], surface: Surface, first: date, last: date, parsed: Path | None
) -> tuple[str, str]:
    """Return the queries of the surface's examples and of its teacher's inputs, over the pairs of some days."""
    models = [f"examples_{surface.name}", f"teacher_inputs_{surface.name}"]
    variables = json.dumps(dbt_vars(settings, surfaces, first, last))
    # By its folder: dbt prints the SQL of what the first selector names.
    selected = [f"fqn:surfaces.{surface.name}", _EXPOSURES, "--exclude", "resource_type:test"]
    arguments = ["compile", "--select", *selected, "--vars", variables]
    nodes = {result.node.name: result.node for result in run_dbt(settings, arguments, parsed=parsed)}
    if missing := [name for name in (_EXPOSURES, *models) if name not in nodes]:
        raise UnshownError(f"{surface.name}: the app has no model {missing[0]!r}")
    exposures = str(nodes[_EXPOSURES].relation_name)
    examples, inputs = (str(getattr(nodes[name], "compiled_code", "")).replace(exposures, _STANDINS) for name in models)
    return examples, inputs


def drawn_by(lake: Lake, surface: str, days: Sequence[date]) -> dict[date, set[str]]:
    """Return {day: rules by which its pairs were drawn}; a day without pairs is not there."""
    if not lake.table_exists(unshown_table(surface)):
        return {}
    query = f"select distinct day, drawn_by from {ALIAS}.{unshown_table(surface)} where day in (select unnest(?))"
    found: dict[date, set[str]] = {}
    for day, rule in lake.connection.execute(query, [list(days)]).fetchall():
        found.setdefault(day, set()).add(rule)
    return found


def _rule(surface: Surface) -> Unshown:
    if surface.distillation.unshown is None:
        raise UnshownError(f"surface {surface.name} declares no distillation.unshown, so there are no pairs to draw")
    return surface.distillation.unshown


def _draw(lake: Lake, surface: Surface, first: date, last: date) -> list[tuple[date, int, int]]:
    """Make the temporary tables of pairs, and of pairs as exposures; return (day, pairs, wanted pairs)."""
    rule, name = _rule(surface), escaped(surface.name)
    exposures, between = f"{ALIAS}.{FEATURES}.{_EXPOSURES}", f"between date '{first}' and date '{last}'"
    pools = {"uniform": "group by day, item_id", "popular": "group by day, item_id, exposure_id"}
    order = {"uniform": "item_id", "popular": "exposure_id"}[rule.rule]
    window = lake.settings.feature_window_days
    run = lake.connection.execute
    run(f"""
        create or replace temp table {_PAIRS} as
        with e as (select * from {exposures} where day {between} and surface = '{name}'),
        pool as (
            select day, item_id, min(landed_item_id) as landed_item_id,
                row_number() over (partition by day order by {order}) - 1 as place
            from e {pools[rule.rule]}
        ),
        sizes as (select day, count(*) as n from pool group by day),
        draws as (
            select e.day, e.exposure_id, e.user_id, t.attempt,
                (md5_number_lower(concat_ws('|', '{name}', e.day, e.exposure_id, t.attempt)) % n)::bigint as place
            from e inner join sizes using (day) cross join range({_DRAWS * rule.per_exposure}) as t (attempt)
        ),
        shown as (
            select distinct day, user_id, item_id from {exposures}
            where day between date '{first - timedelta(days=window)}' and date '{last}'
        ),
        fresh as (
            select d.day, d.exposure_id, pool.item_id, pool.landed_item_id, min(d.attempt) as attempt
            from draws as d
            inner join pool on pool.day = d.day and pool.place = d.place
            anti join shown as s on s.user_id = d.user_id and s.item_id = pool.item_id
                and s.day between d.day - {window} and d.day
            group by all
        )
        select * exclude (attempt),
            (md5_number_lower(concat_ws('|', exposure_id, item_id)) & {2**63 - 1}::ubigint)::bigint as pair_id
        from fresh
        qualify row_number() over (partition by day, exposure_id order by attempt) <= {rule.per_exposure}""")
    run(f"""
        create or replace temp table {_STANDINS} as
        select e.* replace (
            p.pair_id as exposure_id, null::varchar as landed_exposure_id,
            p.item_id as item_id, p.landed_item_id as landed_item_id
        ) from {exposures} as e inner join {_PAIRS} as p on p.day = e.day and p.exposure_id = e.exposure_id
        where e.day {between}""")
    return run(f"""
        select day, coalesce(n, 0), {rule.per_exposure} * shown from (
            select day, count(*) as shown from {exposures} where day {between} and surface = '{name}' group by day
        ) left join (select day, count(*) as n from {_PAIRS} group by day) using (day)""").fetchall()


def _write(lake: Lake, surface: Surface, queries: tuple[str, str], first: date, last: date) -> None:
    """Replace the days [first, last] of both tables in one commit."""
    examples, inputs = queries
    known = dict.fromkeys(["ts", "user_id", "item_id", *surface.branch_inputs])
    rule = escaped(str(surface.distillation.unshown))
    chosen = ", ".join(f"c.{quoted(name)}" for name in known)
    of_pair = f"inner join {_PAIRS} as p on p.day = c.day and p.pair_id = c.exposure_id"
    wanted = {
        unshown_table(surface.name): f"select c.day, p.pair_id, p.exposure_id, '{rule}' as drawn_by, {chosen} "
        f"from (\n{examples}\n) as c {of_pair}",
        unshown_inputs_table(surface.name): f"select c.* replace (p.exposure_id as exposure_id), p.pair_id "
        f"from (\n{inputs}\n) as c {of_pair}",
    }
    [(pairs,)] = lake.connection.execute(f"select count(*) from {_PAIRS}").fetchall()
    for table, query in wanted.items():
        lake.add_columns(table, lake.sql(f"select * from ({query}) limit 0").schema)

    def step() -> None:
        with lake.transaction(f"{unshown_table(surface.name)}: {first} to {last}") as c:
            for table, query in wanted.items():
                if not lake.table_exists(table):
                    c.execute(f"create table {ALIAS}.{table} as select * from ({query}) limit 0")
                    c.execute(f"alter table {ALIAS}.{table} set partitioned by (day)")
                c.execute(f"delete from {ALIAS}.{table} where day between ? and ?", [first, last])
                [(written,)] = c.execute(f"insert into {ALIAS}.{table} by name {query}").fetchall()
                if written != pairs:
                    raise UnshownError(
                        f"{table}: the app's SQL gives {written} rows for {pairs} pairs: let it read exposures through "
                        f"ref('{_EXPOSURES}'), and join what else it reads so that each exposure keeps its row"
                    )

    lake.retry(step)


def _unknown(lake: Lake, surface: Surface, days: Sequence[date]) -> dict[str, float]:
    table = f"{ALIAS}.{unshown_table(surface.name)}"
    shares = ", ".join(f"avg(({quoted(name)} is null)::integer)" for name in surface.branch_inputs)
    query = f"select {shares} from {table} where day in (select unnest(?))"
    if not lake.table_exists(unshown_table(surface.name)):
        return {}
    [found] = lake.connection.execute(query, [list(days)]).fetchall()
    return {name: float(share or 0.0) for name, share in zip(surface.branch_inputs, found, strict=True)}
