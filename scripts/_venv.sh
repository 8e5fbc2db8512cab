# shellcheck shell=bash
# Sourced by the scripts beside it: a fresh machine needs nothing but python3 (3.11+) and root or sudo.
#
#   $root               the checkout
#   make_venv DIR PY    a virtual environment with everything in it; quick when pyproject.toml has not changed
#   make_venv DIR PY …  one with only what pip is told here
#   use_venv            the one in .venv, first on the PATH
#   use_small_venv      one with the command line alone, unless .venv is there: for what has to be quick the first time
#   timed NAME CMD…     runs it, and tells how long it took
#
# EVERLATCH_PYTHON names the interpreter of .venv; otherwise the first of python3, python3.11, … that is 3.11 or later.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
timings=()
current=

# Whatever ends a script early, it says in which step, and how long that took.
tell_failure() {
    local status=$?
    [ -z "$current" ] || printf '\n%s: "%s" failed after %d s (exit code %d)\n' "${0##*/}" "$current" $((SECONDS - started)) "$status" >&2
}
trap tell_failure EXIT

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

version_of() {
    "$1" -c 'import sys; print(sys.version)' 2>/dev/null || true
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
    wanted=$({ cat "$root/pyproject.toml" "$root/scripts/_venv.sh" && version_of "$python" && echo "${@:3}"; } | sha256sum)
    # Two scripts may run at once: the second waits until the first is done. The checkout itself is the lock.
    exec 9<"$root"
    flock 9
    if [ "$(cat "$venv/.everlatch-stamp" 2>/dev/null)" != "$wanted" ] || ! is_python "$venv/bin/python"; then
        printf 'making %s (once, and again when pyproject.toml changes) …\n' "${venv#"$root/"}" >&2
        install_into "$@"
        printf '%s\n' "$wanted" >"$venv/.everlatch-stamp"
    fi
    exec 9<&-
}

install_into() {
    local venv=$1 python=$2 pip
    shift 2
    # Debian's python3 comes without what makes a virtual environment.
    "$python" -c 'import ensurepip, venv' 2>/dev/null || install_packages python3-venv
    [ "$(version_of "$venv/bin/python")" = "$(version_of "$python")" ] || "$python" -m venv --clear "$venv"
    pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check)
    if [ $# = 0 ]; then
        # Dependency groups need pip 25.1; Debian 12 has 23.
        "${pip[@]}" install --upgrade 'pip>=25.1'
        # gssapi, for Kerberos, is compiled here.
        command -v krb5-config >/dev/null && command -v gcc >/dev/null || install_packages libkrb5-dev gcc libc6-dev
        set -- --editable '.[speed,cli,kerberos]' --group dev --group bench
    fi
    (cd "$root" && "${pip[@]}" install "$@")
}

use_venv() {
    local python
    python=$(find_python)
    make_venv "$root/.venv" "$python"
    PATH="$root/.venv/bin:$PATH"
    export PATH
}

use_small_venv() {
    local python
    if [ -e "$root/.venv/.everlatch-stamp" ]; then
        use_venv
        return
    fi
    python=$(find_python)
    make_venv "$root/.venv-small" "$python" --editable '.[cli]'
    PATH="$root/.venv-small/bin:$PATH"
    export PATH
}

timed() {
    current=$1 started=$SECONDS
    shift
    printf '\n── %s\n' "$current"
    # Not in a condition: there, bash would go on after a command that fails inside.
    "$@"
    timings+=("$(printf '%4d s  %s' $((SECONDS - started)) "$current")")
    current=
}

print_timings() {
    printf '\n'
    printf '%s\n' "${timings[@]}"
}
