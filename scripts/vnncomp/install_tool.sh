#!/usr/bin/env bash
# install_tool.sh v1: installs clipbab into .venv of this repository. Run once, with a network; the other two scripts need none.
set -e
[ "${1:-}" = v1 ] || { echo "install_tool.sh: expected the version v1 as the first argument, got '${1:-}'" >&2; exit 1; }
# Ubuntu's Python comes without what makes environments.
if ! python3 -c 'import ensurepip, venv' 2>/dev/null && command -v apt-get >/dev/null; then
    as_root=
    [ "$(id -u)" = 0 ] || as_root=sudo
    $as_root apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq python3-venv python3-pip
fi
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../setup.sh"
setup run
"$VENV/bin/verify" --version
# The first import writes byte code and warms the disk cache, so that no instance pays for it.
"$VENV/bin/python" -c 'import torch, onnx, onnxruntime, lark, verifier.search.strategy'
