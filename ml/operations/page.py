"""Pages of HTML that need no other file, from templates of this room."""

from pathlib import Path

import jinja2


def page(template: Path, **told: object) -> str:
    """Return a filled template; what is told is shown as text and never run, and what is missing is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template.name).render(**told)
