#!/usr/bin/env bash
# Runs after train.yaml is deployed, by conda and by pip alike.
# torchaudio's wheels link CUDA and fail to import beside a CPU build of torch. Its transforms are pure Python:
# installed without dependencies and without its compiled extensions, they work with any torch.
set -euo pipefail
python -m pip install --no-deps --no-compile --progress-bar off torchaudio==2.11.0
rm -f "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"/torchaudio/lib/*.so
