"""Draws the picture of the idea for light and for dark pages: ``python docs/pictures/idea.py``."""

from html import escape
from pathlib import Path
from typing import NamedTuple

FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"


class Theme(NamedTuple):
    """Colours of one picture."""

    text: str
    quiet: str
    line: str
    app: str
    sister: str
    band: str
    student: str


THEMES = {
    "light": Theme("#1f2328", "#57606a", "#6e7781", "#f6f8fa", "#fff1d6", "#fffaf0", "#dafbe1"),
    "dark": Theme("#e6edf3", "#9da7b3", "#8b949e", "#161b22", "#3d2e00", "#1d1809", "#12361f"),
}


def box(theme: Theme, fill: str, place: tuple[int, int, int, int], title: str, *lines: str) -> str:
    """Return a box (x, y, width, height) with a title and lines below it, centred."""
    x, y, width, height = place
    middle, top = x + width / 2, y + height / 2 - 9 * len(lines) + 5
    drawn = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{fill}" stroke="{theme.line}"/>\n'
    drawn += text(middle, top, title, theme.text, min(15, 1.45 * width / len(title)), "600")
    for n, line in enumerate(lines, 1):
        drawn += text(middle, top + 18 * n, line, theme.quiet, 12.5)
    return drawn


def text(x: float, y: float, words: str, colour: str, size: float, weight: str = "400", anchor: str = "middle") -> str:
    """Return one line of text."""
    return (
        f'<text x="{x:g}" y="{y:g}" fill="{colour}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}">{escape(words)}</text>\n'
    )


def arrow(theme: Theme, path: str, dashed: bool = False) -> str:
    """Return an arrow along an SVG path."""
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<path d="{path}" fill="none" stroke="{theme.line}" stroke-width="1.8"{dash} marker-end="url(#tip)"/>\n'


def picture(theme: Theme) -> str:
    """Return the picture as SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 430" font-family="{FONT}" role="img" '
        'aria-label="A frozen teacher scores the app\'s examples; a student learns the scores and must pass a gate">\n'
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0 0 L10 5 L0 10 z" fill="{theme.line}"/></marker></defs>\n',
        f'<rect x="166" y="8" width="216" height="136" rx="12" fill="{theme.band}" stroke="{theme.line}" '
        'stroke-dasharray="3 4"/>\n',
        text(274, 32, "Sister platform", theme.quiet, 13, "600"),
        box(theme, theme.sister, (184, 46, 180, 82), "Teacher", "its ranking model,", "frozen, an ONNX file"),
        box(theme, theme.app, (440, 46, 190, 82), "Soft labels", "what the teacher says", "about each example"),
        text(12, 205, "Your app", theme.quiet, 13, "600", "start"),
        box(theme, theme.app, (12, 218, 118, 82), "Events", "files, a", "folder a day"),
        box(theme, theme.app, (184, 218, 180, 82), "Examples", "features known before,", "labels seen after (dbt)"),
        box(theme, theme.student, (440, 218, 190, 82), "Student", "learns labels and", "soft labels (PyTorch)"),
        box(theme, theme.app, (440, 336, 190, 82), "Control", "same network and rows,", "no soft labels"),
        box(theme, theme.app, (686, 218, 92, 200), "Gate", "guard after", "guard, then", "one verdict"),
        box(theme, theme.student, (814, 218, 78, 82), "Server", "answers", "(ONNX)"),
        arrow(theme, "M130 259 H182"),
        arrow(theme, "M274 218 V130"),
        text(284, 182, "scored in batch", theme.quiet, 12.5, anchor="start"),
        arrow(theme, "M364 87 H438"),
        arrow(theme, "M535 128 V216"),
        text(545, 167, "extra heads that", theme.quiet, 12.5, anchor="start"),
        text(545, 184, "never serve", theme.quiet, 12.5, anchor="start"),
        arrow(theme, "M364 259 H438"),
        arrow(theme, "M402 259 V377 H438"),
        arrow(theme, "M630 259 H684"),
        arrow(theme, "M630 377 H684"),
        arrow(theme, "M778 259 H812"),
        text(846, 330, "what passes,", theme.quiet, 12.5),
        text(846, 347, "serves", theme.quiet, 12.5),
        "</svg>\n",
    ]
    return "".join(parts)


if __name__ == "__main__":
    for name, theme in THEMES.items():
        Path(__file__).with_name(f"idea-{name}.svg").write_text(picture(theme), encoding="utf-8")
