# Sets up .venv beside this repository's files if it is not there or not up to date; to be sourced. Sets ROOT and VENV, and
# SETUP_WORKED if something had to be done.
#
#   setup run     what `verify` needs
#   setup test    that, and what the tests need
#
# A stamp in .venv holds a checksum of everything that decides what is installed, so that a later start costs a few milliseconds, calls no
# installer and needs no network. Two set-ups at once wait for each other. Versions are pinned in scripts/constraints.txt.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
VENV="$ROOT/.venv"

say() { printf '%s\n' "setup: $*" >&2; }

# The first Python from 3.10 to 3.13 on the path; `python3` itself if it will do, since that is the one a person expects.
find_python() {
    local candidate
    for candidate in python3 python3.11 python3.12 python3.13 python3.10; do
        if "$candidate" -c 'import sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            echo "$candidate"
            return 0
        fi
    done
    say "no Python from 3.10 to 3.13 with the venv module was found on the path"
    return 1
}

checksum() { cat "$ROOT/pyproject.toml" "$ROOT"/scripts/setup.sh "$ROOT/scripts/constraints.txt" | cksum; }

pip_install() { "$VENV/bin/python" -m pip install --disable-pip-version-check -qq -c "$ROOT/scripts/constraints.txt" "$@"; }

install_run() {
    # torch goes first and by its exact version: where the installer knows a CPU build of it, that one is taken, and nothing later asks again.
    pip_install "$(grep '^torch==' "$ROOT/scripts/constraints.txt")" && pip_install -e "$ROOT[plots,progress]"
}

install_test() {
    # onnx2torch comes without what it asks for: it wants torchvision, whose registry build does not load next to a CPU-only torch. The tests
    # that use it put an empty stand-in in torchvision's place.
    pip_install -e "$ROOT[test]" && pip_install --no-deps onnx2torch && install_browser
}

install_browser() {
    # The pages of reports are tested in a browser, which is no Python package. Where none can be had those tests say so.
    local name
    for name in chromium-headless-shell chromium chromium-browser google-chrome; do
        if command -v "$name" >/dev/null; then return 0; fi
    done
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        say "no Chromium found: tests of the pages in a browser are left out (Debian: apt-get install chromium-headless-shell)"
        return 0
    fi
    say "installing a browser for the tests of pages"
    apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 "$@" >/dev/null 2>&1; }
    apt_get update
    apt_get install -y --no-install-recommends chromium-headless-shell fonts-dejavu-core ||
        apt_get install -y --no-install-recommends chromium fonts-dejavu-core ||
        say "no Chromium could be installed: tests of the pages in a browser are left out"
    return 0
}

setup() {
    local want="$1" sum stamp
    sum="$(checksum)"
    stamp="$VENV/.stamp-$want"
    [ "$(cat "$stamp" 2>/dev/null)" = "$sum" ] && return 0
    SETUP_WORKED=1
    exec 9>"$ROOT/.venv.lock" || return 1
    if command -v flock >/dev/null; then flock 9 || return 1; fi
    if [ "$(cat "$stamp" 2>/dev/null)" != "$sum" ]; then
        local python
        if ! "$VENV/bin/python" -c '' 2>/dev/null; then
            python="$(find_python)" || return 1
            say "making .venv with $("$python" --version)"
            rm -rf "$VENV" && "$python" -m venv "$VENV" || return 1
        fi
        if [ "$(cat "$VENV/.stamp-run" 2>/dev/null)" != "$sum" ]; then
            say "installing clipbab and what it needs (once; this takes a few minutes)"
            install_run || { say "the installation failed"; return 1; }
            printf '%s\n' "$sum" >"$VENV/.stamp-run"
        fi
        if [ "$want" = test ]; then
            say "installing what the tests need"
            install_test || { say "the installation failed"; return 1; }
        fi
        printf '%s\n' "$sum" >"$stamp"
    fi
    exec 9>&-
}
