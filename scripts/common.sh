# What the scripts share; they source it. They may be started from any folder: `data` is the
# suite's own unless --data_dir names another one, and results go below the folder you are in, as
# with the Python commands. PYTHON names another interpreter than that of `make venv`.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Say what is wrong in one sentence and exit with status 2, as the Python commands do.
refuse() {
    echo "$(basename "$0"): error: $*" >&2
    exit 2
}

python=${PYTHON:-$root/.venv/bin/python}
command -v "$python" > /dev/null || refuse "there is no $python: run 'make venv' in $root, or" \
    "name a Python that has the suite's packages: PYTHON=python3 $0"

# value_of FLAG DEFAULT ARGUMENT...: what the last FLAG among the arguments is set to.
value_of() {
    local flag=$1 value=$2
    shift 2
    while (($#)); do
        case $1 in
            "$flag") value=${2-} ;;
            "$flag"=*) value=${1#*=} ;;
        esac
        shift
    done
    echo "$value"
}
