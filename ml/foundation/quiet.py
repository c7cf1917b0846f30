"""Nothing is reported to anybody: the variables that libraries ask before they send usage data.

Importing ``ml`` sets them, and so does the start of every interpreter that the project is installed for
(``deploy/quiet.pth``): Dagster's own processes import nothing of ours. A value that somebody gave stays.
"""

import os

QUIET = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime asks once, while it is imported
    "DAGSTER_DISABLE_TELEMETRY": "1",  # for processes without a dagster.yaml, and for dg; any value disables
    "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    "GX_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A head that `ray start` made reports that it reports nothing: to this machine, where nobody listens.
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # it takes DO_NOT_TRACK for set only where that is "true"
    "DO_NOT_TRACK": "1",
}

for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)
# No variable tells `dg` to be quiet, a file of settings does.
os.environ.setdefault("DG_CLI_CONFIG", f"{__file__.removesuffix('quiet.py')}dg.toml")
