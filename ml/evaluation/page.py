"""Reports: Markdown from a template, and the same as one HTML page that needs no other file."""

import base64
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path

import jinja2
from markdown_it import MarkdownIt

_STYLE = """
:root { --ink: #1f2933; --line: #e3e7ec; --code: #f4f6f8; --paper: #ffffff; --link: #0b5cad; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
a { color: var(--link); }
table { display: block; overflow-x: auto; border-collapse: collapse; font-size: .9rem; margin: 1rem 0;
  font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
pre { background: var(--code); padding: .7rem 1rem; overflow-x: auto; } img { max-width: 100%; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaf0; --line: #323a46; --code: #0f1319; --paper: #171c24; --link: #8fb0ff; }
  /* Plots are drawn on white: so white becomes the page and hues stay. */
  img { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen; }
}
@media (max-width: 600px) { p:has(> img) { overflow-x: auto; } img { max-width: none; width: 40rem; } }
"""


def render(template: Path, facts: Mapping[str, object]) -> str:
    """Return the Markdown of a template; a fact that it lacks is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template.name).render(**facts)


def write_pages(
    template: Path, facts: Mapping[str, object], plots: Mapping[str, bytes], out: Path, title: str
) -> list[Path]:
    """Write a report and return its files: Markdown, an HTML page beside it, and the plots in ``<stem>/``.

    Args:
        template: Of the Markdown; besides the facts it gets ``plots``, {name: path relative to the report}.
        facts: What it tells.
        plots: {name: PNG}.
        out: Markdown file to write.
        title: Of the page.
    """
    folder, page = out.with_suffix(""), out.with_suffix(".html")
    folder.mkdir(parents=True, exist_ok=True)
    for name, png in plots.items():
        (folder / f"{name}.png").write_bytes(png)
    text = render(template, {**facts, "plots": {name: f"{folder.name}/{name}.png" for name in plots}})
    out.write_text(text, encoding="utf-8")
    page.write_text(as_page(text, title, out.parent), encoding="utf-8")
    return [out, page, *(folder / f"{name}.png" for name in plots)]


def as_page(markdown: str, title: str, folder: Path) -> str:
    """Return a page with its plots inside; HTML in the text is shown, not run.

    Args:
        markdown: GitHub's dialect: tables.
        title: Of the page.
        folder: That the plots of the text are relative to.
    """
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    body = re.sub(r'src="([^":]+\.png)"', lambda found: f'src="{_embedded(folder / found[1])}"', body)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def _embedded(plot: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(plot.read_bytes()).decode()}"
