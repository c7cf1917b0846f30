"""What a change of SQL, YAML or contract would build again: days of tables, soft labels, students; nothing is done."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from datetime import date
from functools import partial

from ml.features.tables import VECTORS_TABLE, vector_tables
from ml.foundation.artifacts import ArtifactStore
from ml.foundation.documents import Document
from ml.foundation.lake import ALIAS, FEATURES, Lake
from ml.foundation.settings import Settings
from ml.stages.artifacts import artifact_name
from ml.surfaces.files import load_surfaces
from ml.surfaces.spec import Surface
from ml.teacher.contract import Contract, ContractError
from ml.teacher.labels import exposure_rows, soft_labels_table, unlabelled_days, unshown_rows
from ml.teacher.teachers import contracts_of, home_contracts
from ml.teacher.vectors import unembedded_days

Manifest = Document
"""What dbt's parser wrote."""


@dataclass(frozen=True)
class Rebuild:
    """Something that would be built again.

    Attributes:
        what: Table, soft labels or students.
        days: How many days, or partitions, of it there are.
        first: The first of them.
        last: The last of them.
        why: What changed.
    """

    what: str
    days: int
    first: date
    last: date
    why: str


def changed_models(before: Manifest, now: Manifest) -> dict[str, str]:
    """Return {model of ``now``: why} of those that would hold other rows: changed ones, and all that read them.

    A model changes with its SQL, with a macro that it calls, however deep, and with what its feature table declares.
    """
    macros = _changed_macros(before["macros"], now["macros"])
    old = before["nodes"]
    why: dict[str, str] = {}
    nodes = {id: node for id, node in now["nodes"].items() if node["resource_type"] == "model"}
    for id, node in nodes.items():
        if id not in old:
            why[id] = "it is new"
        elif old[id]["raw_code"] != node["raw_code"]:
            why[id] = "its SQL"
        elif called := macros & set(node["depends_on"]["macros"]):
            why[id] = f"macro {min(called).split('.')[-1]}"
        elif _declared(old[id]) != _declared(node):
            why[id] = "what its YAML declares"
    waiting = list(why)
    while waiting:
        parent = waiting.pop()
        for id, node in nodes.items():
            if id not in why and parent in node["depends_on"]["nodes"]:
                why[id] = f"it reads {nodes[parent]['name']}"
                waiting.append(id)
    return {nodes[id]["name"]: reason for id, reason in why.items()}


def _changed_macros(before: Document, now: Document) -> Set[str]:
    """Return the macros whose text differs, and those that call them."""
    changed = {id for id, macro in now.items() if id not in before or before[id]["macro_sql"] != macro["macro_sql"]}
    while more := {
        id for id, macro in now.items() if id not in changed and changed & set(macro["depends_on"]["macros"])
    }:
        changed |= more
    return changed


def _declared(node: Document) -> tuple[object, ...]:
    """Return what a model says of itself as a feature table."""
    meta = node["config"].get("meta") or {}
    names = {name: (column.get("meta") or {}).get("as") for name, column in node["columns"].items()}
    entity = meta.get("entity")
    return (entity, meta.get("as"), meta.get("default"), names if entity else None)


def plan(settings: Settings, changed: Mapping[str, str]) -> Iterator[Rebuild]:
    """Yield what would be built again of what the home holds.

    Args:
        settings: The home, with the app's files as they are now.
        changed: {model: why}, as ``changed_models`` returns it.
    """
    surfaces = load_surfaces(settings)
    with Lake(settings) as lake:
        for name, why in sorted(changed.items()):
            yield from _days_of(lake, f"{FEATURES}.{name}", why)
        for surface in surfaces:
            if why := changed.get(f"teacher_inputs_{surface}"):
                told = f"rows whose teacher inputs change: {why}"
                yield from _days_of(lake, soft_labels_table(surface), told)
    yield from _vectors(settings, surfaces)
    for surface in surfaces.values():
        yield from (labels := list(_labels(settings, surface)))
        yield from _students(settings, surface, changed, labels[0].why if labels else "")
        yield from _ranked(settings, surface, changed)


def _days_of(lake: Lake, table: str, why: str) -> Iterator[Rebuild]:
    if not lake.table_exists(table):
        return
    row = lake.connection.execute(f"select count(distinct day), min(day), max(day) from {ALIAS}.{table}").fetchone()
    if row and row[0]:
        yield Rebuild(table, row[0], row[1], row[2], why)


def _labels(settings: Settings, surface: Surface) -> Iterator[Rebuild]:
    """Yield the labelled days that a teacher of now has not labelled, and those of pairs that nobody was shown."""
    last = settings.last_day or date.max
    what = [exposure_rows, *([unshown_rows] if surface.distillation.unshown else [])]
    for contract in _pinned(settings, partial(contracts_of, settings, surface)):
        for rows_of in what:
            if days := unlabelled_days(settings, [surface.name], contract, settings.first_day, last, rows_of):
                why = f"no label of {contract.name} {contract.version} with this contract and model"
                yield Rebuild(rows_of(surface.name).labels, len(days), days[0], days[-1], why)


def _vectors(settings: Settings, surfaces: Mapping[str, Surface]) -> Iterator[Rebuild]:
    """Yield the days of which features need a teacher's vectors, and have none of it as it is now."""
    if not vector_tables(settings):
        return
    last = settings.last_day or date.max
    for contract in _pinned(settings, partial(home_contracts, settings)):
        if contract.embeddings and (days := unembedded_days(settings, surfaces, contract, settings.first_day, last)):
            why = f"no vector of {contract.name} {contract.version} with this contract and model"
            yield Rebuild(VECTORS_TABLE, len(days), days[0], days[-1], why)


def _pinned(
    settings: Settings, contracts: Callable[[], Mapping[str, Contract] | Mapping[str | None, Contract]]
) -> Iterable[Contract]:
    """Return contracts; none where the demo teacher was not trained yet."""
    try:
        return contracts().values()
    except ContractError:
        if settings.trains_demo_teacher:
            return ()
        raise


def _ranked(settings: Settings, surface: Surface, changed: Mapping[str, str]) -> Iterator[Rebuild]:
    """Yield the ranked days whose candidates or place were declared otherwise; the next ranked day is as of now."""
    if surface.rankings is None:
        return
    from ml.stages.rankings import RANKED_DAYS, declared

    now, model = declared(settings, surface), surface.rankings.model
    with Lake(settings) as lake:
        if not lake.table_exists(RANKED_DAYS):
            return
        query = f"select day, declared from {ALIAS}.{RANKED_DAYS} where surface = ? order by day"
        days = [(day, before) for day, before in lake.connection.execute(query, [surface.name]).fetchall()]
    for why, found in {
        "its candidates' query, top_k or place": [day for day, before in days if before != now],
        f"model {model}: {changed.get(model or '')}": [day for day, _ in days if model in changed],
    }.items():
        if found:
            yield Rebuild(f"{surface.name}/rankings", len(found), found[0], found[-1], why)


def _students(settings: Settings, surface: Surface, changed: Mapping[str, str], labels: str) -> Iterator[Rebuild]:
    store, name = ArtifactStore(settings.artifacts_dir), artifact_name(surface, "student")
    why = changed.get(f"examples_{surface.name}") or changed.get(f"teacher_inputs_{surface.name}")
    found: dict[str, list[date]] = {}
    for partition in store.partitions(name):
        artifact = store.latest(name, partition)
        other = artifact is not None and artifact.json("checkpoint.json")["surface_digest"] != surface.digest
        told = f"its rows: {why}" if why else f"its labels: {labels}" if labels else ""
        if reason := "the surface's YAML" if other else told:
            found.setdefault(reason, []).append(date.fromisoformat(partition))
    for reason, days in found.items():
        yield Rebuild(f"{surface.name}/student", len(days), min(days), max(days), reason)
