# shellcheck shell=bash
# Sourced by demo.sh and test.sh: makes .venv beside this folder with the tested versions, and enters it.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
if [ ! -x .venv/bin/python ]; then
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON" >&2; exit 2; }
  "$python" -m venv .venv
fi
. .venv/bin/activate
pip install --quiet --constraint constraints.txt torch
pip install --quiet --constraint constraints.txt --editable ".${extras:+[$extras]}"
