"""What every program of the workflow shares: safe files and one-sentence errors. Standard library only."""

import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(Exception):
    """Something the user gave is wrong. Its message is one sentence: which file, which key, what was expected."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place on success and vanishes on an error.

    A reader, or a run after a kill, sees the whole file or none.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: several writers choose their format by it.
    partial = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> object:
    """Read a JSON file; raise InputError if it is missing or is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a readable JSON file ({error})") from error


def sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes as 64 hexadecimal digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def exclusive_lock(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the operating system's lock on `path`, creating the file. It goes with its process, however that ends.

    Some file systems (NFS, Lustre and EFS, as they are set up here and there) have no locks: then there is a warning on
    standard error instead of a protection.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is false.
    """
    with open(path, "a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError as error:
            print(f"warning: {path}: this file system has no locks ({error.strerror})", file=sys.stderr)
        yield


def run_program(program: Callable[[], None]) -> None:
    """Run a script's entry function; an InputError becomes one line on standard error and exit status 1."""
    try:
        program()
    except InputError as error:
        sys.exit(f"error: {error}")
