#!/usr/bin/env bash
# Makes the environment, then runs the linter and the tests.
#
#   ./launch/test.sh                 the suite; downloads no data
#   ./launch/test.sh -m slow         the checks that take minutes
#   ./launch/test.sh tests/data      any arguments of pytest
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "$0")/environment.sh" dev,onnx,torch
ruff check .
exec python -m pytest --numprocesses=2 --dist=worksteal --durations=10 "$@"
