"""Arithmetic over task outputs, as in ``rank_by``: parsed once, evaluated with numpy or with torch alike."""

import ast
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

Function = Callable[..., Any]
"""Of arrays or of tensors, whichever the values are."""

_OPERATORS: dict[type[ast.AST], Function] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_ARGUMENTS = {"sigmoid": 1, "exp": 1, "log1p": 1, "clip": 3}
_MAX_LENGTH = 500


class ExpressionError(ValueError):
    """An expression that cannot be used; the message quotes it."""


@dataclass(frozen=True)
class Expression:
    """A checked expression.

    Attributes:
        text: The source.
        names: The task names that it uses.
    """

    text: str
    names: frozenset[str]

    def __call__(self, values: Mapping[str, object], functions: Mapping[str, Function] | None = None) -> Any:
        """Evaluate over arrays or tensors of one shape.

        Args:
            values: {task: array}; must hold ``names``.
            functions: Implementation of ``sigmoid``, ``exp``, ``log1p`` and ``clip(x, low, high)``; default is numpy's.

        Returns:
            Array of the shape of the values.
        """
        return _evaluate(_tree(self.text), values, functions or _of_numpy())


@cache
def _of_numpy() -> dict[str, Function]:
    import numpy as np

    return {"sigmoid": lambda x: 0.5 * (1.0 + np.tanh(0.5 * x)), "exp": np.exp, "log1p": np.log1p, "clip": np.clip}


def parse(text: str, tasks: Collection[str]) -> Expression:
    """Check an expression of numbers, ``+ - * /``, task names, ``sigmoid``, ``exp``, ``log1p`` and ``clip``.

    Args:
        text: For example ``sigmoid(ctr) * exp(clip(trail - 5, -2, 3))``.
        tasks: Names that may occur.

    Raises:
        ExpressionError: The text is no expression, or holds anything else.
    """
    names: set[str] = set()
    try:
        varies = _check(_tree(text), tasks, names)
    except ExpressionError as error:
        raise ExpressionError(f"expression {text!r}: {error}") from error
    if not varies:
        raise ExpressionError(f"expression {text!r}: names no task of {sorted(tasks)}")
    return Expression(text, frozenset(names))


def _tree(text: str) -> ast.expr:
    if len(text) > _MAX_LENGTH:
        raise ExpressionError(f"longer than {_MAX_LENGTH} characters")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise ExpressionError(f"cannot be parsed: {error}") from error


def _check(node: ast.expr, tasks: Collection[str], names: set[str]) -> bool:
    """Check one node, collect task names, and tell whether its value depends on a task."""
    match node:
        case ast.Constant(value=value) if type(value) in (int, float):
            return False
        case ast.Name(id=name):
            if name not in tasks:
                raise ExpressionError(f"{name!r} is no task of {sorted(tasks)}")
            names.add(name)
            return True
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            return _check(operand, tasks, names)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _check(left, tasks, names) | _check(right, tasks, names)
        case ast.Call(func=ast.Name(id=function), args=arguments, keywords=[]):
            if _ARGUMENTS.get(function) != len(arguments):
                known = ", ".join(f"{name} ({count})" for name, count in _ARGUMENTS.items())
                raise ExpressionError(f"{function} with {len(arguments)} arguments; known functions: {known}")
            varies = [_check(argument, tasks, names) for argument in arguments]
            if not varies[0] or any(varies[1:]):
                raise ExpressionError(f"{function} takes a term with a task first, then numbers: {ast.unparse(node)}")
            return True
        case _:
            raise ExpressionError(f"{ast.unparse(node)!r} is not allowed")


def _evaluate(node: ast.expr, values: Mapping[str, object], functions: Mapping[str, Function]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return values[name]
        case ast.UnaryOp(op=op, operand=operand):
            return _OPERATORS[type(op)](_evaluate(operand, values, functions))
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_evaluate(left, values, functions), _evaluate(right, values, functions))
        case ast.Call(func=ast.Name(id=function), args=arguments):
            return functions[function](*(_evaluate(argument, values, functions) for argument in arguments))
    raise ExpressionError(f"{ast.unparse(node)!r} is not allowed")
