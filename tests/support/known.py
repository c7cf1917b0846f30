"""What a test knows and a type leaves open: narrowed by an assertion, so that a test that errs fails where it does."""

from typing import TypeVar

T = TypeVar("T")


def present(value: T | None) -> T:
    """Return what is not missing."""
    assert value is not None
    return value


def the(kind: type[T], value: object) -> T:
    """Return what is of this kind."""
    assert isinstance(value, kind), f"{value!r} is no {kind.__name__}"
    return value
