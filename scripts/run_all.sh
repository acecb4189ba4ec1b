#!/usr/bin/env bash
# The paper's comparison: scTAG as published (official) and done right (sctag) on its data sets.
#
#     scripts/run_all.sh [--data_dir DIR] [--seeds 1 2 3] [other flags of benchmark.py run]
#
# The paper uses 16 of the 18 data sets that its code names, and which 16 is not known: all that are
# here run, and the others are named. The paper's --highly_genes 500 --pretrain_epochs 1000
# --maxiter 300 are the defaults of both variants.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

data_dir=$(value_of --data_dir "$root/data" "$@")
names=$(PYTHONPATH=$root "$python" -c '
from datasets import REGISTRY
print(*(name for name, known in REGISTRY.items() if known.in_paper is not False))')

present=()
for name in $names; do
    if [[ -e $data_dir/$name/data.h5 ]]; then
        present+=("$name")
    else
        echo "run_all.sh: skipping $name: there is no $data_dir/$name/data.h5"
    fi
done
[[ ${#present[@]} -gt 0 ]] || refuse "none of the paper's data sets is in $data_dir: fetch them with" \
    "'python datasets.py fetch all', or name another folder with --data_dir"

exec "$python" "$root/benchmark.py" run --data_dir "$root/data" --datasets "${present[@]}" \
    --methods official sctag "$@"
