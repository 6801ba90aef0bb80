# What the scripts of this kit have in common; each sources it.
# shellcheck shell=bash

# Set by the script: its name, and the directory that it lies in.
program=${program:?} kit=${kit:?}

refuse() {
    printf '%s: %s\n' "$program" "$1" >&2
    exit 2
}

# A search path without the working directory, which is what an empty entry means; the script leaves it.
absolute() {
    local entry entries=() IFS=:
    set -f # in a subshell of its own
    for entry in $1; do
        [[ -z $entry ]] || entries+=("$(case $entry in /*) printf %s "$entry" ;; *) printf %s "$PWD/$entry" ;; esac)")
    done
    printf %s "${entries[*]}"
}

# Nothing of the kit runs before every file of it is known to be as it was exported, and to be one that was.
check_kit() {
    local bundle=$1 line name file found names=()
    local -A sums=()
    command -v sha256sum >/dev/null || refuse "there is no sha256sum on the PATH; install it with: sudo apt install coreutils"
    while IFS= read -r line || [[ -n $line ]]; do
        name=${line#*  }
        [[ $name == device/* ]] || continue
        [[ $line =~ ^[0-9a-f]{64}\ \  && ! $name =~ (^|/)\.\.?(/|$)|\\ ]] || refuse "$bundle/SHA256SUMS is damaged at $name; copy the bundle anew."
        names+=("$name")
        sums[$name]=${line%%  *}
    done <"$bundle/SHA256SUMS"
    shopt -s dotglob globstar nullglob
    for file in "$kit"/**; do
        [[ ! -L $file ]] || refuse "$file is a link, and none belongs to the kit; move it elsewhere, or copy the bundle anew."
        [[ -d $file || -n ${sums[device/${file#"$kit"/}]:-} ]] || refuse "$file is in no SHA256SUMS and not of the kit; move it elsewhere, or copy the bundle anew."
    done
    for name in "${names[@]}"; do
        file=$bundle/$name
        [[ -f $file ]] || refuse "$file is missing; copy the bundle anew."
        found=$(sha256sum <"$file")
        [[ ${found%% *} == "${sums[$name]}" ]] || refuse "$file was changed after the export; copy the bundle anew."
    done
}

fits() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' </dev/null >/dev/null 2>&1
}

# Sets `python`: the one that PYTHON names, or the first on the PATH that is new enough.
find_python() {
    local name found=""
    python=""
    if [[ -n ${PYTHON:-} ]]; then
        command -v -- "$PYTHON" >/dev/null || refuse "PYTHON names $PYTHON, which is no program; give the path of a Python 3.10 or later."
        fits "$PYTHON" || refuse "PYTHON names $PYTHON, which is no Python 3.10 or later; give another, or leave PYTHON out."
        python=$PYTHON
        [[ $python != */* ]] || python=$(cd -- "$(dirname -- "$python")" && pwd)/$(basename -- "$python")
        return
    fi
    for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
        command -v -- "$name" >/dev/null || continue
        found=${found:-$("$name" --version 2>&1 </dev/null || true)}
        if fits "$name"; then
            python=$(command -v -- "$name")
            return
        fi
    done
    [[ -n $found ]] || refuse "there is no python3 on the PATH; install it with: sudo apt install python3 python3-numpy"
    refuse "$found is too old, Python 3.10 or later is needed: JetPack 6 and later bring it; or run PYTHON=/path/to/python3 bash $program"
}

# Runs a module of the kit in a directory: start MODULE DIRECTORY [OPTIONS].
start() {
    local bundle file module=$1 directory=$2 boot
    shift 2
    bundle=$(dirname -- "$kit")
    for file in ../manifest.json ../SHA256SUMS targets.json sttm_export/kit/__main__.py; do
        if [[ ! -f $kit/$file ]]; then
            refuse "$kit/$file is missing: this script works in the device/ directory of a whole bundle; copy the bundle anew, all of it."
        fi
    done

    PYTHONPATH=$(absolute "${PYTHONPATH:-}") LD_LIBRARY_PATH=$(absolute "${LD_LIBRARY_PATH:-}")
    [[ -n $PYTHONPATH ]] || unset PYTHONPATH
    [[ -n $LD_LIBRARY_PATH ]] || unset LD_LIBRARY_PATH
    # What Python 3.10 does not know yet is done below.
    export PYTHONSAFEPATH=1

    find_python
    check_kit "$bundle"

    # Searched for modules are the kit for its own package, Python's library and what is installed, and nothing else: not
    # the working directory, and not what lies in the kit beside the package.
    boot='import sys; sys.path[:] = [entry for entry in sys.path if entry]; sys.path.insert(0, sys.argv[1]); import sttm_export
directory, module = sys.argv[2:4]
del sys.path[0], sys.argv[1:4]
import os, runpy; os.chdir(directory); runpy.run_module(module, run_name="__main__", alter_sys=True)'
    cd /
    # The bundle stays as it was copied: no compiled files in it.
    export PYTHONDONTWRITEBYTECODE=1
    exec "$python" -c "$boot" "$kit" "$directory" "$module" "$@"
}
