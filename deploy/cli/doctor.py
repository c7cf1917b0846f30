"""`crossfade doctor`: looks at everything that an instance directory needs, changes nothing, and says what to do."""

import importlib.metadata
import platform
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime

from packaging.specifiers import SpecifierSet

from assets.manifest import manifest_path
from deploy.cli.findings import require_good, show_findings
from deploy.cli.shared import TablesAsJson
from ml.foundation.cluster import connected
from ml.foundation.code import LOCK, locked_packages
from ml.foundation.keyless import Keyless, UnusableIdentity
from ml.foundation.lake import ALIAS, Lake, OldCatalog, lake_id
from ml.foundation.settings import Settings
from ml.landing.contract import load_contract
from ml.landing.patterns import STORES
from ml.landing.sources import load_sources
from ml.operations.app_files import FILES, landing_fault
from ml.operations.app_files import REMEDIES as OF_FILES
from ml.operations.findings import Examinations, Finding, Look, State
from ml.operations.findings import examine as examine_each
from ml.operations.verify import require_signatures
from ml.releases.ownership import owner_of
from ml.releases.store import ReleaseStore
from ml.surfaces.files import load_surfaces
from ml.teacher.teachers import home_contracts

MIN_FREE_GB = 5.0


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at each part of a home."""
    yield from examine_each(settings, EXAMINATIONS, REMEDIES)


def _python(settings: Settings) -> Look:
    found, wanted = platform.python_version(), tomllib.loads(LOCK.read_text(encoding="utf-8"))["requires-python"]
    if found not in SpecifierSet(wanted):
        return State.DOUBTFUL, f"{found}; the lock is for {wanted}", "make clean install PYTHON=python3.11"
    return State.GOOD, found


def _packages(settings: Settings) -> Look:
    wanted = locked_packages()
    other = []
    for name, version in wanted.items():
        try:
            found = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found = "absent"
        if found != version:
            other.append(f"{name} is {found}, locked is {version}")
    if other:
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        return State.DOUBTFUL, "; ".join(other[:3]) + more, "make install"
    return State.GOOD, f"{len(wanted)} as locked"


def _folder(settings: Settings) -> Look:
    import psutil

    if not settings.home.is_dir():
        return State.BAD, f"{settings.home} is not there", "crossfade init"
    probe = settings.home / ".doctor"
    probe.write_bytes(b"")
    probe.unlink()
    free = psutil.disk_usage(str(settings.home)).free / 1e9
    if free < MIN_FREE_GB:
        return State.DOUBTFUL, f"{settings.home}: {free:.1f} GB are free", "make room: a full disk stops every run"
    return State.GOOD, f"{settings.home}, {free:.0f} GB free"


def _memory(settings: Settings) -> Look:
    import psutil

    memory = psutil.virtual_memory()
    told = f"DuckDB may use {settings.memory_limit} of {memory.total / 1e9:.0f} GB, {settings.threads} threads"
    if memory.available < 4e9:
        return State.DOUBTFUL, f"{told}; {memory.available / 1e9:.1f} GB are available", "lower CROSSFADE_MEMORY_LIMIT"
    return State.GOOD, told


def _catalog(settings: Settings) -> Look:
    if not settings.has_lake:
        return State.BAD, f"{settings.catalog_path} is not there", "crossfade init"
    try:
        lake = Lake(settings)
    except OldCatalog as old:
        return State.BAD, str(old), "crossfade upgrade"
    with lake:
        tables = lake.sql("select count(*) as n from information_schema.tables where table_catalog = ?", [ALIAS])
        return State.GOOD, f"snapshot {lake.snapshot()}, {tables['n'][0].as_py()} tables"


def _version(settings: Settings) -> Look:
    if not settings.has_lake:
        return State.DOUBTFUL, "there is no lake"
    from deploy.upgrade import pending

    found = [f"{step.what}: {'; '.join(told)}" for step, told in pending(settings)]
    if found:
        return State.DOUBTFUL, "\n".join(found), "crossfade upgrade"
    return State.GOOD, "the instance directory is of this version"


def _files(settings: Settings) -> Look:
    if not settings.has_lake:
        return State.DOUBTFUL, "there is no lake"
    with Lake(settings) as lake:
        files = lake.files.named(every=True)
        found = lake.files.check(files, record=False)
    told = f"{found.files:,} files, {found.bytes / 1e6:,.0f} MB, are as they were written"
    if unknown := sum(file.sha256 is None for file in files):
        return State.DOUBTFUL, f"{unknown:,} of {found.files:,} files have no recorded hash", "crossfade verify"
    return State.GOOD, told


def _instance(settings: Settings) -> Look:
    if not (settings.dagster_home / "dagster.yaml").exists():
        return State.BAD, f"{settings.dagster_home} holds no dagster.yaml", "crossfade init"
    from dagster import DagsterInstance

    from deploy.home import pool_limits

    with DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        limits = {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()}
    wanted = pool_limits(settings)
    if wrong := {name: limits.get(name) for name, limit in wanted.items() if limits.get(name) != limit}:
        return State.BAD, f"pool limits are {wrong}, wanted are {wanted}: writers would meet", "crossfade init"
    return State.GOOD, f"pools admit so many steps at a time: {', '.join(f'{n} {k}' for n, k in wanted.items())}"


def _dbt(settings: Settings) -> Look:
    if not manifest_path(settings).exists():
        return State.DOUBTFUL, "the project as it is now was not parsed", "crossfade init"
    return State.GOOD, "parsed as it is"


def _landing(settings: Settings) -> Look:
    contract = load_contract(settings)
    assert settings.landing_dir is not None
    if fault := landing_fault(settings):
        return State.BAD, fault, "crossfade init refuses it"
    asked = {name for name, source in load_sources(settings, contract).tables.items() if source.query}
    if not settings.landing_dir.is_dir() and contract.tables.keys() - asked - set(settings.optional_tables):
        return State.DOUBTFUL, f"{settings.landing_dir} is not there", "set CROSSFADE_LANDING_DIR, or let it be filled"
    from ml.landing.readiness import days_in_zone, missing, strays

    if found := strays(settings):
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        return State.DOUBTFUL, "; ".join(found[:3]) + more, "rename it, or move it out of the landing zone"
    days = days_in_zone(settings)
    if not days:
        return State.DOUBTFUL, f"{settings.landing_dir} has no day", "see docs/how-to/land_your_events.md"
    if waits := missing(settings, days[-1]):
        return State.DOUBTFUL, f"{len(days)} days; {days[-1]} waits: {waits[0]}", "it lands when its files are complete"
    return State.GOOD, f"{len(contract.tables)} tables in the contract, days {days[0]} to {days[-1]}"


def _sources(settings: Settings) -> Look:
    sources = load_sources(settings, load_contract(settings))
    if not sources.tables:
        return State.GOOD, "files"
    from ml.landing.readiness import faults_of_sources

    if found := list(faults_of_sources(settings)):
        return State.BAD, "; ".join(found), "mend what the message names: the query, the variable or the database"
    asked = [name for name, source in sources.tables.items() if source.query]
    buckets = [name for name, source in sources.tables.items() if source.files.startswith(STORES)]
    told = [f"{', '.join(sources.attach)} answer the queries of {', '.join(asked)}"] if asked else []
    told += [f"{', '.join(buckets)} can be listed"] if buckets else []
    return State.GOOD, "; ".join(told) or "files"


def _teacher(settings: Settings) -> Look:
    if settings.trains_demo_teacher and not (settings.teacher and settings.teacher.exists()):
        return State.DOUBTFUL, "the demo teacher was not trained yet", "materialize teacher, or set CROSSFADE_TEACHER"
    contracts = home_contracts(settings).values()
    if any(not contract.scores for contract in contracts):
        from ml.teacher.runtime import faults_of_models

        if faults := list(faults_of_models(contracts, settings.teacher_providers)):
            return State.BAD, "\n".join(faults), REMEDIES["teacher"]
    told: list[str] = []
    for contract in contracts:
        through = f", trained through {contract.trained_through}" if contract.trained_through else ""
        told.append(f"{contract.name} {contract.version}{through}, {len(contract.inputs)} inputs")
    return State.GOOD, "\n".join(told)


def _releases(settings: Settings) -> Look:
    store = ReleaseStore.of(settings)
    owner = owner_of(store.files)
    if owner is not None and owner.lake != (lake := lake_id(settings)):
        told = f"artifacts and releases belong to lake {owner.lake}, this is lake {lake}"
        return State.BAD, told, "set CROSSFADE_ARTIFACTS_URL, or crossfade release adopt"
    for name in store.surfaces():
        store.history(name)
    champions = {name: store.champions.read(name).champion for name in load_surfaces(settings)}
    for name, champion in champions.items():
        if champion is not None:
            store.release(name, champion)
    told = ", ".join(f"{name}: {champion or 'none'}" for name, champion in champions.items())
    if not all(champions.values()):
        return State.DOUBTFUL, told, "materialize the surface up to its release"
    return State.GOOD, told


def _signatures(settings: Settings) -> Look:
    found = require_signatures(settings)
    if not found.required:
        return State.GOOD, f"no key is set: {found.documents} entries and releases count, whoever signed them"
    told = f"{found.documents} entries and releases are signed by {', '.join(found.keys) or 'nobody yet'}"
    keyless = Keyless.of(settings)
    if keyless.trusted:
        told += f"; trusted identities: {keyless.known}"
    if not keyless.signs:
        return State.GOOD, told
    try:
        return State.GOOD, f"{told}; {keyless.holder()} signs here, without a key"
    except UnusableIdentity as error:
        return State.DOUBTFUL, f"{told}; nothing can be signed here: {error}", REMEDIES["signatures"]


def _references(settings: Settings) -> Look:
    store = ReleaseStore.of(settings)
    ages = {surface: store.champions.read(surface).reference_age for surface in store.surfaces()}
    told = ", ".join(f"{surface}: {days} days older than what serves" for surface, days in ages.items())
    if old := [surface for surface, days in ages.items() if days > settings.reference_days]:
        return State.DOUBTFUL, told, f"look at what serves, then: crossfade release confirm {old[0]} --reason ..."
    return State.GOOD, told or "nothing was promoted yet"


def _features(settings: Settings) -> Look:
    from ml.inference.snapshot import FeatureSnapshot, current_snapshot

    path = current_snapshot(settings)
    if path is None:
        return State.DOUBTFUL, "no features are published", "materialize features/serving_snapshot"
    snapshot = FeatureSnapshot.load(path)
    age = ((settings.last_day or datetime.now(UTC).date()) - snapshot.day).days
    if age > settings.max_feature_age_days:
        return State.BAD, f"of {snapshot.day}, {age} days old: the server is not ready", "land the days since then"
    return State.GOOD, f"of {snapshot.day}"


def _server(settings: Settings) -> Look:
    import httpx

    if not settings.serve_url:
        return State.GOOD, "CROSSFADE_SERVE_URL names none"
    answer = httpx.get(f"{settings.serve_url}/v2/health/ready", timeout=10)
    if answer.status_code != 200:
        return State.BAD, answer.json().get("error", answer.text[:200]), "see what it lacks, above"
    return State.GOOD, f"{settings.serve_url} is ready"


def _alerts(settings: Settings) -> Look:
    from ml.operations.alerts import Desk

    to = Desk.of(settings).to
    if not to:
        return State.GOOD, "CROSSFADE_ALERTS names none: nobody is told"
    places = [(f"address {place} of {len(to)}, {one.label}", one.fault()) for place, one in enumerate(to, start=1)]
    if found := [f"{what}: {fault}" for what, fault in places if fault]:
        return State.BAD, "; ".join(found), "mend it in CROSSFADE_ALERTS; docs/how-to/alerts.md has one of each service"
    told = f"{', '.join(one.label for one in to)} can be read; crossfade alert --test sends to each"
    return State.GOOD, told


def _cluster(settings: Settings) -> Look:
    if not settings.ray_address:
        return State.GOOD, "CROSSFADE_RAY_ADDRESS names none"
    with connected(settings.ray_address) as ray:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        cpus = int(ray.cluster_resources().get("CPU", 0))
    if not cpus:
        return State.BAD, f"{len(nodes)} nodes without a CPU", "start nodes with --num-cpus"
    return State.GOOD, f"{len(nodes)} nodes with {cpus} CPUs"


EXAMINATIONS: Examinations = {
    "python": _python,
    "packages": _packages,
    "home": _folder,
    "memory": _memory,
    **FILES,
    "lake": _catalog,
    "version": _version,
    "data files": _files,
    "dagster": _instance,
    "dbt": _dbt,
    "sources": _sources,
    "landing": _landing,
    "teacher": _teacher,
    "releases": _releases,
    "signatures": _signatures,
    "references": _references,
    "features": _features,
    "server": _server,
    "cluster": _cluster,
    "alerts": _alerts,
}
REMEDIES = {
    "home": "make it writable, or choose another CROSSFADE_HOME",
    **OF_FILES,
    "lake": "restore the catalog from a backup (docs/how-to/operate.md); data files are never changed in place",
    "data files": "put back from a backup what the message names, or land and build its days again",
    "sources": "mend sources.yaml where the message says",
    "landing": "mend the contract that the message names",
    "teacher": "mend contract.yaml, or set CROSSFADE_TEACHER (of several: teachers in crossfade.toml)",
    "releases": "crossfade release recover SURFACE, or put back from a backup what the message names",
    "signatures": "see docs/how-to/sign.md",
    "references": "restore the release from a backup, or: crossfade release confirm SURFACE --reason ...",
    "features": "materialize features/serving_snapshot",
    "server": "start crossfade serve there, or unset CROSSFADE_SERVE_URL",
    "alerts": "mend CROSSFADE_ALERTS (docs/how-to/alerts.md)",
    "cluster": "start Ray there (docs/how-to/many_machines.md), or unset CROSSFADE_RAY_ADDRESS",
}
"""What to do where a part raised."""


def doctor(as_json: TablesAsJson = False) -> None:
    """Look at all that the instance directory needs, change nothing, say what to do; fail where something is bad."""
    found = list(examine(Settings()))
    show_findings("what the instance directory needs", found)
    require_good(found)
