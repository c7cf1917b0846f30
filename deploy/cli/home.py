"""A home: make it ready, keep it tidy, forget a person, back up, and see its settings."""

import os
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli import configuration
from deploy.cli.shared import AsJson, home_settings
from deploy.cli.terminal import note, reporter, say, show_json, show_table
from ml.foundation.settings import Settings
from ml.operations import verify as verification
from ml.operations.app_files import require_files
from ml.operations.backup import back_up, note_copy
from ml.operations.backup import restore as put_back


def init(
    change: Annotated[
        bool, typer.Option("--change", help="Change source or first day of an instance directory that holds days.")
    ] = False,
) -> None:
    """Make CROSSFADE_HOME ready: lake, Dagster's instance, parsed dbt project; keep the settings. Safe to repeat.

    Refused where a file of the app cannot be used, and where days are there of another source or first day.
    """
    from deploy.home import given, prepare, require_same_data
    from ml.landing.readiness import faults_of_sources

    settings = Settings()
    why = "CROSSFADE_HOME" if os.environ.get("CROSSFADE_HOME") else "CROSSFADE_HOME is not set"
    note(f"instance directory: {settings.home} ({why}); app: {settings.app}")
    require_files(settings)
    if not change:
        require_same_data(settings)
    settings = prepare(settings, given(settings))
    for fault in faults_of_sources(settings):
        note(fault)
    say(f"ready: {settings.home} (source {settings.source}, first day {settings.first_day})")


def tidy(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would go.")] = False,
) -> None:
    """Retire old releases, expire snapshots, merge small files, remove what nobody reads; while nothing else runs."""
    from ml.operations.housekeeping import tidy as run

    settings = home_settings()
    require_idle(settings)
    tidied = run(settings, dry_run=dry_run, progress=reporter())
    for surface, ids in tidied.releases_retired.items():
        say(f"retired    {surface}: {', '.join(ids)}")
    for gone in tidied.artifacts:
        count, judged = len(gone.artifacts), f", {len(gone.judged)} folders of verdicts" if gone.judged else ""
        of = f"{gone.surface} {gone.partition}, {gone.age_days:,.0f} days old"
        say(f"artifacts  {count} of {of}{judged}: {gone.bytes / 1e6:,.1f} MB; no kept release is of it")
    for old in tidied.days:
        span = f"{min(old.rows)} to {max(old.rows)}" if old.rows else "none"
        held = "".join(f"; {n} older days stay: release {name} names them" for name, n in old.held.items())
        say(f"days       {len(old.rows)} of {old.table}, {sum(old.rows.values()):,} rows: {span}{held}")
    kept = ", ".join(map(str, tidied.snapshots_of_releases)) or "none"
    say(f"snapshots  {tidied.snapshots_expired} of {tidied.snapshots} expired; of releases: {kept}")
    say(f"files      {tidied.files_removed} removed; {tidied.tables_compacted} tables compacted")
    if tidied.served_files_removed or tidied.served_rows_removed:
        say(f"served log {tidied.served_files_removed} files, {tidied.served_rows_removed:,} rows removed")
    if tidied.waiting_files:
        say(
            f"waiting    {tidied.waiting_files} files that nothing reads any more are younger than a day: the next time"
        )
    for table, (before, after) in tidied.tables.items():
        say(f"table      {table:36} {before / 1e6:10,.1f} -> {after / 1e6:,.1f} MB")
    before, after = tidied.data_bytes
    say(f"all tables {'':36} {before / 1e6:10,.1f} -> {after / 1e6:,.1f} MB")
    use = ", ".join(f"{name} {size / 1e6:,.0f} MB" for name, size in tidied.home_bytes.items() if size > 1e5)
    say(f"disk       {use}")


def verify() -> None:
    """Read every data file of the lake and compare it with its hash; ask who signed what serves."""
    settings = home_settings()
    found = verification.verify(settings)
    say(f"{found.files:,} files, {found.bytes / 1e6:,.0f} MB, are as they were written")
    if found.recorded:
        say(f"{found.recorded:,} of them had no recorded hash, and were taken as they are now")
    signed = verification.require_signatures(settings)
    count = f"{signed.documents:,} releases and entries of champion logs"
    if signed.required:
        say(f"{count} are signed by {', '.join(signed.keys) or 'nobody yet'}")
    else:
        say(f"{count}; no key is set, so nobody asks who signed them")


def forget(
    user: Annotated[str, typer.Argument(help="user_id, as the landing files have it.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would go.")] = False,
) -> None:
    """Remove a person from landing files, lake, past states, served features, rankings and copies; name what is left.

    Past states of the lake go with the person: releases serve on, but cannot be trained again to their bytes. Every
    file is looked through for the person's ids and their hashes; each that has one is listed, with why and until when.
    """
    from ml.operations.development import FOLDER
    from ml.operations.forget import forget as run

    settings = home_settings()
    require_idle(settings)
    require_idle(settings.model_copy(update={"home": settings.home / FOLDER}))
    told = run(settings, user, dry_run=dry_run, progress=reporter())
    if not told.known:
        say("no file and no table names this user")
    for table, rows in {**told.rows, **told.ranked}.items():
        say(f"{table:36} {rows:>8,} rows")
    say(f"landing files {told.files:,}, rows {told.file_rows:,}; past states of the lake {told.snapshots_expired}")
    for path in told.removed:
        say(f"removed as a whole: {path}")
    for surface, ids in told.releases.items():
        say(f"trained on these rows, {surface}: {', '.join(ids)}")
    if told.elsewhere:
        say(f"remove the person there too, or the rows land again: the sources of {', '.join(told.elsewhere)}")
    if told.releases:
        say("retrain these surfaces, or roll back, if what was learnt has to go too")
    for left in told.remains:
        say(f"left: {left.place}: {', '.join(left.holds)}; {left.why}; until {left.until}")
    say("not known here: copies of disks, and what was copied to other machines; delete those from before today")
    say("nothing was changed (--dry-run)" if dry_run else "done")


def require_idle(settings: Settings) -> None:
    """Refuse while a run of the home is under way: it may write what is being removed."""
    from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

    if not (settings.dagster_home / "dagster.yaml").exists():
        return
    active = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
    with DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        if n := instance.get_runs_count(RunsFilter(statuses=active)):
            raise ValueError(f"{n} runs are under way; wait for them, or stop them, and try again")


def backup(folder: Annotated[Path, typer.Argument(help="Where the copy goes, best on another disk.")]) -> None:
    """Copy the lake's catalog while everything goes on; data files and releases are plain files that never change."""
    settings = home_settings()
    copy = back_up(settings, folder)
    note_copy(settings, copy)
    say(f"wrote {copy}")


def restore(copy: Annotated[Path, typer.Argument(help="A copy that `crossfade backup` wrote.")]) -> None:
    """Put a copy of the catalog back, while nothing else runs, if every data file that it names is there."""
    settings = Settings()
    require_idle(settings)
    aside = put_back(settings, copy)
    say(f"restored; the catalog that was there is now {aside}. What landed since then will land again.")


def settings(
    example: Annotated[
        bool, typer.Option("--example", help="Print .env.example: every setting with its default.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show every setting, its value in this instance directory, and who gave it; secrets are not shown."""
    if example:
        print(configuration.as_example(), end="")
        return
    found = [
        {"variable": row.variable, "value": row.value, "from": row.source, "meaning": row.meaning}
        for row in configuration.rows(Settings())
    ]
    if as_json:
        show_json(found)
    else:
        show_table("settings of the instance directory", found)
