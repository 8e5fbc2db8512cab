# shellcheck shell=bash
# Sourced by the scripts beside it: a fresh machine needs nothing but python3 (3.11+) and root or sudo.
#
#   $root               the checkout
#   make_venv DIR PY    a virtual environment with everything in it; quick when pyproject.toml has not changed
#   use_venv            the one in .venv, first on the PATH
#   timed NAME CMD…     runs it, and tells how long it took
#
# EVERLATCH_PYTHON names the interpreter of .venv; otherwise the first of python3, python3.11, … that is 3.11 or later.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
timings=()

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Runs it as root; without root and sudo, says what somebody else has to run.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null && [ -t 0 ]; then
        sudo "$@"
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo -n "$@"
    else
        fail "neither root nor sudo here; have this run, then try again: $*"
    fi
}

install_packages() {
    command -v apt-get >/dev/null || fail "no apt-get here; install what these Debian packages hold: $*"
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@")
    # The lists of a fresh machine may be empty or old.
    as_root "${install[@]}" </dev/null || { as_root apt-get update </dev/null && as_root "${install[@]}" </dev/null; }
}

is_python() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    if [ -n "${EVERLATCH_PYTHON:-}" ]; then
        is_python "$EVERLATCH_PYTHON" || fail "EVERLATCH_PYTHON=$EVERLATCH_PYTHON is not a Python 3.11 or later"
        printf '%s\n' "$EVERLATCH_PYTHON"
        return
    fi
    local name
    for name in python3 python3.11 python3.12 python3.13 python3.14; do
        if is_python "$name"; then
            printf '%s\n' "$name"
            return
        fi
    done
    fail "no Python 3.11 or later found; on Debian: apt-get install python3 python3-venv; or name one in EVERLATCH_PYTHON"
}

make_venv() {
    local venv=$1 python=$2 wanted
    wanted=$(cat "$root/pyproject.toml" "$root/scripts/_venv.sh" | sha256sum)
    # Two scripts may run at once: the second waits until the first is done. The checkout itself is the lock.
    exec 9<"$root"
    flock 9
    if [ "$(cat "$venv/.everlatch-stamp" 2>/dev/null)" != "$wanted" ] || ! is_python "$venv/bin/python"; then
        install_everything "$venv" "$python"
        printf '%s\n' "$wanted" >"$venv/.everlatch-stamp"
    fi
    exec 9<&-
}

install_everything() {
    local venv=$1 python=$2 pip
    # Debian's python3 comes without what makes a virtual environment.
    "$python" -c 'import ensurepip, venv' 2>/dev/null || install_packages python3-venv
    is_python "$venv/bin/python" || "$python" -m venv --clear "$venv"
    pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check)
    # Dependency groups need pip 25.1; Debian 12 has 23.
    "${pip[@]}" install --upgrade 'pip>=25.1'
    (cd "$root" && "${pip[@]}" install --editable '.[speed,cli]' --group dev --group bench)
}

use_venv() {
    if [ ! -f "$root/.venv/.everlatch-stamp" ]; then
        make_venv "$root/.venv" "$(find_python)"
    else
        make_venv "$root/.venv" "${EVERLATCH_PYTHON:-$root/.venv/bin/python}"
    fi
    PATH="$root/.venv/bin:$PATH"
    export PATH
}

timed() {
    local name=$1 started=$SECONDS
    shift
    printf '\n── %s\n' "$name"
    "$@" || fail "$name failed after $((SECONDS - started)) s"
    timings+=("$(printf '%4d s  %s' $((SECONDS - started)) "$name")")
}

print_timings() {
    printf '\n'
    printf '%s\n' "${timings[@]}"
}
