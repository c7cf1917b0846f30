"""Draws the asset graph for light and for dark pages: ``python docs/pictures/flow.py``."""

import runpy
from pathlib import Path
from typing import NamedTuple

IDEA = runpy.run_path(str(Path(__file__).with_name("idea.py")))
THEMES, FONT, arrow, box, text = (IDEA[name] for name in ("THEMES", "FONT", "arrow", "box", "text"))
WIDTH, HEIGHT = 130, 56


class Node(NamedTuple):
    """One box: its column and row, its colour's name in a theme, its title, what it is."""

    column: int
    row: int
    colour: str
    title: str
    what: str


NODES = (
    Node(0, 0, "app", "landing zone", "files of the app"),
    Node(1, 0, "app", "landing/*", "typed rows"),
    Node(2, 0, "app", "stg_*, int_*", "one day at a time"),
    Node(3, 0, "app", "feat_*", "trailing windows"),
    Node(4, 0, "app", "examples", "features, labels"),
    Node(5, 0, "app", "training_set", "query, snapshot"),
    Node(1, 1, "app", "experiment", "landed variants"),
    Node(2, 1, "app", "source_examples", "of the sister"),
    Node(3, 1, "app", "teacher_inputs", "per exposure"),
    Node(4, 1, "app", "soft_labels", "what it says"),
    Node(5, 1, "student", "control, student", "same rows, steps"),
    Node(2, 2, "sister", "demo teacher", "trained once"),
    Node(3, 2, "sister", "teacher", "contract, ONNX"),
    Node(5, 2, "app", "evaluation", "later days"),
    Node(2, 3, "app", "serving_snapshot", "features to look up"),
    Node(3, 3, "student", "crossfade serve", "answers"),
    Node(4, 3, "student", "release", "immutable"),
    Node(5, 3, "app", "onnx", "guards, verdict"),
)


def left(column: int) -> int:
    """Return where a column begins."""
    return 8 + 152 * column


def top(row: int) -> int:
    """Return where a row begins."""
    return 10 + 100 * row


def right_arrow(column: int, row: int) -> str:
    """Return the path from a box to the one on its right."""
    return f"M{left(column) + WIDTH} {top(row) + HEIGHT // 2} H{left(column + 1) - 2}"


def down_arrow(column: int, row: int) -> str:
    """Return the path from a box to the one below it."""
    return f"M{left(column) + WIDTH // 2} {top(row) + HEIGHT} V{top(row + 1) - 2}"


def left_arrow(column: int, row: int) -> str:
    """Return the path from a box to the one on its left."""
    return f"M{left(column)} {top(row) + HEIGHT // 2} H{left(column - 1) + WIDTH + 2}"


def picture(theme: object) -> str:
    """Return the picture as SVG."""
    line, quiet = (getattr(theme, name) for name in ("line", "quiet"))
    gap = left(3) - 11
    paths = [right_arrow(column, 0) for column in range(5)]
    paths += [down_arrow(column, 0) for column in (1, 2, 3, 5)]
    paths += [right_arrow(3, 1), down_arrow(2, 1), right_arrow(2, 2), down_arrow(5, 1), down_arrow(5, 2)]
    paths += [left_arrow(5, 3), left_arrow(4, 3), right_arrow(2, 3)]
    paths += [f"M{left(3) + WIDTH} {top(2) + HEIGHT // 2} H{left(4) + WIDTH // 2} V{top(1) + HEIGHT + 2}"]
    between = left(5) - 11
    paths += [f"M{left(4) + WIDTH} {top(1) + HEIGHT // 2} H{between} V{top(0) + HEIGHT // 2 + 12} H{left(5) - 2}"]
    snapshot = f"M{left(3)} {top(0) + HEIGHT - 10} H{gap} V{top(3) - 20} H{left(2) + WIDTH // 2} V{top(3) - 2}"
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 902 376" font-family="{FONT}" role="img" '
        'aria-label="The asset graph, from the landing zone to the server">\n'
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0 0 L10 5 L0 10 z" fill="{line}"/></marker></defs>\n',
        *(arrow(theme, path) for path in paths),
        arrow(theme, snapshot, dashed=True),
        text(left(5) - 13, top(3) - 8, "the gate", quiet, 12.5, anchor="end"),
    ]
    for column, row, colour, title, what in NODES:
        place = (left(column), top(row), WIDTH, HEIGHT)
        drawn.append(box(theme, getattr(theme, colour), place, title, what))
    return "".join([*drawn, "</svg>\n"]).replace('font-size="15"', 'font-size="13"')


if __name__ == "__main__":
    for name, theme in THEMES.items():
        Path(__file__).with_name(f"flow-{name}.svg").write_text(picture(theme), encoding="utf-8")
