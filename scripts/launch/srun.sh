#!/usr/bin/env bash
# A job list by srun, a process a task, inside an allocation: bash scripts/launch/srun.sh --jobs jobs.csv --output runs/list
# One task that fails does not take the others with it: they do its jobs.
set -euo pipefail
exec srun --kill-on-bad-exit=0 fastvmt transfer "$@"
