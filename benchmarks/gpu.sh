#!/usr/bin/env bash
# Check a machine with an NVIDIA GPU in at most five minutes: parity, latency, throughput, and no silent fallback.
#
#   benchmarks/gpu.sh [--product washer] [--models models] [--tensorrt] [--out FILE.json]
#
# Exit codes: 0 passed, 1 a check failed, 2 this machine has no usable GPU, 124 it took more than five minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
exec timeout 300 "${PYTHON:-.venv/bin/python}" -m benchmarks.gpu "$@"
