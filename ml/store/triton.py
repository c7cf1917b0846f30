"""The version policy of a model in the Triton model repository layout."""

import re

_POLICY = re.compile(r"version_policy: \{ specific: \{ versions: \[(\d+)\] \} \}")


def with_version(config: str, version: int) -> str:
    """Return a release's ``config.pbtxt`` with the one version that is to be served."""
    return f"{config.rstrip()}\nversion_policy: {{ specific: {{ versions: [{version}] }} }}\n"


def served_version(config: str) -> int | None:
    """Return the version that a configuration written by ``with_version`` names, or None."""
    found = _POLICY.search(config)
    return int(found[1]) if found else None
