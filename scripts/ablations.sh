#!/usr/bin/env bash
# What each part of scTAG is worth: sctag, its ready-made ablations, and the report on them.
#
#     scripts/ablations.sh [--data_dir DIR] [--datasets NAME ...] [other flags of benchmark.py run]
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

out=$(value_of --out results/ablations "$@")
status=0
"$python" "$root/benchmark.py" run --out "$out" --data_dir "$root/data" \
    --methods sctag --ablations "$@" || status=$?
# Failed jobs (status 1) are rows of the report.
[[ $status -gt 1 || " $* " == *" --dry_run "* ]] || "$python" "$root/benchmark.py" report --out "$out"
exit "$status"
