"""``crossfade develop``: a sample of days beside production, to try a change of the app on."""

import shutil
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Annotated

import typer

from deploy.cli.shared import day_of, home_settings
from deploy.cli.terminal import note, say
from ml.foundation.settings import SETTINGS_FILE, SHARED, Settings, kept_values, write_settings_file
from ml.surfaces.files import load_surfaces


def develop(
    days: Annotated[int, typer.Option(help="How many of the newest landed days.", min=1, max=60)] = 3,
    last: Annotated[str | None, typer.Option(help="The newest of them. [default: the newest that landed]")] = None,
) -> None:
    """Build a sample of days in an instance directory of its own, beside production, of which nothing changes.

    Landed rows of the sample's days are copied; features, examples, teacher inputs and soft labels are built by the app
    as it is now. Run it again after a change. A sample of other days replaces the one before.
    """
    from ml.operations.development import FOLDER, copy_sample, days_of_sample, settings_of_sample

    production = home_settings()
    if production.development:
        raise ValueError(f"{production.home} is a sample itself: name production's directory with CROSSFADE_HOME")
    chosen = days_of_sample(production, days, day_of(production, last, "--last") if last else None)
    sample = settings_of_sample(production, production.home / FOLDER, chosen)
    _make(production, sample, chosen)
    for copied in copy_sample(production, sample):
        if copied.rows:
            note(f"copied {copied.rows:>10,} rows of {copied.table}")
    _build(sample, chosen)
    unset = "".join(f"-u CROSSFADE_{name.upper()} " for name in SHARED if getattr(production, name))
    say(f"ready: {sample.home}, {chosen[0]} to {chosen[-1]}")
    say(f"look: {'env ' + unset if unset else ''}CROSSFADE_HOME={sample.home} .venv/bin/crossfade ui")


def _make(production: Settings, sample: Settings, days: Sequence[date]) -> None:
    from deploy.home import given, prepare

    kept = kept_values(sample.home) if (sample.home / SETTINGS_FILE).exists() else {}
    if kept and [str(kept.get(name)) for name in ("first_day", "last_day")] != [str(days[0]), str(days[-1])]:
        shutil.rmtree(sample.home)
    own = ("landing_dir", "first_day", "last_day", "development")
    values = given(production) | {"app": production.app, "teacher": production.teacher}
    values |= {"teachers": production.teachers or None}
    values |= {name: getattr(sample, name) for name in own}
    write_settings_file(sample.home, {name: value for name, value in values.items() if name not in SHARED})
    prepare(sample)


def _build(sample: Settings, days: Sequence[date]) -> None:
    """Run the jobs of days, without landing; each step is a line on the terminal.

    Raises:
        RuntimeError: A step failed; the line of the step says why.
    """
    from dagster import DagsterInstance

    from deploy.automation.days import range_tags
    from deploy.automation.jobs import BASE_JOB, RANKING_JOB, labelled_job_name
    from deploy.cli.steps import TerminalProgress, quiet, terminal_logger
    from deploy.definitions import build_definitions

    definitions = build_definitions(sample, progress=TerminalProgress(), loggers={"console": terminal_logger})
    landing = definitions.resolve_asset_graph().asset_keys_for_group("landing")
    ends = {BASE_JOB: days[-1], RANKING_JOB: days[-1]}
    for surface in load_surfaces(sample).values():
        if surface.label_window_days > 1:
            ends[labelled_job_name(surface)] = days[-1] - timedelta(days=surface.label_window_days - 1)
    with DagsterInstance.from_config(str(sample.dagster_home)) as instance, quiet(sample):
        for name, end in ends.items():
            if end < days[0]:
                note(f"{name}: no label of these days is final; take more --days, or an earlier --last")
                continue
            job = definitions.resolve_job_def(name)
            done = job.execute_in_process(
                instance=instance,
                asset_selection=sorted(job.asset_layer.selected_asset_keys - landing),
                tags=range_tags(days[0], end),
                run_config={"loggers": {"console": {}}},
                raise_on_error=False,
            )
            if not done.success:
                raise RuntimeError(f"{name} failed; the step's line says why, and {sample.home}/logs the rest")
