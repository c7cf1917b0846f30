"""``crossfade columns``: what feature tables and examples must have."""

import yaml

from deploy.cli.shared import AsJson
from deploy.cli.terminal import say, show_json
from ml.features.contracts import by_type, contracts
from ml.foundation.settings import Settings
from ml.surfaces.files import load_surfaces


def columns(as_json: AsJson = False) -> None:
    """Print the columns and types that feature tables and examples must have, as YAML; made of what is declared.

    dbt builds no table that breaks them. `any` is a column that no surface reads; its type may be what it is.
    """
    settings = Settings()
    declared = contracts(settings, load_surfaces(settings))
    if as_json:
        show_json(declared)
        return
    grouped = {table: dict(by_type(contract)) for table, contract in declared.items()}
    say(yaml.safe_dump(grouped, sort_keys=False, width=120, default_flow_style=None).rstrip())
