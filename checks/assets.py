"""Asset checks of each surface: the examples, the soft labels, and the gate on the exported candidate."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from math import isfinite
from pathlib import Path

import dagster as dg

from assets.names import soft_label_key, surface_key
from assets.partitions import day_partitions, partition_days, student_partitions
from checks.gate import judge
from checks.guard import Daily
from checks.guards import GUARDS, check_thresholds, soft_labels
from ml.evaluation.outcome import BLOCKING, SEVERITY, TOLD
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.releases.verdicts import Check, GuardResult, StoredVerdict
from ml.stages.artifacts import find
from ml.surfaces.spec import Surface
from ml.teacher.teachers import teacher_names

VERDICT_CHECK = "verdict"


def build_checks(settings: Settings, surfaces: Mapping[str, Surface]) -> list[dg.AssetChecksDefinition]:
    """Return every check of every surface."""
    found: list[dg.AssetChecksDefinition] = []
    for surface in surfaces.values():
        check_thresholds(surface)
        for number, daily, key in _of_days(settings, surface):
            found.append(_daily(settings, surface, number, daily, key))
        found.append(_gate(settings, surface))
    return found


def _of_days(settings: Settings, surface: Surface) -> Iterator[tuple[int, Daily, dg.AssetKey]]:
    """Yield what is checked of each day: number of the guard, the check, and the asset that it is on."""
    for guard in GUARDS:
        if guard is soft_labels.GUARD:
            for name in teacher_names(settings, surface):
                yield guard.number, soft_labels.daily_of(name), soft_label_key(surface.name, name)
            if surface.distillation.unshown:
                yield guard.number, soft_labels.UNSHOWN, surface_key(surface.name, soft_labels.UNSHOWN.asset)
        elif guard.daily:
            yield guard.number, guard.daily, surface_key(surface.name, guard.daily.asset)


def _daily(
    settings: Settings, surface: Surface, number: int, daily: Daily, key: dg.AssetKey
) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=key,
        name=daily.name,
        blocking=True,
        partitions_def=day_partitions(settings),
        description=f"Guard {number}: {daily.means}\n\n**If it fails**: {daily.to_do}",
    )
    def of_a_day(context: dg.AssetCheckExecutionContext, settings: dg.ResourceParam[Settings]) -> dg.AssetCheckResult:
        days = partition_days(context)
        with Lake(settings) as lake:
            result = _result(daily.judge(lake, surface, days))
        if result.passed and len(days) > 1:
            # Of a range Dagster keeps one result that is of no day, and shows the days as skipped.
            for day in map(str, days):
                told = dg.AssetCheckEvaluation(key, daily.name, passed=True, blocking=True, partition=day)
                context.op_execution_context.log_event(told)  # type: ignore[arg-type]
        return result

    return of_a_day


def _gate(settings: Settings, surface: Surface) -> dg.AssetChecksDefinition:
    key = surface_key(surface.name, "onnx")
    partitions = student_partitions(settings, surface)

    def spec(name: str, description: str) -> dg.AssetCheckSpec:
        return dg.AssetCheckSpec(name, asset=key, blocking=True, description=description, partitions_def=partitions)

    specs = [spec(guard.check, f"{guard.means}\n\n**If it fails**: {guard.to_do}") for guard in GUARDS]
    decision = (
        "The gate's decision about exactly this candidate; promotion reads it again.\n\n**If it fails**: the champion "
        "goes on serving. The reason names each guard that failed; what to do stands there."
    )
    specs.append(spec(VERDICT_CHECK, decision))

    @dg.multi_asset_check(specs=specs, name=f"{surface.name}_gate")
    def gate(
        context: dg.AssetCheckExecutionContext, settings: dg.ResourceParam[Settings]
    ) -> Iterator[dg.AssetCheckResult]:
        from ml.stages.evaluation import read_evaluation

        days = partition_days(context)
        stored = [
            judge(
                settings,
                surface,
                find(settings, surface, "onnx", day),
                read_evaluation(settings, surface, day),
                run_id=context.run.run_id,
            )
            for day in days
        ]
        for guard in GUARDS:
            yield _guard_result(key, guard.check, [s.verdict.guard(guard.name) for s in stored], stored[-1].path)
        yield _verdict_result(key, days, stored)

    return gate


def _result(checks: Sequence[Check]) -> dg.AssetCheckResult:
    failed = [check for check in checks if check.outcome in BLOCKING]
    return dg.AssetCheckResult(
        passed=not failed,
        description="; ".join(map(_failure, failed)) or None,
        metadata={
            "checks": dg.MetadataValue.md(_table(checks)),
            "failed": len(failed),
            "checked": len(checks),
            **_numbers(checks),
        },
    )


def _guard_result(key: dg.AssetKey, name: str, results: Sequence[GuardResult], verdict: Path) -> dg.AssetCheckResult:
    worst = min(results, key=lambda result: SEVERITY.index(result.outcome))
    checks = [check for result in results for check in result.checks]
    told = {"means": dg.MetadataValue.md(worst.means), "to_do": dg.MetadataValue.md(worst.to_do)}
    return dg.AssetCheckResult(
        check_name=name,
        asset_key=key,
        passed=worst.outcome not in TOLD,
        severity=dg.AssetCheckSeverity.ERROR if worst.outcome in BLOCKING else dg.AssetCheckSeverity.WARN,
        description="; ".join(dict.fromkeys(result.reason for result in results if result.reason)) or None,
        metadata={
            "outcome": worst.outcome.value,
            **(told if worst.outcome in TOLD else {}),
            "checks": dg.MetadataValue.md(_table(checks) if checks else "Nothing was measured."),
            "verdict": dg.MetadataValue.path(str(verdict)),
            **_numbers(results[-1].checks),
        },
    )


def _verdict_result(key: dg.AssetKey, days: Sequence[date], stored: Sequence[StoredVerdict]) -> dg.AssetCheckResult:
    refused = [s for s in stored if s.verdict.decision != "pass"]
    lines = [line for s in refused for line in s.verdict.failures()]
    summary = "\n".join(
        ["| partition | decision | champion | verdict |", "|---|---|---|---|"]
        + [
            f"| {day} | **{s.verdict.decision}** | {s.verdict.key.champion or 'none'} | `{s.content_hash[:16]}` |"
            for day, s in zip(days, stored, strict=True)
        ]
    )
    return dg.AssetCheckResult(
        check_name=VERDICT_CHECK,
        asset_key=key,
        passed=not refused,
        description="; ".join(lines)[:2000] or None,
        metadata={
            "decision": stored[-1].verdict.decision,
            "decisions": dg.MetadataValue.md(summary),
            "verdict": dg.MetadataValue.path(str(stored[-1].path)),
            "content_hash": stored[-1].content_hash,
            "candidate": stored[-1].verdict.key.candidate,
        },
    )


def _failure(check: Check) -> str:
    """Say what was found and wanted, and where: the detail of a measurement is its day."""
    if check.value is None:
        return f"{check.name}: {check.detail}"
    found = f"{check.name} is {_text(check.value)}, wanted {check.threshold}"
    return f"{found} ({check.detail})" if check.detail else found


def _table(checks: Sequence[Check]) -> str:
    head = ("check", "outcome", "value", "threshold", "interval", "n", "effective users", "")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for c in checks:
        interval = f"{c.interval[0]:.4g} to {c.interval[1]:.4g}" if c.interval else ""
        n = f"{c.n:,}" if c.n is not None else ""
        users = f"{c.effective_users:,.0f}" if c.effective_users is not None else ""
        cells = (c.name, c.outcome.value, _text(c.value), c.threshold, interval, n, users, c.detail)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines)


def _numbers(checks: Sequence[Check]) -> dict[str, float]:
    """Return what was measured under the checks' names; the UI plots it over the partitions."""
    return {c.name: c.value for c in checks if isinstance(c.value, float) and isfinite(c.value)}


def _text(value: float | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.6g}"
