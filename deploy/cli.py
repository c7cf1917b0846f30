"""The command ``crossfade``: what is not a materialization."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from deploy.experiment import app as experiment_app
from deploy.study import app as study_app
from deploy.terminal import console, fail, reporter

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Crossfade: distil a frozen teacher from another domain into small rankers, and release what passes its gate.",
)
release_app = typer.Typer(no_args_is_help=True, help="Look at releases, and move the champion pointer.")
new_app = typer.Typer(no_args_is_help=True, help="Scaffold a part of the project.")
app.add_typer(release_app, name="release")
app.add_typer(new_app, name="new")
app.add_typer(study_app, name="study")
app.add_typer(experiment_app, name="experiment")

_SHORT = 12
"""Longest table that a tree on the terminal shows; pages show all."""

Surface = Annotated[str, typer.Argument(help="Name of the surface, such as homepage.")]
Release = Annotated[str, typer.Argument(help="Id of a release, or a surface for its champion.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the history.")]
Partition = Annotated[str, typer.Option(help="Day of the candidate.")]
By = Annotated[str, typer.Option(help="Who; default is the login name.", envvar="USER")]


def _settings() -> Any:
    from ml.settings import Settings

    return Settings()


def _surface(settings: Any, name: str) -> Any:
    from ml.surfaces.spec import load_surfaces

    surfaces = load_surfaces(settings)
    if name not in surfaces:
        raise ValueError(f"no surface {name!r}; configured are {', '.join(surfaces)}")
    return surfaces[name]


@app.command()
def init() -> None:
    """Make CROSSFADE_HOME ready: lake, Dagster's instance, parsed dbt project; keep the settings. Safe to repeat."""
    from deploy.home import given, prepare

    settings = _settings()
    settings = prepare(settings, given(settings))
    console.print(f"ready: {settings.home} (source {settings.source}, first day {settings.first_day})")


@app.command()
def doctor() -> None:
    """Look at everything that a home needs, change nothing, and say what to do; fails where something is bad."""
    from deploy.doctor import State, examine

    styles = {State.GOOD: "green", State.DOUBTFUL: "yellow", State.BAD: "red"}
    table = Table("", "", "found", "what to do", box=None)
    bad = []
    for finding in examine(_settings()):
        state = f"[{styles[finding.state]}]{finding.state}[/]"
        table.add_row(finding.what, state, escape(finding.told), escape(finding.remedy))
        bad += [finding.what] if finding.state is State.BAD else []
    console.print(table)
    if bad:
        raise ValueError(f"{len(bad)} of these are bad: {', '.join(bad)}")


@app.command()
def tidy(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would go.")] = False,
) -> None:
    """Retire old releases, expire snapshots, merge small files, remove what nobody reads; while nothing else runs."""
    from ml.housekeeping import tidy as run

    settings = _settings()
    _require_idle(settings)
    tidied = run(settings, dry_run=dry_run, progress=reporter())
    for surface, ids in tidied.releases_retired.items():
        console.print(f"retired    {surface}: {', '.join(ids)}")
    kept = ", ".join(map(str, tidied.snapshots_of_releases)) or "none"
    console.print(f"snapshots  {tidied.snapshots_expired} of {tidied.snapshots} expired; of releases: {kept}")
    console.print(f"files      {tidied.files_removed} removed; {tidied.tables_compacted} tables compacted")
    use = ", ".join(f"{name} {size / 1e6:,.0f} MB" for name, size in tidied.home_bytes.items() if size > 1e5)
    console.print(f"disk       {use}")


@app.command()
def forget(
    user: Annotated[str, typer.Argument(help="user_id, as the landing files have it.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would go.")] = False,
) -> None:
    """Remove a person from landing files, lake, past states and served features; list what was trained on the rows.

    Past states of the lake go with the person: releases serve on, but cannot be trained again to their bytes.
    """
    from ml.forget import forget as run

    settings = _settings()
    _require_idle(settings)
    told = run(settings, user, dry_run=dry_run, progress=reporter())
    if not told.known:
        console.print("no file and no table names this user")
    for table, rows in told.rows.items():
        console.print(f"{table:36} {rows:>8,} rows")
    console.print(
        f"landing files {told.files:,}, rows {told.file_rows:,}; past states of the lake {told.snapshots_expired}"
    )
    for surface, ids in told.releases.items():
        console.print(f"trained on these rows, {surface}: {', '.join(ids)}")
    if told.releases:
        console.print("retrain these surfaces, or roll back, if what was learnt has to go too")
    console.print("nothing was changed (--dry-run)" if dry_run else "done")


def _require_idle(settings: Any) -> None:
    """Refuse while a run of the home is under way: it may write what is being removed."""
    from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

    if not (settings.dagster_home / "dagster.yaml").exists():
        return
    active = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
    with DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        if n := instance.get_runs_count(RunsFilter(statuses=active)):
            raise ValueError(f"{n} runs are under way; wait for them, or stop them, and try again")


@app.command()
def backup(folder: Annotated[Path, typer.Argument(help="Where the copy goes, best on another disk.")]) -> None:
    """Copy the lake's catalog while everything goes on; data files and releases are plain files that never change."""
    from ml.backup import back_up

    console.print(f"wrote {back_up(_settings(), folder)}")


@app.command()
def restore(copy: Annotated[Path, typer.Argument(help="A copy that `crossfade backup` wrote.")]) -> None:
    """Put a copy of the catalog back, while nothing else runs, if every data file that it names is there."""
    from ml.backup import restore as run

    settings = _settings()
    _require_idle(settings)
    aside = run(settings, copy)
    console.print(f"restored; the catalog that was there is now {aside}. What landed since then will land again.")


@app.command()
def settings(
    example: Annotated[
        bool, typer.Option("--example", help="Print .env.example: every setting with its default.")
    ] = False,
) -> None:
    """Show every setting, its value in this home, and who gave it; secrets are not shown."""
    from deploy.configuration import as_example, rows

    if example:
        print(as_example(), end="")
        return
    table = Table("variable", "value", "from", "", box=None)
    for row in rows(_settings()):
        table.add_row(row.variable, escape(row.value), row.source, escape(row.meaning))
    console.print(table)


@app.command()
def demo(
    source: Annotated[str, typer.Option(help="simulator or kuairand.")] = "simulator",
    kuairand_dir: Annotated[Path | None, typer.Option(help="Unpacked KuaiRand-Pure folder.")] = None,
    preset: Annotated[str, typer.Option(help="Size of the simulated world: tiny, demo or paper.")] = "demo",
    seed: Annotated[int, typer.Option(help="Seed of world and students.")] = 1,
) -> None:
    """Run the main job to its end: raw events, features, soft labels, students, gate, release, an answer."""
    if source not in ("simulator", "kuairand"):
        raise ValueError(f"unknown source {source!r}; choose simulator or kuairand")
    from deploy.demo import run_demo
    from ml.evaluation.report import print_report

    report = run_demo(source, kuairand_dir=kuairand_dir, preset=preset, seed=seed)
    print_report(report)
    settings = _settings()
    console.print(f"\nreport   {settings.reports_dir / 'demo.json'}", soft_wrap=True)
    for name, surface in report["surfaces"].items():
        if surface["release"]:
            console.print(f"release  {name}: {surface['release']['path']}", soft_wrap=True)
    console.print("look     make ui, then http://127.0.0.1:3000 (the graph, the plots, the checks)")
    console.print("serve    .venv/bin/crossfade serve, then POST /rank")


@app.command()
def simulate(days: Annotated[int | None, typer.Option(help="Days to write; default the preset's.")] = None) -> None:
    """Write the simulator's raw event files into the landing zone."""
    from ml.simulator.write import write_landing

    paths = write_landing(_settings(), days=days, progress=reporter())
    console.print(f"wrote {len(paths)} files to {_settings().landing_dir}")


@app.command()
def kuairand() -> None:
    """Write KuaiRand-Pure's logs (CROSSFADE_KUAIRAND_DIR) as raw event files into the landing zone."""
    from ml.landing.kuairand import write_landing

    paths = write_landing(_settings(), progress=reporter())
    console.print(f"wrote {len(paths)} files to {_settings().landing_dir}")


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port of the Dagster UI.")] = 3000,
    host: Annotated[str, typer.Option(help="Address to bind; loopback unless told otherwise.")] = "127.0.0.1",
) -> None:
    """Run the Dagster UI and its daemon until interrupted."""
    from deploy.demo import environment
    from deploy.home import prepare
    from ml.settings import PROJECT_ROOT

    settings = prepare(_settings())
    # `dg dev`, which is to supersede it, serves projects of its own layout only.
    command = [sys.executable, "-W", "ignore:Function `dev_command` is superseded", "-m", "dagster", "dev"]
    command += ["-w", str(PROJECT_ROOT / "workspace.yaml")]
    command += ["-h", host, "-p", str(port)]
    console.print(f"Dagster UI on http://{host}:{port} for {settings.home}; stop with Ctrl-C")
    os.chdir(PROJECT_ROOT)
    # In place of this process: whoever stops it stops the UI, and leaves no daemon behind.
    os.execve(sys.executable, command, environment(settings))


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to bind; default CROSSFADE_SERVE_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; default CROSSFADE_SERVE_PORT.")] = None,
) -> None:
    """Serve the champions: Open Inference Protocol v2 and /rank."""
    from deploy.serving.run import serve as run

    settings = _settings()
    run(settings, host=host or settings.serve_host, port=settings.serve_port if port is None else port)


@app.command()
def tune(
    surface: Surface,
    partition: Annotated[str, typer.Option(help="Day of the student; its validation days judge.")],
    trials: Annotated[int, typer.Option(help="Settings to try.")] = 20,
) -> None:
    """Tune the control on validation days; evaluation days are never read. Prints what to put into the YAML."""
    from datetime import date

    from ml.stages.training import tune_control

    settings = _settings()
    rows = tune_control(
        settings, _surface(settings, surface), date.fromisoformat(partition), trials=trials, progress=reporter()
    )
    _table(f"control of {surface}, best first", rows)


@app.command("diagnose")
def diagnose_surface(
    surface: Surface,
    partition: Annotated[str, typer.Option(help="Day of the student; its validation days judge.")],
    seeds: Annotated[int, typer.Option(help="Initialisations.", min=1)] = 5,
    out: Annotated[
        Path | None, typer.Option(help="Markdown file; default reports/diagnosis_<surface>.md in the home.")
    ] = None,
) -> None:
    """Tell before a release whether distilling helps a surface. Evaluation days are never read."""
    from datetime import date

    from ml.evaluation.diagnosis import MEANING, diagnose, write_diagnosis
    from ml.stages.training_set import read_training_set

    settings = _settings()
    spec = _surface(settings, surface)
    training_set = read_training_set(settings, spec, date.fromisoformat(partition))
    found = diagnose(settings, training_set, spec, seeds=seeds, progress=reporter())
    rows = [
        {
            "task": f"{task.task} {task.metric.upper()}",
            "stacked": _gain(task.stacked),
            "student": _gain(task.student),
            "shuffled": _gain(task.shuffled),
            "judgement": task.judgement,
        }
        for task in found.tasks
    ]
    _table(f"gain over the control of {surface} on its validation days, x100", rows)
    for judgement, meaning in MEANING.items():
        if any(task.judgement == judgement for task in found.tasks):
            console.print(f"{judgement}: {meaning}")
    console.print(found.advice, style="bold")
    pages = write_diagnosis(found, out or settings.reports_dir / f"diagnosis_{surface}.md")
    console.print(f"read {pages[1]}", soft_wrap=True)


@app.command()
def lineage(
    release: Release,
    out: Annotated[
        Path | None, typer.Option(help="HTML page to write; default reports/lineage_<release>.html in the home.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a tree.")] = False,
) -> None:
    """Show everything that a release depends on, down to lake snapshot, landed files and teacher."""
    from dataclasses import asdict

    from ml.lineage.trace import as_page, find_release, trace
    from ml.store.releases import ReleaseStore

    settings = _settings()
    found = find_release(ReleaseStore(settings.artifacts_dir), release)
    root = trace(settings, found)
    if as_json:
        typer.echo(json.dumps(asdict(root), indent=1))
    else:
        for depth, node in root.walk():
            facts = ", ".join(f"{name} {value}" for name, value in node.facts.items())
            typer.echo(f"{'  ' * depth}{node.title}" + (f": {facts}" if facts else ""))
            for row in node.rows if len(node.rows) <= _SHORT else ():
                typer.echo(f"{'  ' * depth}    " + ", ".join(f"{name} {value}" for name, value in row.items()))
    page = out or settings.reports_dir / f"lineage_{found.id}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(as_page(root), encoding="utf-8")
    console.print(f"read {page}", soft_wrap=True)


@app.command("reproduce")
def reproduce_release(release: Release) -> None:
    """Train a release again from its recorded snapshot; fails where not even the figures match."""
    from ml.lineage.reproduce import TOLERANCE, reproduce
    from ml.lineage.trace import find_release
    from ml.store.releases import ReleaseStore

    settings = _settings()
    found = reproduce(settings, find_release(ReleaseStore(settings.artifacts_dir), release), reporter())
    _table(
        f"{found.release}, released and trained again",
        [
            {
                "task": f"{figure.task} {figure.metric.upper()}",
                "released": f"{100 * figure.released:.3f}",
                "again": f"{100 * figure.again:.3f}",
                "largest difference of a score": figure.largest_difference,
            }
            for figure in found.figures
        ],
    )
    for name, (then, here) in found.differing.items():
        console.print(f"{name}: {then} then, {here} here")
    same = {True: "the same bytes", False: "other bytes"}
    console.print(f"weights: {same[found.weights]}; model.onnx: {same[found.onnx]}")
    if found.match == "no":
        raise ValueError(f"{found.release} was not reproduced: a figure differs by more than {TOLERANCE}")
    console.print(f"reproduced: the {found.match} match", style="bold")


@release_app.command("list")
def release_list(surface: Surface) -> None:
    """List the moves of the champion pointer, newest first."""
    from ml.store.releases import ReleaseStore

    history = ReleaseStore(_settings().artifacts_dir).history(surface)
    _table(f"champions of {surface}", [move.model_dump(mode="json") for move in reversed(history)])


@release_app.command("show")
def release_show(
    surface: Surface, release: Annotated[str | None, typer.Argument(help="Release; default the champion.")] = None
) -> None:
    """Print the manifest of a release and the guards of its verdict."""
    from ml.store.releases import ReleaseStore

    store = ReleaseStore(_settings().artifacts_dir)
    champion = store.champion(surface)
    if release:
        shown = store.release(surface, release)
    elif champion is not None:
        shown = champion.release
    else:
        raise ValueError(f"{surface} has no champion")
    typer.echo(json.dumps(shown.manifest.model_dump(mode="json"), indent=2))
    _table(f"verdict of {shown.id}: {shown.verdict.decision}", [_guard_row(guard) for guard in shown.verdict.guards])


@release_app.command("verdict")
def release_verdict(
    surface: Surface,
    partition: Annotated[str | None, typer.Option(help="Day of the candidate; default the newest.")] = None,
) -> None:
    """Print the gate's verdict about a candidate, promoted or refused, with every check that keeps it back."""
    from ml.stages.artifacts import artifact_name
    from ml.store.artifacts import ArtifactStore
    from ml.store.verdicts import Outcome, VerdictStore

    settings = _settings()
    store, name = ArtifactStore(settings.artifacts_dir), artifact_name(_surface(settings, surface), "onnx")
    partitions = store.partitions(name)
    day = partition or (partitions[-1] if partitions else "")
    candidate = store.latest(name, day) if day else None
    if candidate is None:
        raise ValueError(
            f"{surface} has no candidate of {day or 'any day'}; there are {', '.join(partitions) or 'none'}"
        )
    judged = VerdictStore(settings.artifacts_dir).of_candidate(surface, candidate.digest)
    if not judged:
        raise ValueError(f"the gate never judged the candidate of {day}; materialize {surface}/onnx with its checks")
    verdict = judged[-1].verdict
    _table(f"verdict of {surface} {day}: {verdict.decision}", [_guard_row(guard) for guard in verdict.guards])
    kept_back = [
        {
            "guard": guard.number,
            "check": check.name,
            "outcome": check.outcome,
            "value": check.value,
            "wanted": check.threshold,
            "detail": check.detail,
        }
        for guard in verdict.guards
        for check in guard.checks
        if check.outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.WARN)
    ]
    if kept_back:
        _table("checks that did not pass", kept_back)
    console.print(f"read {judged[-1].path}", soft_wrap=True)


@release_app.command("diff")
def release_diff(
    before: Annotated[str, typer.Argument(help="Id of a release.")],
    after: Annotated[str, typer.Argument(help="Id of another, or a surface for its champion.")],
) -> None:
    """Print what differs between two releases: what they were made of, and what the gate measured."""
    from ml.lineage.trace import difference, find_release
    from ml.store.releases import ReleaseStore

    store = ReleaseStore(_settings().artifacts_dir)
    pair = [find_release(store, name) for name in (before, after)]
    rows = difference(*pair)
    _table(f"{pair[0].id} and {pair[1].id}", rows)


@release_app.command("promote")
def release_promote(
    surface: Surface,
    partition: Partition,
    by: By,
    reason: Annotated[str | None, typer.Option(help="Why; kept in the history.")] = None,
) -> None:
    """Make a judged candidate the champion. Refused without a passing verdict about exactly its bytes."""
    from datetime import date

    from ml.stages.release import promote_candidate

    settings = _settings()
    released = promote_candidate(
        settings, _surface(settings, surface), date.fromisoformat(partition), by=by, reason=reason
    )
    console.print(f"{surface} now serves {released.id}")


@release_app.command("override")
def release_override(
    surface: Surface,
    partition: Partition,
    reason: Reason,
    by: By,
) -> None:
    """Promote a candidate that the gate refused; name and reason stand in the release and on its card."""
    from datetime import date

    from ml.stages.release import promote_candidate
    from ml.store.verdicts import Override

    settings = _settings()
    released = promote_candidate(
        settings,
        _surface(settings, surface),
        date.fromisoformat(partition),
        by=by,
        reason=reason,
        override=Override(by=by, reason=reason),
    )
    console.print(f"{surface} now serves {released.id}, against the gate: {reason}")


@release_app.command("confirm")
def release_confirm(surface: Surface, reason: Reason, by: By) -> None:
    """Make the champion the reference that later candidates are compared with, against slow decay."""
    from ml.store.releases import ReleaseStore

    pointer = ReleaseStore(_settings().artifacts_dir).confirm(surface, by=by, reason=reason)
    console.print(f"{pointer.release} is the reference of {surface}")


@release_app.command("challenge")
def release_challenge(
    surface: Surface,
    partition: Partition,
    by: By,
    mode: Annotated[str, typer.Option(help="canary answers its share of users; shadow scores requests besides.")],
    share: Annotated[float, typer.Option(min=0.0001, max=1, help="Share of users, or of requests.")] = 0.05,
    reason: Annotated[str | None, typer.Option(help="Why; kept in the history.")] = None,
) -> None:
    """Serve a candidate that passed the gate beside the champion; a canary's users always get the canary."""
    from datetime import date

    from ml.stages.release import challenge_champion

    if mode not in ("canary", "shadow"):
        raise ValueError(f"unknown mode {mode!r}; choose canary or shadow")
    settings = _settings()
    day = date.fromisoformat(partition)
    release = challenge_champion(
        settings, _surface(settings, surface), day, mode=mode, share=share, by=by, reason=reason
    )
    console.print(f"{surface} has {release} as {mode}, share {share:g}; /metrics shows how it does")


@release_app.command("end-challenge")
def release_end_challenge(
    surface: Surface,
    reason: Reason,
    by: By,
    bar: Annotated[bool, typer.Option(help="Bar it: its model is never promoted.")] = False,
) -> None:
    """Take the challenger away; a promotion does so too."""
    from ml.store.releases import ReleaseStore

    pointer = ReleaseStore(_settings().artifacts_dir).end_challenge(surface, by=by, reason=reason, bar=bar)
    console.print(f"{surface} is served by {pointer.release} alone")


@release_app.command("rollback")
def release_rollback(
    surface: Surface,
    reason: Reason,
    by: By,
    to: Annotated[str | None, typer.Option(help="Release to go back to; default the one before.")] = None,
) -> None:
    """Serve an earlier release again; the release left behind is barred."""
    from ml.store.releases import ReleaseStore

    pointer = ReleaseStore(_settings().artifacts_dir).rollback(surface, to=to, by=by, reason=reason)
    console.print(f"{surface} now serves {pointer.release}")


@new_app.command("surface")
def new_surface(
    name: Annotated[str, typer.Argument(help="Lower-case name, such as podcasts.")],
    into: Annotated[
        Path | None, typer.Option(help="Project root to write into; default this checkout and the home's surfaces_dir.")
    ] = None,
) -> None:
    """Scaffold a surface: one YAML and two SQL files with their descriptions. No Python."""
    from ml.settings import PROJECT_ROOT
    from ml.surfaces.scaffold import scaffold

    written = scaffold(name, into) if into else scaffold(name, PROJECT_ROOT, surfaces_dir=_settings().surfaces_dir)
    for path in written:
        console.print(f"wrote {path}", soft_wrap=True)
    console.print("next: edit them, then `crossfade init` and materialize the new group (docs/new_surface.md)")


def _guard_row(guard: Any) -> dict[str, Any]:
    return {"guard": guard.number, "name": guard.name, "outcome": guard.outcome, "reason": guard.reason}


def _gain(gain: Any) -> str | None:
    return None if gain is None else f"{100 * gain.estimate:+.2f} [{100 * gain.lo:+.2f}, {100 * gain.hi:+.2f}]"


def _table(title: str, rows: list[dict[str, Any]]) -> None:
    if not rows:
        console.print(f"{title}: none")
        return
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else "" if v is None else str(v) for v in row.values()))
    console.print(table)


def main() -> None:
    """Run the command line; an expected error is one line with its value, not a traceback."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    try:
        app()
    except (ValueError, RuntimeError, FileNotFoundError) as error:
        if os.environ.get("CROSSFADE_TRACEBACK"):
            raise
        fail(str(error))


if __name__ == "__main__":
    main()
