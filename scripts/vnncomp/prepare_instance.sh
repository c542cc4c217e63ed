#!/usr/bin/env bash
# prepare_instance.sh v1 CATEGORY ONNX VNNLIB: sees that everything is in place; analyses nothing. Non-zero skips the instance.
version="${1:-}" onnx="${3:-}" vnnlib="${4:-}"
[ "$version" = v1 ] || { echo "prepare_instance.sh: expected the version v1 as the first argument, got '$version'" >&2; exit 1; }
[ "$#" -eq 4 ] || { echo "usage: prepare_instance.sh v1 CATEGORY ONNX VNNLIB" >&2; exit 1; }
root="$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.." && pwd -P)"
[ -x "$root/.venv/bin/verify" ] || { echo "prepare_instance.sh: clipbab is not installed; run install_tool.sh first" >&2; exit 1; }
for file in "$onnx" "$vnnlib"; do
    if [ -r "$file" ]; then
        cat "$file" >/dev/null # into the disk cache
    elif [ -r "$file.gz" ]; then
        cat "$file.gz" >/dev/null
    else
        echo "prepare_instance.sh: $file: no such file, nor $file.gz" >&2
        exit 1
    fi
done
