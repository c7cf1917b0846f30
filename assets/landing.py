"""Landing: raw event files become typed tables; bad rows go to quarantine with their reason."""

import hashlib
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg

from assets.names import LAKE_WRITER, LANDER, OWNER, landing_key
from assets.partitions import day_partitions, days_of_a_run, partition_days
from assets.progress import ProgressResource
from ml.foundation.lake import LANDING, Lake
from ml.foundation.settings import Settings
from ml.landing.contract import Contract, load_contract
from ml.landing.sources import load_sources
from ml.surfaces.files import load_surfaces

if TYPE_CHECKING:
    from ml.landing.load import LandingReport

_REASONS = 10
"""Reasons of quarantine, the commonest first, that are plotted each."""

EMPTY = (0, "empty")
"""Row count and content hash of a day without rows."""


def build_landing(settings: Settings) -> dg.AssetsDefinition:
    """Return one multi-asset with an asset per table of the landing contract."""
    contract = load_contract(settings)

    @dg.multi_asset(
        specs=[_spec(settings, contract, name) for name in contract.tables],
        name="landing",
        partitions_def=day_partitions(settings),
        backfill_policy=days_of_a_run(settings),
        can_subset=True,
        pool=LAKE_WRITER if settings.lake_writers == 1 else LANDER,
    )
    def landing(
        context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings], progress: ProgressResource
    ) -> Iterator[dg.MaterializeResult]:
        from ml.landing.load import DaysFailed, load_days

        days = partition_days(context)
        tables = [key.path[-1] for key in sorted(context.selected_asset_keys)]
        started = time.monotonic()
        with Lake(settings) as lake:
            try:
                reports = load_days(
                    lake,
                    settings,
                    days,
                    surfaces=set(load_surfaces(settings)),
                    tables=tables,
                    progress=progress.of(context),
                )
            except DaysFailed as error:
                # The step fails, but what landed is to be seen: who retries asks for the failed days alone.
                for report in error.reports:
                    key, partition = landing_key(report.table), report.day.isoformat()
                    context.log_event(dg.AssetMaterialization(key, partition=partition, metadata=_counts(report)))
                raise
            seconds = (time.monotonic() - started) / len(days) / len(tables)
            versions = {t: lake.day_versions(f"{LANDING}.{t}", days[0], days[-1]) for t in tables}
            sizes = {t: lake.day_bytes(f"{LANDING}.{t}", days[0], days[-1]) for t in tables}
        for table in tables:
            mine = [report for report in reports if report.table == table]
            for report in mine:
                context.add_asset_metadata(
                    {
                        **_counts(report),
                        "bytes": sizes[table].get(report.day, 0),
                        "seconds": seconds,
                        "content_hash": versions[table].get(report.day, EMPTY)[1],
                    },
                    asset_key=landing_key(table),
                    partition_key=report.day.isoformat(),
                )
            yield dg.MaterializeResult(
                asset_key=landing_key(table),
                data_version=data_version([versions[table].get(report.day, EMPTY)[1] for report in mine]),
            )

    return landing


def _spec(settings: Settings, contract: Contract, name: str) -> dg.AssetSpec:
    table = contract.tables[name]
    return dg.AssetSpec(
        landing_key(name),
        description=(
            f"{table.description} Read from {_origin(settings, contract, name)}.\n\n"
            "**If it fails**: the message names the file, or the reasons of quarantine; correct the files and "
            "materialize the day again, which replaces it."
        ),
        group_name="landing",
        owners=[OWNER],
        kinds={"parquet", "duckdb"},
        skippable=True,
        freshness_policy=_freshness(settings, name),
        code_version=contract.digest,
        metadata={
            "dagster/table_name": f"lake.landing.{name}",
            "dagster/column_schema": dg.TableSchema(
                [
                    dg.TableColumn(
                        column_name,
                        column.type,
                        description=column.description,
                        constraints=dg.TableColumnConstraints(nullable=column.nullable),
                    )
                    for column_name, column in table.columns.items()
                ]
            ),
        },
    )


def _origin(settings: Settings, contract: Contract, name: str) -> str:
    source = load_sources(settings, contract).table(name)
    return "its query in `sources.yaml`" if source.query else f"`{source.files.replace('{table}', name)}`"


def _counts(report: "LandingReport") -> dict[str, dg.MetadataValue | int]:
    return {
        "dagster/partition_row_count": report.rows_loaded,
        "rows_in": report.rows_in,
        "rows_quarantined": report.rows_quarantined,
        "quarantine_reasons": dg.MetadataValue.json(report.reasons),
        **{f"quarantined: {reason}": rows for reason, rows in list(report.reasons.items())[:_REASONS]},
        "files": len(report.files),
    }


def _freshness(settings: Settings, table: str) -> dg.FreshnessPolicy | None:
    """Return how old a required table of a live source may get: older ones make the server not ready some day."""
    if settings.last_day is not None or table in settings.optional_tables:
        return None
    days = settings.max_feature_age_days
    return dg.FreshnessPolicy.time_window(fail_window=timedelta(days=days + 1), warn_window=timedelta(hours=36))


def data_version(hashes: list[str]) -> dg.DataVersion:
    """Return the data version of one day (its hash) or of a range (the hash of its days' hashes)."""
    joined = hashes[0] if len(hashes) == 1 else hashlib.sha256("|".join(hashes).encode()).hexdigest()
    return dg.DataVersion(joined[:32])
