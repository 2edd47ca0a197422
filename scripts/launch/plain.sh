#!/usr/bin/env bash
# A job list on the devices of one machine: bash scripts/launch/plain.sh 8 --jobs jobs.csv --output runs/list
set -euo pipefail
devices=$1
shift
exec fastvmt transfer --devices "$devices" "$@"
