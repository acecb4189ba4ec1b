#!/usr/bin/env bash
# The measured part of docs/results.md, below its marker, and docs/figures: the report on
# docs/records.jsonl.gz. After a longer benchmark:
#
#     python benchmark.py pack docs/records.jsonl.gz --out results/benchmark
#     scripts/results.sh
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ $# -eq 0 ]] || refuse "it takes no flags: it is all in docs/records.jsonl.gz"
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place" # so that the report names OUT as a user would
"$python" "$root/benchmark.py" unpack "$root/docs/records.jsonl.gz" --out results/benchmark
"$python" "$root/benchmark.py" report --out results/benchmark --to report

{ sed '/^<!-- benchmark.py report -->$/q' "$root/docs/results.md"; sed 1d report/report.md; } > page
rm -f "$root"/docs/figures/*.png
cp report/figures/*.png "$root/docs/figures/"
cp page "$root/docs/results.md"
