#!/usr/bin/env bash
# scTAG on one data set with the paper's flags.
#
#     scripts/run_one.sh NAME [flags of train.py]
#
# For example: scripts/run_one.sh Young --variant official --seed 2
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ $# -gt 0 && $1 != -* ]] || refuse "name a data set first, for example: $0 Young --seed 2"

exec "$python" "$root/train.py" --dataname "$1" --data_dir "$root/data" \
    --highly_genes 500 --pretrain_epochs 1000 --maxiter 300 "${@:2}"
