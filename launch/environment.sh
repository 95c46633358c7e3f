#!/usr/bin/env bash
# The environment that quickstart.sh and tests/run.sh work in: made when missing, re-used in a second otherwise.
#
#   source launch/environment.sh                    for scripts: use_environment [EXTRA ...] makes and activates it
#   bash launch/environment.sh [EXTRA ...]          make it, with the package's extras (test, dev)
#   bash launch/environment.sh --missing-packages   only name the system packages to install, by their Debian names
#
#   XLT_SCALE_VENV      folder of the environment (default: .venv in the checkout)
#   XLT_SCALE_PYTHON    interpreter to make it with (default: the first of python3.12, python3.11, python3 that fits)
#   XLT_SCALE_HARDWARE  cpu or cuda (default: cuda where nvidia-smi finds a GPU): which versions are installed

xlt_checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
xlt_venv="${XLT_SCALE_VENV:-$xlt_checkout/.venv}"
[[ "$xlt_venv" == /* ]] || xlt_venv="$PWD/$xlt_venv"

xlt_say() { echo "environment: $*" >&2; }

# Prints what a Python lacks, nothing when it has all; fails where it does not run (a pyenv shim, say) or is too old.
xlt_examine_python() {
    "$1" - 2>/dev/null <<'PYTHON'
import importlib.util, os, sys, sysconfig
if sys.version_info < (3, 11):
    sys.exit(1)
name = f"python{sys.version_info.major}.{sys.version_info.minor}"
lacks = [f"{name}-venv"] * (not all(map(importlib.util.find_spec, ("venv", "ensurepip"))))
include = sysconfig.get_path("include", scheme="posix_prefix")
lacks += [f"{name}-dev"] * (not os.path.exists(os.path.join(include, "Python.h")))
print(*lacks)
PYTHON
}

# Sets xlt_python (empty when none fits) and xlt_missing, the Debian packages to install.
xlt_examine_machine() {
    local candidate lacks
    xlt_python="" xlt_missing=()
    for candidate in ${XLT_SCALE_PYTHON:-python3.12 python3.11 python3}; do
        if lacks="$(xlt_examine_python "$candidate")" && [[ -z "$xlt_python" || -z "$lacks" ]]; then
            xlt_python="$candidate"
            read -r -a xlt_missing <<<"$lacks"
            [[ -n "$lacks" ]] || break
        fi
    done
    [[ -n "$xlt_python" ]] || xlt_missing=(python3 python3-venv python3-dev)
    read -r -a xlt_compiler <<<"${CXX:-c++}"
    command -v "${xlt_compiler[0]}" >/dev/null || xlt_missing+=(g++)
    command -v flock >/dev/null || xlt_missing+=(util-linux)
}

# One line that names what is missing and the mend.
xlt_name_missing() {
    local package names=()
    for package in "${xlt_missing[@]}"; do
        case "$package" in
            python3) names+=("Python 3.11 or newer") ;;
            *-venv) names+=("Python's venv module") ;;
            *-dev) names+=("Python.h") ;;
            g++) names+=("${xlt_compiler[0]} (C++ compiler)") ;;
            util-linux) names+=("flock") ;;
        esac
    done
    local list
    list="$(printf '%s, ' "${names[@]}")"
    xlt_say "missing: ${list%, }; on Debian or Ubuntu: apt-get install ${xlt_missing[*]}"
}

xlt_has_gpu() { nvidia-smi -L 2>/dev/null | grep -q '^GPU '; }

# Runs pip; its output goes to a file and is shown only when it fails.
xlt_pip() {
    local log="$xlt_venv/install.log"
    if ! "$xlt_venv/bin/python" -m pip install --disable-pip-version-check --no-input "$@" >"$log" 2>&1 </dev/null; then
        tail -n 20 "$log" >&2
        xlt_say "pip failed (above: the end of $log); with the cause mended, the same command goes on from here"
        return 1
    fi
}

# Whether the environment was installed from these very options. What has extras serves without them as well.
xlt_is_ready() {
    [[ "$(cat "$xlt_venv/xlt-scale-made-at" 2>/dev/null || echo "$xlt_venv")" == "$xlt_venv" ]] &&
        grep -qsxF "$xlt_stamp ${xlt_extras:-none}" "$xlt_venv/xlt-scale-installed" && "$xlt_venv/bin/python" -c ""
}

# Makes the folder of the environment unless it is there and works. One that was copied or moved does not: it runs
# programs of its old place.
xlt_make() {
    local made_at
    made_at="$(cat "$xlt_venv/xlt-scale-made-at" 2>/dev/null)" || made_at=""
    if [[ -z "$made_at" || "$made_at" == "$xlt_venv" ]] && "$xlt_venv/bin/python" -m pip --version >/dev/null 2>&1; then
        return 0
    fi
    if [[ -z "$made_at" && -n "$(ls -A "$xlt_venv" 2>/dev/null)" ]]; then
        xlt_say "$xlt_venv is no working environment and was not made here: remove it, or set XLT_SCALE_VENV"
        return 2
    fi
    xlt_say "making $xlt_venv with $("$xlt_python" --version)"
    rm -rf "$xlt_venv"
    mkdir -p "$xlt_venv"
    echo "$xlt_venv" >"$xlt_venv/xlt-scale-made-at"
    "$xlt_python" -m venv "$xlt_venv"
}

# Makes and fills the environment. The caller holds the lock.
xlt_install() {
    local constraints="$1" torch
    xlt_make || return
    rm -f "$xlt_venv/xlt-scale-installed"
    # torch first: so its build (for CPUs alone, where one is offered) is chosen by its own version, by nothing else.
    torch="$(grep '^torch==' "$constraints")"
    xlt_say "installing $torch for $(basename "$constraints" .txt), some minutes on a new machine"
    xlt_pip --constraint "$constraints" "$torch" || return
    xlt_say "installing xlt_scale${xlt_extras:+ with $xlt_extras} and what it needs"
    xlt_pip --constraint "$constraints" --editable "$xlt_checkout${xlt_extras:+[$xlt_extras]}" || return
    printf '%s\n' "$xlt_stamp none" "$xlt_stamp ${xlt_extras:-none}" >"$xlt_venv/xlt-scale-installed"
    xlt_say "ready: $xlt_venv"
}

xlt_prepare() {
    local hardware constraints
    hardware="${XLT_SCALE_HARDWARE:-$(xlt_has_gpu && echo cuda || echo cpu)}"
    constraints="$xlt_checkout/constraints/$hardware.txt"
    if [[ ! -f "$constraints" ]]; then
        xlt_say "XLT_SCALE_HARDWARE is '$hardware'; it can be cpu or cuda"
        return 2
    fi
    xlt_extras="$(IFS=,; echo "$*")"
    xlt_stamp="$(cat "$xlt_checkout/pyproject.toml" "$constraints" | cksum) $hardware $xlt_checkout"
    xlt_is_ready && return
    xlt_examine_machine
    if ((${#xlt_missing[@]})); then
        xlt_name_missing
        return 2
    fi
    mkdir -p "$(dirname "$xlt_venv")" || return
    (
        flock --nonblock 9 || { xlt_say "another script prepares $xlt_venv: waiting"; flock 9; }
        xlt_is_ready || xlt_install "$constraints"
    ) 9>"$xlt_venv.lock"
}

# Make the environment and put it first in the calling script.
use_environment() {
    xlt_prepare "$@" || exit
    # What activation does, less the prompt.
    export VIRTUAL_ENV="$xlt_venv" PATH="$xlt_venv/bin:$PATH"
    unset PYTHONHOME
    if ! xlt_has_gpu; then
        export DS_ACCELERATOR="${DS_ACCELERATOR:-cpu}"
        # Several processes share the cores of a CPU machine, and each alone would take all of them.
        export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
    fi
}

if [[ "${BASH_SOURCE[0]}" == "$0" ]]; then
    set -euo pipefail
    if [[ "${1:-}" == --missing-packages ]]; then
        xlt_examine_machine
        echo "${xlt_missing[*]}"
    else
        xlt_prepare "$@"
    fi
fi
