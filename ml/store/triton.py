"""The version policy of a model in the Triton model repository layout."""


def with_version(config: str, version: int) -> str:
    """Return a release's ``config.pbtxt`` with the one version that is to be served."""
    return f"{config.rstrip()}\nversion_policy: {{ specific: {{ versions: [{version}] }} }}\n"
