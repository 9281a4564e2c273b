"""Keep the configuration that a study ran with, overlays merged, beside its results."""

import argparse
import json
from pathlib import Path

import yaml

from sparsemark.files import atomic_path, run_program


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=json.loads, required=True, help="the whole configuration as JSON")
    parser.add_argument("--out", type=Path, required=True, help="YAML file to write")
    options = parser.parse_args(arguments)
    with atomic_path(options.out) as partial:
        partial.write_text(yaml.safe_dump(options.config, sort_keys=False, allow_unicode=True), encoding="utf-8")


if __name__ == "__main__":
    run_program(main)
