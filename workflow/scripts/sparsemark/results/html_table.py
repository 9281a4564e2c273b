"""HTML tables for the report: one self-contained page each, readable on screen and in print."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsemark.files import atomic_path

STYLE = """
body { font: 14px/1.45 system-ui, "DejaVu Sans", Arial, sans-serif; color: #222; margin: 1.5em; }
h1 { font-size: 1.25em; margin: 0 0 .3em; }
p { max-width: 60em; color: #555; margin: .2em 0 1em; }
table { border-collapse: collapse; }
th, td { padding: .3em .8em; text-align: left; vertical-align: top; border-bottom: 1px solid #e2e2e2; }
th { position: sticky; top: 0; background: #f4f4f4; border-bottom: 2px solid #bbb; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr:hover td { background: #fafafa; }
.good { color: #00684a; font-weight: 600; }
.bad { color: #b23c00; font-weight: 600; }
.quiet { color: #777; }
@media print { th { position: static; } body { margin: 0; font-size: 10px; } }
"""


@dataclass(frozen=True)
class Cell:
    """A text with a class of STYLE: "good", "bad" or "quiet"."""

    text: str
    style: str = ""


def write_table(
    path: Path, title: str, note: str, header: Sequence[str], rows: Sequence[Sequence[object]], numeric: Sequence[str]
) -> None:
    """Write a page with a title, a note and a table, atomically.

    Args:
        header: the columns' titles.
        rows: per row, a `Cell` or any value per column; values are written with str() and escaped.
        numeric: those columns whose values are aligned to the right.
    """
    right = [name in numeric for name in header]
    lines = [f"<tr>{''.join(_cell('th', name, flag) for name, flag in zip(header, right, strict=True))}</tr>"]
    for row in rows:
        lines.append(f"<tr>{''.join(_cell('td', value, flag) for value, flag in zip(row, right, strict=True))}</tr>")
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{html.escape(title)}</h1>\n<p>{html.escape(note)}</p>\n<table>\n"
        f"<thead>{lines[0]}</thead>\n<tbody>\n" + "\n".join(lines[1:]) + "\n</tbody>\n</table>\n</body>\n</html>\n"
    )
    with atomic_path(path) as partial:
        partial.write_text(page, encoding="utf-8")


def _cell(tag: str, value: object, right: bool) -> str:
    style = value.style if isinstance(value, Cell) else ""
    text = value.text if isinstance(value, Cell) else str(value)
    classes = " ".join(name for name in ("number" if right else "", style) if name)
    attribute = f' class="{classes}"' if classes else ""
    return f"<{tag}{attribute}>{html.escape(text)}</{tag}>"
