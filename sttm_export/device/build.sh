#!/usr/bin/env bash
# Builds the engines of this bundle on this machine, runs them on the packed fixtures, and keeps them if they agree with
# the reference. `bash build.sh --help` lists the options. PYTHON=/path/to/python3 chooses the interpreter.
set -euo pipefail
# With it, `cd` may go elsewhere than told, and prints where.
unset CDPATH

refuse() {
    printf 'build.sh: %s\n' "$1" >&2
    exit 2
}

fits() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

kit=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
for file in ../manifest.json ../SHA256SUMS targets.json sttm_export/device/__main__.py; do
    if [[ ! -f $kit/$file ]]; then
        refuse "$kit/$file is missing: this script works in the device/ directory of a whole bundle; copy the bundle anew, all of it."
    fi
done

python=""
if [[ -n ${PYTHON:-} ]]; then
    command -v -- "$PYTHON" >/dev/null || refuse "PYTHON names $PYTHON, which is no program; give the path of a Python 3.10 or later."
    fits "$PYTHON" || refuse "PYTHON names $PYTHON, which is no Python 3.10 or later; give another, or leave PYTHON out."
    python=$PYTHON
    [[ $python != */* ]] || python=$(cd -- "$(dirname -- "$python")" && pwd)/$(basename -- "$python")
else
    found=""
    for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
        command -v -- "$name" >/dev/null || continue
        found=${found:-$("$name" --version 2>&1 || true)}
        if fits "$name"; then
            python=$name
            break
        fi
    done
    if [[ -z $found ]]; then
        refuse "there is no python3 on the PATH; install it with: sudo apt install python3 python3-numpy"
    fi
    if [[ -z $python ]]; then
        refuse "$found is too old, Python 3.10 or later is needed: JetPack 6 and later bring it; or run PYTHON=/path/to/python3 bash build.sh"
    fi
    python=$(command -v -- "$python")
fi

# `python -m` looks in the working directory first, so it is the kit's own sources that run, whatever is installed.
cd -- "$kit"
# With PYTHONSAFEPATH it does not, and finds them by this.
export PYTHONPATH="$kit${PYTHONPATH:+:$PYTHONPATH}"
# The bundle stays as it was copied: no compiled files in it.
export PYTHONDONTWRITEBYTECODE=1
exec "$python" -m sttm_export.device "$@"
