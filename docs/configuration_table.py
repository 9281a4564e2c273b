"""Write the table of docs/configuration.md from the configuration's schema: `python docs/configuration_table.py`.

A test compares the two.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "workflow/scripts"))

from sparsemark.configuration import SCHEMA, target  # noqa: E402

PAGE = ROOT / "docs/configuration.md"
WHOLE = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
DEFINITIONS = WHOLE["$defs"]
#: What stands for a name, or a place in a list, that the schema leaves open.
OPEN = {"class_sets": "SET", "datasets": "DATASET", "networks": "NETWORK"}
BOUNDS = {
    "minimum": "from {:,}",
    "exclusiveMinimum": "above {:,}",
    "maximum": "to {:,}",
    "exclusiveMaximum": "below {:,}",
}


def kind(schema: dict) -> str:
    """Return in a few words what a value may be."""
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array":
        return f"list of: {kind(target(schema['items'], DEFINITIONS))}"
    types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    names = {"string": "text", "object": "entries", "number": "number", "integer": "whole number"}
    bounds = [text.format(schema[key]) for key, text in BOUNDS.items() if key in schema]
    return " ".join([" or ".join(names[name] for name in types), *bounds])


def rows(schema: dict, path: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Yield key, type, default and description of every key below a part of the schema."""
    schema = target(schema, DEFINITIONS)
    for name, entry in schema.get("properties", {}).items():
        # The keys of `training`, which a network's entry repeats.
        if entry.get("$ref", "").startswith("#/$defs/training/properties/"):
            continue
        entry, key = target(entry, DEFINITIONS), f"{path}{name}"
        required = "required" if path and name in schema.get("required", []) else ""
        default = f"`{json.dumps(entry['default'])}`" if "default" in entry else required
        yield key, kind(entry), default, entry["description"]
        yield from rows(entry, f"{key}.")
    for part, name in (("additionalProperties", OPEN.get(path.rstrip("."))), ("items", "N")):
        nested = schema.get(part)
        if isinstance(nested, dict) and "properties" in nested:
            yield from rows(nested, f"{path}{name}.")
        elif isinstance(nested, dict) and "description" in nested and part == "additionalProperties":
            yield f"{path}{name}", kind(nested), "", nested["description"]


def table() -> str:
    """Return the whole table as Markdown."""
    lines = ["| Key | Is | Default | Meaning |", "|---|---|---|---|"]
    for key, form, default, meaning in rows(WHOLE):
        lines.append(f"| `{key}` | {form} | {default} | {' '.join(meaning.split())} |")
    return "\n".join(lines)


def page(text: str) -> str:
    """Return the page's text with its table made anew."""
    before, _, rest = text.partition("<!-- table -->\n")
    _, _, after = rest.partition("\n<!-- end of table -->")
    return f"{before}<!-- table -->\n{table()}\n<!-- end of table -->{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
