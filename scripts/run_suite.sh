#!/usr/bin/env bash
# run_suite.sh FOLDER [--timeout-cap S] [--verify CMD] [OUT.csv]: runs every line of FOLDER/instances.csv, each in a process of its own.
#
# instances.csv has either a header with columns onnx, vnnlib, timeout_s and perhaps expected, or the competition's headerless onnx,vnnlib,
# timeout. A line is printed for each instance, and totals at the end; OUT.csv gets the same lines. The exit status is 1 if an answer
# contradicts what is expected, and 0 otherwise.
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/setup.sh"
setup run || exit 2
exec "$VENV/bin/python" "$ROOT/scripts/run_suite.py" "$@"
