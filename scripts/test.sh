#!/usr/bin/env bash
# Sets up, then runs the linters, the type checker and the tests. Arguments go to pytest.
set -euo pipefail
extras=dev,cluster
. "$(dirname "$0")/setup.sh"
ruff check .
ruff format --check .
bash scripts/types.sh
unset PYTHONDONTWRITEBYTECODE # tests start many processes, and each would compile the package again
OMP_NUM_THREADS=1 pytest --numprocesses 2 --dist loadfile "$@" # threads that share a core wait for each other
