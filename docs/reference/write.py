"""Writes the pages of the reference that the code itself knows: ``python docs/reference/write.py``.

The command line from its commands, the settings from their model, the data contract from its YAML, the techniques
from their files, the sources from their model, the tables from dbt's YAML and from what writes the others, the metrics
from the server's registry. A test compares.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic_core import PydanticUndefined
from typer.core import TyperArgument, TyperCommand, TyperGroup
from typer.main import get_command

from assets.manifest import described_columns
from deploy.cli.main import app
from deploy.serving.metrics import Metrics
from ml.evaluation.predictions import SCHEMA, predictions_table
from ml.evaluation.served import SCHEMA as SERVED_SCHEMA
from ml.experiments.user_days import USER_DAYS_SCHEMA, USER_DAYS_TABLE
from ml.features.tables import models_of, read_tables
from ml.foundation.documents import load_yaml
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.landing.late import LATE, LATE_COLUMNS
from ml.landing.ledger import LEDGER
from ml.landing.load import LEDGER_COLUMNS, QUARANTINE, QUARANTINE_COLUMNS
from ml.landing.sources import Database, Origin, Ready, Source
from ml.operations.causes import CAUSES
from ml.stages.served import served_skew_table
from ml.surfaces.techniques import techniques
from ml.teacher.vectors import VECTORS_SCHEMA
from ml.teacher.withdrawn import VECTORS_TABLE, WITHDRAWN_SCHEMA, withdrawn_table

HERE = Path(__file__).parent
MODELS = (PROJECT_ROOT / "dbt_project" / "models", PROJECT_ROOT / "examples" / "simulator" / "models")
WRITTEN = "This page is written by `python docs/reference/write.py`; do not edit it by hand."


def pages() -> dict[str, str]:
    """Return {file name: Markdown} of every page."""
    return {
        "command_line.md": command_line(),
        "settings.md": settings(),
        "data_contract.md": data_contract(),
        "techniques.md": technique_page(),
        "sources.md": sources_page(),
        "tables.md": tables_page(),
        "metrics.md": metrics_page(),
        "../how-to/alerts.md": alerts_page(),
        "../tutorial/notebook.md": notebook_page(),
    }


def notebook_page() -> str:
    """Return the page of the notebook: its texts, its code, and what a cell drew that says so in its metadata."""
    notebook = "examples/look_inside.ipynb"
    parts: list[str] = []
    for cell in json.loads((PROJECT_ROOT / notebook).read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        code = cell["cell_type"] == "code"
        parts.append(f"```python\n{source}\n```" if code else source.replace("](../docs/", "](../"))
        if drawn := cell["metadata"].get("picture"):
            parts.append(f"![{drawn}](../pictures/notebook.png)")
            parts.append("Drawn on what `make demo` left.")
    parts.insert(1, f"The notebook itself is [{notebook}](../../{notebook}); a test executes it. {WRITTEN}")
    return "\n\n".join(parts) + "\n"


def alerts_page() -> str:
    """Return the page of alerts with its table of causes; the rest of it is written by hand."""
    begin, end = "<!-- causes -->\n", "<!-- end of causes -->"
    page = (HERE / ".." / "how-to" / "alerts.md").read_text(encoding="utf-8")
    before, after = page.split(begin)[0], page.split(end)[1]
    rows = [
        (cause.title, cause.means, cause.to_do, "at once" if cause.urgent else "in the morning")
        for cause in CAUSES.values()
    ]
    lines = table(("what", "when it is told", "what to do", "somebody is needed"), rows)
    return before + begin + "\n".join(["", *lines]) + "\n" + end + after


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    head = list(head)
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return [*lines, *(f"| {' | '.join(escaped(cell) for cell in row)} |" for row in rows), ""]


def escaped(cell: str) -> str:
    """Return a cell in which nothing is taken for a column's end or for HTML; code shows what it holds as it is."""
    parts = cell.split("`")
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts).replace("|", "&#124;")


def command_line() -> str:
    """Return the page of the command line."""
    lines = ["# Command line", "", "Every command of `crossfade`, with its arguments and options. In a checkout it is"]
    lines += [
        "`.venv/bin/crossfade`. A command works on the instance directory that `CROSSFADE_HOME` names.",
        WRITTEN,
        "",
    ]
    for name, command in commands("crossfade", get_command(app)):
        lines += [f"## {name}", "", " ".join((command.help or "").split()), ""]
        rows = []
        for parameter in command.params:
            if isinstance(parameter, TyperArgument):
                called = f"`{parameter.name}`" if parameter.required else f"`{parameter.name}` (optional)"
            else:
                called = ", ".join(f"`{option}`" for option in parameter.opts)
            rows.append((called, getattr(parameter, "help", None) or "", default_of(parameter.default)))
        if rows:
            lines += table(("argument or option", "meaning", "default"), rows)
    return "\n".join(lines).rstrip() + "\n"


def commands(name: str, command: object) -> Iterator[tuple[str, TyperCommand]]:
    """Yield (whole name, command) of every command below a group."""
    if isinstance(command, TyperGroup):
        for below, child in command.commands.items():
            yield from commands(f"{name} {below}", child)
    elif isinstance(command, TyperCommand):
        yield name, command


def default_of(value: object) -> str:
    """Return a default as it stands in a table; empty where there is none, or where it is 'no'."""
    return "" if value in (None, False, ()) or callable(value) else f"`{value}`"


def settings() -> str:
    """Return the page of the settings."""
    lines = [
        "# Settings",
        "",
        "Every setting of an instance directory. An environment variable wins. Then comes `crossfade.toml` in the",
        "directory, which `crossfade init` writes; then `crossfade.toml` in the app's folder, whose paths start at",
        "that folder; then the default. `crossfade settings` shows what is in force and who said so.",
        "[`.env.example`](../../.env.example) holds the same as a file to copy.",
        WRITTEN,
        "",
    ]
    rows = []
    for name, field in Settings.model_fields.items():
        value = None if field.default is PydanticUndefined or isinstance(field.default, SecretStr) else field.default
        shown = "" if value is None else f"`{value if isinstance(value, str) else json.dumps(value, default=str)}`"
        rows.append((f"`CROSSFADE_{name.upper()}`", field.description or "", shown))
    return "\n".join([*lines, *table(("variable", "meaning", "default"), rows)])


def data_contract() -> str:
    """Return the page of the landing zone's tables."""
    contract = load_yaml(PROJECT_ROOT / "ml" / "landing" / "contract.yaml")
    lines = [
        "# Data contract",
        "",
        "The tables that the landing zone takes: `landing/<table>/day=YYYY-MM-DD/*`, as Parquet (`.parquet`),",
        "CSV (`.csv`), tab-separated values (`.tsv`) or JSON, values on lines or one array (`.jsonl`, `.ndjson`,",
        "`.json`). Text files may be compressed: `.gz` or `.zst` stands at the end of the name.",
        "How to bring them is told in [Land your events](../how-to/land_your_events.md).",
        WRITTEN,
        "",
        "- A column is required, unless it is marked optional: then it may be null, or absent from a file.",
        "- An empty string is a null; in text files `\\N`, `NULL`, `null`, `None`, `nan`, `NaN`, `NaT` and `<NA>`",
        "  are too, unless `nulls` in `sources.yaml` says otherwise.",
        "- Names of columns may be in capitals.",
        "- An id is text or a whole number of any size, also as DECIMAL or UUID. One that was written as a float",
        "  (`123.0`, `1.2e+19`) is refused: it has lost digits.",
        "- The key identifies a row within its day.",
        "- A timestamp is UTC with microseconds, and lies within the day of its folder unless it is marked *any day*.",
        "  [Land your events](../how-to/land_your_events.md) has the forms that text may have.",
        "- `no_dates` are days that stand for no date; `infinity` is either end of time. Such a timestamp is a null.",
        f"- A string has at most {contract['max_string_bytes']} bytes, unless its column says otherwise.",
        "- Columns of your own are declared in `contract.yaml` of the app's folder, in the form of",
        "  [`ml/landing/contract.yaml`](../../ml/landing/contract.yaml).",
        "- Any other column is an error that names the file.",
        "",
    ]
    for name, content in contract["tables"].items():
        key = ", ".join(f"`{column}`" for column in content["key"])
        lines += [f"## {name}", "", f"{content['description']} Key: {key}.", ""]
        rows = []
        for column, rule in content["columns"].items():
            rows.append((f"`{column}`", f"`{rule['type']}`", "; ".join(rules(rule)), rule["description"]))
        lines += table(("column", "type", "rule", "meaning"), rows)
    return "\n".join(lines).rstrip() + "\n"


def sources_page() -> str:
    """Return the page of ``sources.yaml``."""
    lines = [
        "# sources.yaml",
        "",
        "Where the rows of each landing table come from, and how they are read. The file lies in the app's folder; a",
        "table that it does not name is read from the landing zone as it is. A wrong key, value, table or column is",
        "refused with its line, and with the nearest right name.",
        "[Land your events](../how-to/land_your_events.md) tells how to use it for files, and",
        "[Land from a database](../how-to/land_from_a_database.md) for queries.",
        WRITTEN,
        "",
    ]
    for title, model in (
        ("tables.NAME", Source),
        ("tables.NAME.columns.COLUMN", Origin),
        ("tables.NAME.ready", Ready),
        ("attach.NAME", Database),
    ):
        rows = []
        for name, field in model.model_fields.items():
            default = None if field.default in (None, PydanticUndefined, {}) else field.default
            shown = "" if default is None else f"`{default if isinstance(default, str) else json.dumps(default)}`"
            rows.append((f"`{field.alias or name}`", field.description or "", shown))
        lines += [f"## {title}", "", *table(("key", "meaning", "default"), rows)]
    return "\n".join(lines).rstrip() + "\n"


def technique_page() -> str:
    """Return the page of the techniques."""
    lines = [
        "# Techniques",
        "",
        "How a student learns soft labels: what `distillation: technique:` of a surface may name, beside `none`.",
        "Each is the file of its name in [`ml/distillation/`](../../ml/distillation), with its loss and its papers.",
        "[Add a technique](../how-to/add_a_technique.md) tells how to add one.",
        WRITTEN,
        "",
    ]
    rows = []
    for name, listed in techniques().items():
        heads = ["stands beside a `task`" if listed.heads.task else "names no `task`"]
        heads += [] if listed.heads.centre_by else ["no `centre_by`"]
        heads += ["needs `network.interaction`", "may learn `unshown` pairs"] if listed.heads.branch else []
        rows.append((f"`{name}`", listed.summary, "; ".join(heads)))
    return "\n".join([*lines, *table(("technique", "what it is", "a head"), rows)]).rstrip() + "\n"


def tables_page() -> str:
    """Return the page of the lake's tables and their columns."""
    lines = [
        "# Tables of the lake",
        "",
        "What the lake holds, table by table, for who reads it with SQL. The landed tables come first; their",
        "columns are those of the [data contract](data_contract.md), with a `day`. The features follow, as dbt",
        "describes them; the examples are those of the demo's surfaces, and yours have the columns that your SQL gives",
        "them.",
        WRITTEN,
        "",
        "## landing",
        "",
    ]
    lines += table(("table", "a row", "columns"), landed())
    columns = columns_of_models()
    for title, found in {
        "Staging: typed rows of one day": r"staging/stg_",
        "Sums of one day": r"intermediate/int_",
        "Features: trailing windows": r"features/feat_",
        "Examples of the demo's surfaces": r"surfaces/\w+/examples_",
        "What the demo's teacher learns from": r"source/source_examples",
    }.items():
        lines += [f"## {title}", ""]
        for path, model, _ in models_of(MODELS):
            if re.search(found, path.as_posix()):
                lines += [f"### features.{model['name']}", "", model["description"] + key_of(model), ""]
                rows = ((f"`{column}`", meaning) for column, meaning in columns[model["name"]].items())
                lines += table(("column", "meaning"), rows)
    lines += ["## What students and experiments leave", ""]
    for table_name, meaning, schema in (
        (VECTORS_TABLE, "One row per day, user or item, and vector that the teacher's contract names.", VECTORS_SCHEMA),
        (predictions_table("<surface>"), "One row per evaluated exposure, model and task.", SCHEMA),
        (
            withdrawn_table("<surface>"),
            "One row per exposure whose soft labels were dropped because the user withdrew the link to the account.",
            WITHDRAWN_SCHEMA,
        ),
        (
            served_skew_table("<surface>"),
            "One row per figure of a day's served log: see [Log what is served](../how-to/log_what_is_served.md).",
            SERVED_SCHEMA,
        ),
        (USER_DAYS_TABLE, "One row per variant, day and user of `crossfade experiment`.", USER_DAYS_SCHEMA),
    ):
        rows = ((f"`{field.name}`", f"`{field.type}`") for field in schema)
        lines += [f"### `{table_name}`", "", meaning, "", *table(("column", "type"), rows)]
    return "\n".join(lines).rstrip() + "\n"


def landed() -> Iterator[tuple[str, str, str]]:
    """Yield (table, what a row is, its columns or where they are told) of the landing tables."""
    for name, content in load_yaml(PROJECT_ROOT / "ml" / "landing" / "contract.yaml")["tables"].items():
        yield f"`landing.{name}`", content["description"], f"[{name}](data_contract.md#{name})"
    for name, meaning, columns in (
        (QUARANTINE, "One row per row that was not loaded, with its reason.", QUARANTINE_COLUMNS),
        (LATE, "One row per row that came with another day's files and belongs to this one.", LATE_COLUMNS),
        (LEDGER, "One row per landed day and table: what came, what was loaded.", LEDGER_COLUMNS),
    ):
        yield f"`{name}`", meaning, ", ".join(f"`{column}` {kind}" for column, kind in columns.items())


def columns_of_models() -> dict[str, dict[str, str]]:
    """Return {dbt model: {column: meaning}} of what the YAML files say, as the graph shows it."""
    shared = (PROJECT_ROOT / "dbt_project" / "models" / "columns.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"{% docs (\w+) %}(.*?){% enddocs %}", shared))
    nodes = {
        model["name"]: {
            "name": model["name"],
            "resource_type": "model",
            "meta": meta,
            "columns": {
                column["name"]: {
                    "description": re.sub(r"{{ doc\('(\w+)'\) }}", lambda found: told[found[1]], column["description"])
                }
                for column in model.get("columns", ())
            },
        }
        for _, model, meta in models_of(MODELS)
    }
    return described_columns({"nodes": nodes}, read_tables(MODELS))


def key_of(model: Mapping[str, Any]) -> str:
    """Return the sentence that names the key of a dbt model, if a test holds it."""
    keys = [test["key"]["arguments"]["columns"] for test in model.get("data_tests", ()) if "key" in test]
    return f" Key: {', '.join(f'`{column}`' for column in keys[0])}." if keys else ""


def metrics_page() -> str:
    """Return the page of the server's metrics."""
    lines = [
        "# Metrics",
        "",
        "What `GET /metrics` of `crossfade serve` counts, for Prometheus. `deploy/prometheus/` has alert rules and a",
        "board for Grafana that read these names.",
        "[Be told when something is wrong](../how-to/alerts.md) tells how to be alerted.",
        "A histogram has `_bucket`, `_sum` and `_count`.",
        "With `--workers` every metric has the label `worker` too, and `crossfade_worker_up` is 0 for one that does",
        "not answer.",
        WRITTEN,
        "",
    ]
    rows = []
    for metric in vars(Metrics()).values():
        for family in metric.describe() if hasattr(metric, "_labelnames") else ():
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = ", ".join(f"`{label}`" for label in metric._labelnames)
            rows.append((f"`{name}`", family.type, labels, family.documentation))
    return "\n".join([*lines, *table(("metric", "type", "labels", "what it says"), rows)]).rstrip() + "\n"


def rules(column: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a column's values keep to, in words."""
    for bound, word in {"min": "at least", "above": "above", "max": "at most"}.items():
        if bound in column:
            yield f"{word} {column[bound]:,}"
    if "max_bytes" in column:
        yield f"at most {column['max_bytes']:,} bytes"
    if "values" in column:
        yield "one of " + ", ".join(f"`{value}`" for value in column["values"])
    if column.get("nullable"):
        yield "optional"
    if column.get("any_day"):
        yield "any day"
    if column.get("id"):
        yield "an id"
    if dates := column.get("no_dates"):
        yield "no dates: " + ", ".join(f"`{day}`" for day in dates)


if __name__ == "__main__":
    for name, text in pages().items():
        (HERE / name).write_text(text, encoding="utf-8")
