"""Report pages as text, and the files that they are made from."""

import html.parser
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet

from open_r1.report import run_report

ATTACK = "<script>alert(1)</script>"
PNG = b"\x89PNG"


class Page(html.parser.HTMLParser):
    """A page's tags, its text, and everything that a browser would load for it."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.alts: list[str] = []
        self.text = ""
        self.pieces: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "srcset", "data", "action") and not value.startswith("#"):
                self.loaded.append(value)
            if tag == "svg" and name == "aria-label":
                self.alts.append(value)

    def handle_data(self, data):
        self.text += data
        self.pieces += data.split()

    @property
    def line(self) -> str:
        """The text as one line, a space between any two elements."""
        return " ".join(self.pieces)


def put(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def put_metrics(run: Path, rows: list[dict], end: str = "") -> None:
    put(run / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows) + end)


def put_rows(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def figure(value: float | None, half: float = 0.02) -> dict:
    low, high = (None, None) if value is None else (value - half, value + half)
    return {"value": value, "low": low, "high": high}


def read_page(run: Path) -> str:
    return Page(run_report.write_report(run)).line
