#!/usr/bin/env bash
# A job list by torchrun, a process a device: bash scripts/launch/torchrun.sh 8 --jobs jobs.csv --output runs/list
# On several machines, run it on each of them; a run needs nothing but the folder in common.
set -euo pipefail
devices=$1
shift
exec torchrun --standalone --nproc-per-node "$devices" -m fastvmt_pl transfer "$@"
