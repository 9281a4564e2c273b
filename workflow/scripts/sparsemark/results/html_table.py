"""HTML tables for the report: one self-contained page each, readable on screen and in print."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

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

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{{ title }}</title>
<style>{{ style|safe }}</style>
</head>
<body>
<h1>{{ title }}</h1>
<p>{{ note }}</p>
<table>
<thead><tr>
{%- for name in header %}<th{{ classes(name, name) }}>{{ name }}</th>{% endfor -%}
</tr></thead>
<tbody>
{% for row in rows -%}
<tr>
{%- for name, value in row %}<td{{ classes(name, value) }}>{{ value }}</td>{% endfor -%}
</tr>
{% endfor -%}
</tbody>
</table>
</body>
</html>
"""

#: What stands where there is no value.
EMPTY = ("", "–")


@dataclass(frozen=True)
class Cell:
    """A text with a class of STYLE: "good", "bad" or "quiet"."""

    text: str
    style: str = ""

    def __str__(self) -> str:
        return self.text


def write_table(
    path: Path, title: str, note: str, header: Sequence[str], rows: Sequence[Sequence[object]], numeric: Sequence[str]
) -> None:
    """Write a page with a title, a note and a table, atomically. A column without a value in any row is left out.

    Args:
        header: the columns' titles.
        rows: per row, a `Cell` or any value per column; values are written with str() and escaped.
        numeric: those columns whose values are aligned to the right.
    """

    def classes(column: str, value: object) -> Markup:
        found = ["number"] if column in numeric else []
        found += [value.style] if isinstance(value, Cell) and value.style else []
        return Markup(' class="{}"').format(" ".join(found)) if found else Markup()

    kept = [number for number in range(len(header)) if not rows or any(str(row[number]) not in EMPTY for row in rows)]
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(TEMPLATE)
    page = template.render(
        title=title,
        note=note,
        style=STYLE,
        header=[header[number] for number in kept],
        rows=[[(header[number], row[number]) for number in kept] for row in rows],
        classes=classes,
    )
    with atomic_path(path) as partial:
        partial.write_text(page + "\n", encoding="utf-8")
