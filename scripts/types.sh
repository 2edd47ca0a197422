#!/usr/bin/env bash
# Type-checks the package as it is installed, with callbacks/, datamodules/ and configs/ inside it: mypy itself does not
# follow setuptools' mapping of folders. Arguments go to mypy, which must be installed (scripts/test.sh does that).
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
tree=$root/.mypy_cache/installed # always the same place, so that mypy's cache stays valid
rm -rf "$tree"
mkdir -p "$tree/fastvmt_pl"
ln -s "$root"/fastvmt_pl/* "$root"/{callbacks,datamodules,configs} "$tree/fastvmt_pl/"
cd "$tree" # mypy looks in the current folder first
PATH=$root/.venv/bin:$PATH mypy --config-file "$root/pyproject.toml" --cache-dir "$root/.mypy_cache" "$@"
