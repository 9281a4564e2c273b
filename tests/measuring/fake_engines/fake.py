"""An engine for the tests of measuring. Its "model" is a text file that says how it should behave."""

import os
import signal
import time
from pathlib import Path
from typing import ClassVar

import numpy as np

from sparsemark.engines.protocol import Engine, Execution, UnsupportedCase


class Adapter(Engine):
    title = "Fake"
    environment = "workflow"
    models: ClassVar = {"fp32": "nothing"}
    missing: ClassVar = {"int8": "it is a fake"}

    def load(self, model: Path, *, batch_size: int, threads: int, precision: str) -> None:
        self.behaviour = model.read_text().strip()
        self.threads = threads
        match self.behaviour:
            case "unsupported":
                raise UnsupportedCase("only on Tuesdays")
            case "error":
                raise ValueError("this model\nis odd")
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os.write(2, b"fatal: no licence\n")
                os._exit(3)
            case "hang":
                if os.fork() == 0:
                    Path(model.with_suffix(".child")).write_text(str(os.getpid()))
                time.sleep(600)
            case "greedy":
                self.hoard = [bytearray(1 << 26) for _ in range(1 << 12)]
            case "abort":
                os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
                os.abort()
            case "noisy":
                os.write(1, b'{"status": "ok"}\n' * 1000)

    def run(self, x: np.ndarray) -> np.ndarray:
        y = x.reshape(len(x), -1)[:, :12] * np.float32(1)
        match self.behaviour:
            case "wrong":
                y = y[:, ::-1].copy()
            case "double":
                y = y.astype(np.float64)
            case "not finite":
                y[0, 0] = np.nan
            case "scribble":
                x[:] = 0
            case "slow":
                time.sleep(0.01)
            case "slower":
                time.sleep(0.03)
            case "crash later":
                os.kill(os.getpid(), signal.SIGILL)
        return y

    def execution(self) -> Execution:
        affinity = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        details = {"affinity": affinity, "OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"]}
        return Execution("1.0", self.threads, "fp32", "", 1.0, details)
