"""``crossfade release``: look at releases, and move the champion pointer."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.shared import AsJson, By, Partition, Reason, Surface, TablesAsJson, day_of, home_settings, surface_named
from deploy.cli.terminal import note, say, show_facts, show_json, show_table
from ml.evaluation.outcome import Outcome
from ml.foundation.artifacts import ArtifactStore
from ml.foundation.file_stores import open_files
from ml.foundation.lake import lake_id
from ml.operations.release_page import entries, figures, not_shown, provenance, standing
from ml.operations.trace import difference, find_release
from ml.releases.approvals import ends
from ml.releases.ownership import adopt
from ml.releases.promotion import Proposal
from ml.releases.recovery import recover
from ml.releases.release import CARD
from ml.releases.store import ReleaseStore
from ml.releases.verdicts import Override
from ml.stages.artifacts import artifact_name
from ml.stages.release import approve_candidate, challenge_champion, promote_candidate

if TYPE_CHECKING:
    from ml.releases.verdicts import GuardResult

app = typer.Typer(no_args_is_help=True, help="Look at releases, and move the champion pointer.")


@app.command("list")
def release_list(surface: Surface, as_json: AsJson = False) -> None:
    """List the entries of the champion log, newest first."""
    found = entries(ReleaseStore.of(home_settings()), surface)
    if as_json:
        show_json(found)
    else:
        show_table(f"champions of {surface}", found)


@app.command("show")
def release_show(
    surface: Surface,
    release: Annotated[str | None, typer.Argument(help="Release; default the champion.")] = None,
    manifest: Annotated[bool, typer.Option("--manifest", help="Print the whole manifest as JSON instead.")] = False,
    as_json: TablesAsJson = False,
) -> None:
    """Print a release on a page: its state, its verdict, its gain over the control, what it was made of."""
    settings = home_settings()
    store = ReleaseStore.of(settings)
    name = release or store.champions.read(surface).champion
    if name is None:
        raise ValueError(f"{surface} has no champion")
    shown = store.release(surface, name)
    if manifest:
        typer.echo(json.dumps(shown.manifest.model_dump(mode="json"), indent=2))
        return
    show_facts(standing(store, shown))
    say("")
    verdict = shown.verdict
    show_table(f"verdict of {shown.id}: {verdict.decision}", [_guard_row(guard) for guard in verdict.guards])
    say("")
    if rows := not_shown(shown):
        show_table("where a gain over the control is not shown, or lost", rows)
        say("")
    if rows := figures(settings, shown):
        days = ", ".join(map(str, shown.manifest.eval_days))
        show_table(f"on {days}; [..]: 95 % paired bootstrap over users", rows)
    elif shown.manifest.kind != "popularity":
        say(f"no evaluation of exactly this model is stored; its card has the figures: {shown.path / CARD}")
    say("")
    show_facts(provenance(shown))


@app.command("verdict")
def release_verdict(
    surface: Surface,
    partition: Annotated[str | None, typer.Option(help="Day of the candidate; default the newest.")] = None,
    as_json: TablesAsJson = False,
) -> None:
    """Print the gate's verdict about a candidate, promoted or refused, with every check that keeps it back."""
    settings = home_settings()
    store, name = ArtifactStore(settings.artifacts_dir), artifact_name(surface_named(settings, surface), "onnx")
    partitions = store.partitions(name)
    day = partition or (partitions[-1] if partitions else "")
    candidate = store.latest(name, day) if day else None
    if candidate is None:
        raise ValueError(
            f"{surface} has no candidate of {day or 'any day'}; there are {', '.join(partitions) or 'none'}"
        )
    judged = ReleaseStore.of(settings).verdicts.of_candidate(surface, candidate.digest)
    if not judged:
        raise ValueError(f"the gate never judged the candidate of {day}; materialize {surface}/onnx with its checks")
    verdict = judged[-1].verdict
    show_table(f"verdict of {surface} {day}: {verdict.decision}", [_guard_row(guard) for guard in verdict.guards])
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
        show_table("checks that did not pass", kept_back)
    if advised := [{"guard": guard.name, "what to do": guard.to_do} for guard in verdict.guards if guard.to_do]:
        show_table("what to do", advised)
    say(f"signature: {judged[-1].signed}")
    policy = judged[-1].verdict.promotion
    if policy.mode == "manual" and verdict.decision == "pass":
        approved = ReleaseStore.of(settings).approvals.about(judged[-1], "approve")
        yes = ", ".join(f"{one.by} ({one.at:%Y-%m-%d %H:%M} UTC)" for one in approved)
        say(f"approved by {yes}" if yes else f"waits for a person until {ends(judged[-1], policy):%Y-%m-%d %H:%M} UTC")
    note(f"read {judged[-1].path}")


@app.command("diff")
def release_diff(
    before: Annotated[str, typer.Argument(help="Id of a release.")],
    after: Annotated[str, typer.Argument(help="Id of another, or a surface for its champion.")],
    as_json: TablesAsJson = False,
) -> None:
    """Print what differs between two releases: what they were made of, and what the gate measured."""
    store = ReleaseStore.of(home_settings())
    pair = [find_release(store, name) for name in (before, after)]
    rows = difference(*pair)
    show_table(f"{pair[0].id} and {pair[1].id}", rows)


@app.command("promote")
def release_promote(
    surface: Surface,
    partition: Partition,
    by: By,
    reason: Annotated[str | None, typer.Option(help="Why; kept in the history.")] = None,
) -> None:
    """Make a judged candidate the champion. Refused without a passing verdict about exactly its bytes."""
    settings = home_settings()
    released = promote_candidate(
        settings, surface_named(settings, surface), day_of(settings, partition), by=by, reason=reason
    )
    say(f"{surface} now serves {released.id}")


@app.command("override")
def release_override(
    surface: Surface,
    partition: Partition,
    reason: Reason,
    by: By,
) -> None:
    """Promote a candidate that the gate refused; name and reason stand in the release and on its card."""
    settings = home_settings()
    released = promote_candidate(
        settings,
        surface_named(settings, surface),
        day_of(settings, partition),
        by=by,
        reason=reason,
        override=Override(by=by, reason=reason),
    )
    say(f"{surface} now serves {released.id}, against the gate: {reason}")


@app.command("popularity")
def release_by_popularity(
    surface: Surface,
    partition: Partition,
    by: By,
    reason: Annotated[str | None, typer.Option(help="Why; kept in the history.")] = None,
) -> None:
    """Rank by popularity while nothing serves and the gate refuses the student of a day (`first_release: popularity`).

    The first student that passes replaces it.
    """
    from deploy.popularity import release_popularity

    settings = home_settings()
    day = day_of(settings, partition)
    released = release_popularity(settings, surface_named(settings, surface), day, by=by, reason=reason)
    say(f"{surface} now serves {released.id}, which ranks by popularity")


@app.command("incumbent")
def release_incumbent(
    surface: Surface,
    reason: Reason,
    by: By,
    replace: Annotated[bool, typer.Option("--replace", help="Also where a champion serves already.")] = False,
) -> None:
    """Make the app's present ranker (`incumbent: onnx:`) the champion that a candidate must not lose against.

    You answer for it: the gate judges no ranker that was trained elsewhere, so name and reason stand in the release.
    """
    from checks.incumbent import judge_incumbent
    from ml.stages.incumbent import propose_incumbent

    settings = home_settings()
    declared = surface_named(settings, surface)
    store = ReleaseStore.of(settings)
    champion = store.pointer(surface)
    if champion is not None and not replace:
        raise ValueError(f"{surface} serves {champion.release} already; --replace puts the present ranker in its place")
    candidate = propose_incumbent(settings, declared)
    verdict = judge_incumbent(settings, declared, candidate, store).verdict
    measured = [check for guard in verdict.guards for check in guard.checks]
    if faults := [check for check in measured if check.outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE)]:
        told = "; ".join(f"{check.name} is {check.value} {check.detail} (wanted {check.threshold})" for check in faults)
        raise ValueError(f"the present ranker of {surface} is not fit to serve: {told}")
    asked = Proposal(
        candidate=candidate,
        key=store.verdict_key(declared, candidate),
        partition=settings.first_day,
        by=by,
        reason=reason,
        policy=declared.gate.promotion,
    )
    pointer = store.promote(surface, asked, override=Override(by=by, reason=reason))
    say(f"{surface} now serves {pointer.release}, the app's present ranker; a candidate must not lose against it")


@app.command("approve")
def release_approve(surface: Surface, partition: Partition, reason: Reason, by: By) -> None:
    """Say yes to a candidate that passed and waits for a person (`gate.promotion.mode: manual`); it then serves."""
    settings = home_settings()
    release = approve_candidate(
        settings, surface_named(settings, surface), day_of(settings, partition), by=by, reason=reason
    )
    say(f"{surface} now serves {release}, approved by {by}")


@app.command("confirm")
def release_confirm(surface: Surface, reason: Reason, by: By) -> None:
    """Make the champion the reference that later candidates are compared with, against slow decay."""
    pointer = ReleaseStore.of(home_settings()).confirm(surface, by=by, reason=reason)
    say(f"{pointer.release} is the reference of {surface}")


@app.command("challenge")
def release_challenge(
    surface: Surface,
    partition: Partition,
    by: By,
    mode: Annotated[
        str,
        typer.Option(
            help="canary answers its share of users; interleave picks every other item of theirs; shadow scores."
        ),
    ],
    share: Annotated[float, typer.Option(min=0.0001, max=1, help="Share of users, or of requests.")] = 0.05,
    reason: Annotated[str | None, typer.Option(help="Why; kept in the history.")] = None,
) -> None:
    """Serve a candidate that passed the gate beside the champion; its users stay with it."""
    if mode not in ("canary", "interleave", "shadow"):
        raise ValueError(f"unknown mode {mode!r}; choose canary, interleave or shadow")
    settings = home_settings()
    day = day_of(settings, partition)
    release = challenge_champion(
        settings, surface_named(settings, surface), day, mode=mode, share=share, by=by, reason=reason
    )
    say(f"{surface} has {release} as {mode}, share {share:g}; /metrics shows how it does")


@app.command("end-challenge")
def release_end_challenge(
    surface: Surface,
    reason: Reason,
    by: By,
    bar: Annotated[bool, typer.Option(help="Bar it: its model is never promoted.")] = False,
) -> None:
    """Take the challenger away; a promotion does so too."""
    pointer = ReleaseStore.of(home_settings()).end_challenge(surface, by=by, reason=reason, bar=bar)
    say(f"{surface} is served by {pointer.release} alone")


@app.command("rollback")
def release_rollback(
    surface: Surface,
    reason: Reason,
    by: By,
    to: Annotated[str | None, typer.Option(help="Release to go back to; default the one before.")] = None,
) -> None:
    """Serve an earlier release again; the release left behind is barred."""
    pointer = ReleaseStore.of(home_settings()).rollback(surface, to=to, by=by, reason=reason)
    say(f"{surface} now serves {pointer.release}")


@app.command("recover")
def release_recover(
    surface: Surface,
    reason: Reason,
    by: By,
    to: Annotated[str | None, typer.Option(help="Release that serves from here on; the log may not say.")] = None,
) -> None:
    """Make a damaged champion log, and releases that were lost, usable again; what may have been barred is barred."""
    done = recover(ReleaseStore.of(home_settings()), surface, by=by, reason=reason, to=to)
    for told in done or [f"the log and the releases of {surface} are whole; nothing was changed"]:
        say(told)


@app.command("sign")
def release_sign(surface: Surface, reason: Reason, by: By) -> None:
    """Sign what of a surface no trusted key answers for: made before there was a key, or by one that counts no more.

    You answer for it: look first at `crossfade release list` and `release show`.
    """
    done = ReleaseStore.of(home_settings()).sign(surface, by=by, reason=reason)
    for told in done or [f"trusted keys answer for all of {surface}; nothing was changed"]:
        say(told)


@app.command("adopt")
def release_adopt(by: By) -> None:
    """Hand artifacts that belong to another lake over to this one, as after its catalog was built again."""
    settings = home_settings()
    owner = adopt(open_files(settings.artifacts_dir), lake_id(settings), by=by)
    say(f"these artifacts belong to lake {owner.lake}; before: {', '.join(owner.before) or 'none'}")


def _guard_row(guard: "GuardResult") -> dict[str, object]:
    return {"guard": guard.number, "name": guard.name, "outcome": guard.outcome, "reason": guard.reason}
