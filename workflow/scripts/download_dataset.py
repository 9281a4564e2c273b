"""Fetch one archive of a data set: resumed after an interruption, trusted only after its checksum.

An address that is a folder on this machine is taken as an extracted archive, and packed again.
"""

import argparse
import glob
import http.client
import shutil
import sys
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from sparsemark.files import InputError, atomic_path, run_program, sha256
from sparsemark.progress import Progress

ATTEMPTS = 5
TIMEOUT_S = 60
BLOCK = 1 << 20


def local_path(url: str) -> Path | None:
    """Return the path that a file:// address names, or None for another one."""
    if not url.startswith("file:"):
        return None
    return Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))


def pack(folder: Path, out: Path) -> None:
    """Write the files of an extracted data set, hidden ones left out, as the archive `out`, not compressed.

    Raises:
        InputError: the folder has no wav file in a folder of its own.
    """
    # It follows links and leaves out what is hidden.
    found = sorted(map(Path, glob.glob("**", root_dir=folder, recursive=True)))
    paths = [path for path in found if (folder / path).is_file()]
    if not any(path.suffix.lower() == ".wav" and len(path.parts) > 1 for path in paths):
        raise InputError(f"{folder}: expected an extracted data set, a folder of wav files for each word")
    with atomic_path(out) as partial, tarfile.open(partial, "w:gz", compresslevel=0, dereference=True) as tar:
        for path in paths:
            tar.add(folder / path, str(path))


@contextmanager
def open_at(url: str, offset: int) -> Iterator[tuple[BinaryIO, int, int]]:
    """Open `url` from byte `offset` on; yield the stream, the byte it really starts at and the total size.

    A server that knows no ranges starts at 0. The size is 0 if the server does not tell.
    """
    if path := local_path(url):
        with open(path, "rb") as stream:
            size = path.stat().st_size
            start = min(offset, size)
            stream.seek(start)
            yield stream, start, size
        return
    request = urllib.request.Request(url, headers={"Range": f"bytes={offset}-"} if offset else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as stream:
        start = offset if stream.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        length = int(stream.headers.get("Content-Length") or 0)
        yield stream, start, start + length if length else 0


def fetch(url: str, part: Path) -> None:
    """Add to `part` what it lacks of `url`.

    Raises:
        OSError: the connection failed or ended early. What came so far stays in `part`.
    """
    offset = part.stat().st_size if part.exists() else 0
    try:
        with open_at(url, offset) as (stream, start, size), open(part, "ab") as output:
            output.truncate(start)
            progress = Progress(f"download {part.stem}", size)
            progress.start_at(start)
            received = start
            while block := stream.read(BLOCK):
                output.write(block)
                received += len(block)
                progress.advance(len(block), f"{received / 1e6:.0f} of {size / 1e6:.0f} MB")
    except urllib.error.HTTPError as error:
        # The part already reaches to the end: the checksum tells whether it is the right one.
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        return
    if received < size:
        raise ConnectionError(f"the connection ended at byte {received} of {size}")


def fetch_with_retries(url: str, part: Path) -> None:
    """Fetch `url` into `part`, trying again (from where it stopped) after a failure that may pass.

    Raises:
        InputError: the address cannot be reached.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            fetch(url, part)
            return
        except (OSError, http.client.HTTPException) as error:
            final = url.startswith("file:") or (isinstance(error, urllib.error.HTTPError) and error.code < 500)
            if final or attempt == ATTEMPTS:
                reason = getattr(error, "reason", None) or error.__cause__ or error
                raise InputError(f"{url}: the address cannot be reached ({reason})") from error
            wait = 2 ** (attempt - 1)
            print(f"{url}: {error}; next attempt in {wait} s", file=sys.stderr, flush=True)
            time.sleep(wait)


def download(url: str, checksum: str | None, out: Path) -> None:
    """Bring the file at `url` to `out`; it appears there only when its sha256 is `checksum`.

    Without a checksum it is trusted as it came, and its sha256 is printed to be kept in the configuration.

    Raises:
        InputError: not an address of a known kind, not reachable, a full disk or another content than expected.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https", "file"):
        raise InputError(f"{url}: expected an address that starts with http://, https:// or file://")
    out.parent.mkdir(parents=True, exist_ok=True)
    if (folder := local_path(url)) and folder.is_dir():
        print(f"{url}: a folder, which has no sha256: not checked", file=sys.stderr)
        pack(folder, out)
        return
    # The fixed name lets the next run find what an interrupted one left.
    part = out.with_name(out.name + ".part")
    resumed = part.exists()
    fetch_with_retries(url, part)
    found = sha256(part)
    if checksum is None:
        print(f"{url}: not checked, sha256 {found}", file=sys.stderr)
        checksum = found
    if found != checksum and resumed:
        # The rest may have been of another file: only a whole download can be blamed.
        part.unlink()
        fetch_with_retries(url, part)
        found = sha256(part)
    if found != checksum:
        part.unlink()
        raise InputError(f"{url}: wrong checksum: expected sha256 {checksum}, got {found}")
    shutil.move(part, out)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="address: http://, https:// or file://")
    parser.add_argument("--sha256", type=str.lower, help="the archive's checksum, 64 hexadecimal digits")
    parser.add_argument("--out", type=Path, required=True, help="where the archive goes; OUT.part while it comes")
    options = parser.parse_args(arguments)
    download(options.url, options.sha256, options.out)


if __name__ == "__main__":
    run_program(main)
