"""The engine's tests run where its packages are: in the environment of envs/dualsparse.yaml."""

from importlib.util import find_spec

if find_spec("numba") is None or find_spec("onnxruntime") is None:
    collect_ignore_glob = ["test_*.py"]
