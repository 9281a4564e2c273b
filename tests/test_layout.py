"""The rules by which a newcomer finds a line: what a program is, and which room may import which."""

import re
from pathlib import Path

import pytest
import yaml

from sparsemark import study

#: The rooms in the order of the data's way. What lies at the package's door is everybody's.
ROOMS = ("data", "networks", "models", "engines", "measuring", "results")
#: Programs that another program starts, in a process or an environment of their own.
STARTED = {"attempt", "engine_worker"}
PROGRAMS = sorted(path.stem for path in study.SCRIPTS.glob("*.py"))
PACKAGE = study.SCRIPTS / "sparsemark"
MODULES = sorted(PACKAGE.rglob("*.py"))


def rules() -> set[str]:
    """The names of all rules: written out, or taken from the table of preparations and the list of pages."""
    text = "".join(path.read_text() for path in (study.ROOT / "rules").glob("*.smk"))
    written = re.findall(r"^rule (\w+):", text, re.MULTILINE)
    preparations = re.findall(r'^    "(\w+)": \(', text, re.MULTILINE)
    return {*written, *preparations, *yaml.safe_load((study.ROOT / "report/pages.yaml").read_text())}


def room_of(path: Path) -> str:
    """The room of a file of the package; "" for its door."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def test_every_program_is_the_namesake_of_a_rule():
    assert set(PROGRAMS) - STARTED <= rules()
    assert set(PROGRAMS) >= STARTED


def test_a_program_can_be_started():
    for name in PROGRAMS:
        text = (study.SCRIPTS / f"{name}.py").read_text()
        assert '__name__ == "__main__"' in text, f"{name}.py is no program: does it belong in a room?"


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_program_imports_another(name):
    assert not study.imported_modules(study.SCRIPTS / f"{name}.py") & set(PROGRAMS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_room_imports_from_a_later_one(path):
    imported = study.imported_modules(path)
    assert not imported & set(PROGRAMS)
    if room := room_of(path):
        later = ROOMS[ROOMS.index(room) + 1 :]
        found = {module.split(".")[1] for module in imported if module.startswith("sparsemark.")}
        assert not found & {*later, "configuration", "study"}


def test_tests_mirror_the_rooms():
    folders = {path.parent.name for path in (study.ROOT / "tests").glob("*/test_*.py")}
    assert folders == {*ROOMS, "workflow", "dualsparse"}
