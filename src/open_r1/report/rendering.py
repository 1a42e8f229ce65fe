"""Render the templates, and the plots and texts that they show."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
import markupsafe

from ..evaluation import tables
from ..system.files import replace_file
from ..system.run_files import Json
from . import plots

CHARACTERS = 12_000  # of one text on a page


def render_plot(plot: plots.Drawing, path: Path | None = None) -> Json:
    """A plot with its `svg` for the page; with a path, as a PNG file too."""
    if path:
        plots.write_png([plot], path)
    return {"plot": plot, "svg": plots.render_svg(plot)}


def count_shares(counts: dict[str, int], names: dict[str, str] | None = None) -> list[tuple[str, str, str]]:
    """Rows of (name, count, share); `names` replaces some of the names."""
    whole = sum(counts.values())
    return [
        ((names or {}).get(name, name), f"{count:,}", tables.format_percent(count, whole))
        for name, count in counts.items()
    ]


def _mark_tags(text: str) -> markupsafe.Markup:
    """The text of a model, escaped, with its tags marked; the middle of a very long text is left out."""
    left_out = len(text) - CHARACTERS
    if left_out > 0:
        text = f"{text[: CHARACTERS // 2]}\n[... {left_out:,} characters left out ...]\n{text[-CHARACTERS // 2 :]}"
    tag = r'<span class="tag">\g<0></span>'
    return markupsafe.Markup(re.sub(r"&lt;/?(?:think|answer)&gt;", tag, str(markupsafe.escape(text))))


def render_page(template: str, target: Path, values: Json) -> None:
    """Fill a template with `values` and write the page atomically."""
    # jinja2 chooses autoescape by file ending, which does not work for .jinja files.
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    templates = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    templates.filters["marked"] = _mark_tags
    page = templates.get_template(template).render(values)
    with replace_file(target) as partial:
        partial.write_text(page, encoding="utf-8", errors="replace")


def describe_commit(record: Json) -> list[str]:
    """`["commit 0123456789-dirty"]` from a record with a `commit`; an empty list without one."""
    commit, dirty, _ = (record.get("commit") or "").partition("-dirty")
    return [f"commit {commit[:10]}{dirty}"] if commit else []
