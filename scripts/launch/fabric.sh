#!/usr/bin/env bash
# A job list by fabric run, a process a device: bash scripts/launch/fabric.sh 8 --jobs jobs.csv --output runs/list
# fabric run needs the extra "cluster" (click). ACCELERATOR=cpu runs it without GPUs.
set -euo pipefail
devices=$1
shift
main=$(cd "$(dirname "$0")/../../fastvmt_pl" && pwd)/__main__.py
exec fabric run --accelerator "${ACCELERATOR:-cuda}" --devices "$devices" "$main" transfer "$@"
