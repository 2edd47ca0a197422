#!/usr/bin/env bash
# A job list by srun, a process a task, inside an allocation: bash scripts/launch/srun.sh --jobs jobs.csv --output runs/list
# A task that fails, or has nothing left to do, does not take the others with it.
set -euo pipefail
exec srun --kill-on-bad-exit=0 --wait=0 fastvmt transfer "$@"
