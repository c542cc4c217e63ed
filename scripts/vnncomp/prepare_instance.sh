#!/usr/bin/env bash
# prepare_instance.sh v1 CATEGORY ONNX VNNLIB: brings the files into the disk cache; analyses nothing.
#
# A status other than 0 skips the instance, and under the rules of 2026 the rest of its category; so a file that is missing is only spoken of
# here, and run_instance.sh answers for that instance alone. What would keep every instance from running does end with 1.
version="${1:-}" onnx="${3:-}" vnnlib="${4:-}"
[ "$version" = v1 ] || { echo "prepare_instance.sh: expected the version v1 as the first argument, got '$version'" >&2; exit 1; }
[ "$#" -eq 4 ] || { echo "usage: prepare_instance.sh v1 CATEGORY ONNX VNNLIB" >&2; exit 1; }
root="$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.." && pwd -P)"
[ -x "$root/.venv/bin/verify" ] || { echo "prepare_instance.sh: clipbab is not installed; run install_tool.sh first" >&2; exit 1; }
for file in "$onnx" "$vnnlib"; do
    case "$file" in "["*) continue ;; esac # several networks, as [('f','one.onnx'),('g','other.onnx')]
    if [ -r "$file" ]; then
        cat "$file" >/dev/null
    elif [ -r "$file.gz" ]; then
        cat "$file.gz" >/dev/null
    else
        echo "prepare_instance.sh: $file: no such file, nor $file.gz" >&2
    fi
done
exit 0
