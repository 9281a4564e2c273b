"""The download, against a real HTTP server on this machine that can break off, refuse ranges and hide files."""

import hashlib
import http.server
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import download_dataset
from sparsemark.files import InputError

CONTENT = bytes(range(256)) * 5000
CHECKSUM = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT as /archive.tar.gz and remembers which ranges were asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        self.knows_ranges = True
        self.breaks_after: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/archive.tar.gz"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.ranges.append(asked)
        if self.path != "/archive.tar.gz":
            self.send_error(404, "Not here")
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.knows_ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        end = start + self.server.breaks_after.pop(0) if self.server.breaks_after else len(CONTENT)
        self.wfile.write(CONTENT[start:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_dataset.time, "sleep", lambda _: None)


def fetch(url: str, out: Path, checksum: str = CHECKSUM) -> None:
    download_dataset.main(["--url", url, "--sha256", checksum, "--out", str(out)])


def test_whole_file_over_http_and_from_disk(server: Server, tmp_path: Path) -> None:
    fetch(server.url, tmp_path / "data" / "archive.tar.gz")
    assert (tmp_path / "data" / "archive.tar.gz").read_bytes() == CONTENT
    source = tmp_path / "with space.tar.gz"
    source.write_bytes(CONTENT)
    fetch(source.as_uri(), tmp_path / "copy.tar.gz")
    assert (tmp_path / "copy.tar.gz").read_bytes() == CONTENT


def test_a_broken_connection_is_resumed_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.breaks_after = [100_000, 200_000]
    fetch(server.url, tmp_path / "archive.tar.gz")
    assert (tmp_path / "archive.tar.gz").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=300000-"]


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_a_killed_run_is_resumed(server: Server, tmp_path: Path, scheme: str) -> None:
    source = tmp_path / "source.tar.gz"
    source.write_bytes(CONTENT)
    (tmp_path / "archive.tar.gz.part").write_bytes(CONTENT[:70_000])
    fetch(server.url if scheme == "http" else source.as_uri(), tmp_path / "archive.tar.gz")
    assert (tmp_path / "archive.tar.gz").read_bytes() == CONTENT
    assert not (tmp_path / "archive.tar.gz.part").exists()
    assert server.ranges == (["bytes=70000-"] if scheme == "http" else [])


def test_a_whole_part_needs_no_more_bytes(server: Server, tmp_path: Path) -> None:
    (tmp_path / "archive.tar.gz.part").write_bytes(CONTENT)
    fetch(server.url, tmp_path / "archive.tar.gz")
    assert (tmp_path / "archive.tar.gz").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.knows_ranges = False
    (tmp_path / "archive.tar.gz.part").write_bytes(CONTENT[:70_000])
    fetch(server.url, tmp_path / "archive.tar.gz")
    assert (tmp_path / "archive.tar.gz").read_bytes() == CONTENT


def test_a_part_of_another_file_is_not_trusted(server: Server, tmp_path: Path) -> None:
    (tmp_path / "archive.tar.gz.part").write_bytes(b"x" * 70_000)
    fetch(server.url, tmp_path / "archive.tar.gz")
    assert (tmp_path / "archive.tar.gz").read_bytes() == CONTENT


def test_wrong_checksum_is_one_sentence_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"wrong checksum: expected sha256 {'0' * 64}, got {CHECKSUM}"):
        fetch(server.url, tmp_path / "archive.tar.gz", "0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_without_a_checksum_the_content_s_own_is_told(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    download_dataset.main(["--url", server.url, "--out", str(tmp_path / "archive.tar.gz")])
    assert (tmp_path / "archive.tar.gz").read_bytes() == CONTENT
    assert f"not checked, sha256 {CHECKSUM}" in capsys.readouterr().err


def test_unreachable_addresses_are_one_sentence(server: Server, tmp_path: Path) -> None:
    closed = f"http://127.0.0.1:{server.server_port}"
    for url in (f"{closed}/other.tar.gz", "http://127.0.0.1:9/x.gz", (tmp_path / "none.gz").as_uri(), "ftp://a/b"):
        with pytest.raises(InputError) as caught:
            fetch(url, tmp_path / "archive.tar.gz")
        assert str(caught.value).startswith(url)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "archive.tar.gz").exists()


def test_a_folder_is_an_extracted_archive(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder, elsewhere = tmp_path / "data ü", tmp_path / "elsewhere"
    for name in ("yes/a.wav", "no/b.WAV", "validation_list.txt", ".git/config", "yes/._a.wav"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    elsewhere.mkdir()
    (elsewhere / "c.wav").write_text("linked")
    (folder / "up").symlink_to(elsewhere)
    # An overlay can't take the archive's checksum away.
    download_dataset.download(folder.as_uri(), CHECKSUM, tmp_path / "out.tar.gz")
    assert "a folder, which has no sha256: not checked" in capsys.readouterr().err
    with tarfile.open(tmp_path / "out.tar.gz") as tar:
        found = {member.name: tar.extractfile(member).read().decode() for member in tar if member.isfile()}
    assert found == {name: name for name in ("yes/a.wav", "no/b.WAV", "validation_list.txt")} | {"up/c.wav": "linked"}


def test_a_folder_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    folder, out = tmp_path / "data", tmp_path / "out.tar.gz"
    folder.mkdir()
    (folder / "a.wav").write_text("in no folder of a word")
    with pytest.raises(InputError, match="expected an extracted data set, a folder of wav files for each word"):
        download_dataset.download(folder.as_uri(), None, out)
    assert not out.exists()
