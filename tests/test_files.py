"""What lies at the package's door: locks that mean what they say."""

import errno
import fcntl
import subprocess
import sys

import pytest

from sparsemark.files import exclusive_lock


def test_a_lock_is_taken_by_one_and_free_afterwards(tmp_path):
    path = tmp_path / "a lock"
    with exclusive_lock(path), pytest.raises(BlockingIOError), exclusive_lock(path):
        pass
    with exclusive_lock(path):
        pass


def test_a_lock_goes_with_its_process(tmp_path):
    path = tmp_path / "lock"
    program = (
        "import os, sys; from sparsemark.files import exclusive_lock\n"
        "with exclusive_lock(sys.argv[1]): os.kill(os.getpid(), 9)"
    )
    assert (
        subprocess.run([sys.executable, "-c", program, path], env={"PYTHONPATH": "workflow/scripts"}).returncode == -9
    )
    with exclusive_lock(path):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, capsys, number):
    def no_locks(handle, operation):
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with exclusive_lock(tmp_path / "lock"):
        pass
    assert "this file system has no locks (no locks here)" in capsys.readouterr().err
