"""Templates, plots and texts as a page shows them."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
import markupsafe

from ..evaluation import tables
from ..system.run_files import Json
from . import plots
from .plots import Differences, Scaling

CHARACTERS = 12_000  # of one text shown


def render_plot(plot: plots.Histogram | plots.Funnel | Scaling | Differences, path: Path | None = None) -> Json:
    """A plot with its `svg` for the page; with a path, as a PNG file too."""
    if path:
        plots.write_png([plot], plot.size, path)
    return {"plot": plot, "svg": plots.render_svg(plot, plot.size)}


def count_shares(counts: dict[str, int], names: dict[str, str]) -> list[tuple[str, int, str]]:
    """(name, count, share of all), under other names where `names` has them."""
    whole = sum(counts.values())
    return [(names.get(name, name), count, tables.format_percent(count, whole)) for name, count in counts.items()]


def _marked(text: str) -> markupsafe.Markup:
    """A model's text, escaped, its middle left out if it is very long, its tags set apart."""
    left_out = len(text) - CHARACTERS
    if left_out > 0:
        text = f"{text[: CHARACTERS // 2]}\n[... {left_out:,} characters left out ...]\n{text[-CHARACTERS // 2 :]}"
    tag = r'<span class="tag">\g<0></span>'
    return markupsafe.Markup(re.sub(r"&lt;/?(?:think|answer)&gt;", tag, str(markupsafe.escape(text))))


def render_page(template: str, target: Path, shown: Json) -> None:
    """Write a page whole or not at all."""
    # autoescape is by hand, since jinja2 would choose it by a file ending that a .jinja file hides.
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    pages = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    pages.filters["marked"] = _marked
    pages.filters["words"] = tables.join_cell
    page = pages.get_template(template).render(shown)
    partial = target.with_name(target.name + ".partial")
    partial.write_text(page, encoding="utf-8", errors="replace")
    partial.replace(target)
