"""Print the speed, in GFLOP/s, of a fixed computation on one CPU: how the machine itself drifts beside the engines.

It runs in a process of its own, so that NumPy finds one thread and one CPU when it starts.
"""

import argparse
import os
import statistics
import time

SIZE = 512
SECONDS = 0.05
MINIMUM_SAMPLES = 5


def gflops(seconds: float = SECONDS) -> float:
    """Return the speed of FP32 matrix products that stay in a core's cache: the median over `seconds`."""
    import numpy as np

    matrix = np.random.default_rng(0).standard_normal((SIZE, SIZE), np.float32)
    result = np.empty_like(matrix)
    np.matmul(matrix, matrix, out=result)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (begin := time.perf_counter()) < end or len(times) < MINIMUM_SAMPLES:
        np.matmul(matrix, matrix, out=result)
        times.append(time.perf_counter() - begin)
    return 2 * SIZE**3 / statistics.median(times) / 1e9


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cpu", type=int, help="number of the hardware thread")
    options = parser.parse_args(arguments)
    os.sched_setaffinity(0, {options.cpu})
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    print(f"{gflops():.2f}")


if __name__ == "__main__":
    main()
