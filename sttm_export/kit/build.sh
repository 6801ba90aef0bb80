#!/usr/bin/env bash
# Builds the engines of this bundle on this machine, runs them on the packed fixtures, and keeps them if they agree with
# the reference. `bash build.sh --help` lists the options. PYTHON=/path/to/python3 chooses the interpreter.
set -euo pipefail
# With it, `cd` may go elsewhere than told, and prints where.
unset CDPATH
program=build.sh
kit=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
if [[ ! -f $kit/common.sh ]]; then
    printf '%s: %s is missing: this script works in the device/ directory of a whole bundle; copy the bundle anew, all of it.\n' "$program" "$kit/common.sh" >&2
    exit 2
fi
# shellcheck source=common.sh
source "$kit/common.sh"
start sttm_export.kit / "$@"
