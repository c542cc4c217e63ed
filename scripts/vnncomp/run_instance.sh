#!/usr/bin/env bash
# run_instance.sh v1 CATEGORY ONNX VNNLIB RESULTS_FILE TIMEOUT: writes the verdict, and for sat the counterexample. Exit status 0 always.
#
# The category decides nothing: one configuration serves every benchmark. `verify` writes the file itself; this script stays to answer where
# it could not, so that RESULTS_FILE holds one of sat, unsat, timeout, unknown, error whatever happens.
start="$(date +%s.%N)"
version="${1:-}" onnx="${3:-}" vnnlib="${4:-}" results="${5:-}" timeout="${6:-}"
root="$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.." && pwd -P)"

answer() { # what stands in for a verdict that `verify` did not write
    [ -n "$results" ] && mkdir -p "$(dirname "$results")" && printf '%s\n' "$1" >"$results"
    exit 0
}

if [ "$version" != v1 ] || [ "$#" -ne 6 ]; then
    echo "usage: run_instance.sh v1 CATEGORY ONNX VNNLIB RESULTS_FILE TIMEOUT" >&2
    answer error
fi
rm -f "$results"
for name in onnx vnnlib; do
    file="${!name}"
    [ -e "$file" ] || [ ! -e "$file.gz" ] || printf -v "$name" '%s' "$file.gz"
done

child=
trap '[ -n "$child" ] && kill -TERM "$child" 2>/dev/null' TERM INT HUP
# What this shell has used of the time is taken off: `verify` counts from its own start.
left="$(awk -v t="$timeout" -v a="$start" -v b="$(date +%s.%N)" 'BEGIN { if (t + 0 <= 0) exit 1; t -= b - a; print (t > 0 ? t : 0) }')" || {
    echo "run_instance.sh: '$timeout' is not a time" >&2
    answer error
}
# Competitions judge counterexamples in the model's own element type. Should this shell be killed outright, `verify` goes as well, and does not
# compute beside the next instance.
"$root/.venv/bin/verify" "$onnx" "$vnnlib" --timeout "$left" --results-file "$results" --set spec.reading=float --end-with "$$" >/dev/null &
child=$!
wait "$child"
status=$?
if [ "$status" -gt 128 ] && kill -0 "$child" 2>/dev/null; then # the trap woke us; the answer is being written
    wait "$child"
    status=$?
fi
[ -s "$results" ] && exit 0
case "$status" in
2) answer error ;;   # the model or the property cannot be read; verify has said why
*) answer unknown ;; # killed or crashed
esac
