#!/usr/bin/env bash
# run_all.sh OUT_FOLDER ROOT… [-- OPTIONS OF run_suite.sh]: runs every folder below ROOT… that has an instances.csv, one after another.
#
# OUT_FOLDER gets NAME.csv with the lines of each suite and totals.txt with the last line of each. The exit status is 1 if an answer contradicts
# what a suite expects, 2 for bad usage, 0 otherwise. For many instances at a time, limits, and going on after a break there is `verify bench`.
here="$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"
[ "$#" -ge 2 ] || { echo "usage: run_all.sh OUT_FOLDER ROOT... [-- OPTIONS]" >&2; exit 2; }
out="$1"
shift
roots=()
while [ "$#" -gt 0 ] && [ "$1" != -- ]; do
    roots+=("$1")
    shift
done
shift
mkdir -p "$out" || exit 2
: >"$out/totals.txt"
worst=0 found=0
while IFS= read -r list; do
    folder="$(dirname "$list")" found=1
    name="$(basename "$folder")"
    [ ! -e "$out/$name.csv" ] || name="$(basename "$(dirname "$folder")")_$name"
    echo "== $folder"
    bash "$here/run_suite.sh" "$folder" "$out/$name.csv" "$@" | tee "$out/.last"
    status="${PIPESTATUS[0]}"
    [ "$status" -le "$worst" ] || worst="$status"
    printf '%s: %s\n' "$name" "$(tail -n 1 "$out/.last")" >>"$out/totals.txt"
done < <(find "${roots[@]}" -name instances.csv | LC_ALL=C sort)
rm -f "$out/.last"
[ "$found" = 1 ] || { echo "run_all.sh: no instances.csv below ${roots[*]}" >&2; exit 2; }
cat "$out/totals.txt"
exit "$worst"
