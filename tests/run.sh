#!/usr/bin/env bash
# Style, types and tests in an environment made for them. Arguments go to pytest: bash tests/run.sh -k plan -x
set -euo pipefail
cd "$(dirname "$0")/.."

source launch/environment.sh
use_environment test dev
python -m xlt_scale.engines.compiled_ops
# Compiling takes longer than a test may: the tests of swapping to NVMe find it done. They are skipped without libaio.
[[ ! -e /usr/include/libaio.h ]] || python -m xlt_scale.engines.compiled_ops AsyncIOBuilder

failed=()
ruff check . || failed+=("ruff check")
ruff format --check . || failed+=("ruff format")
mypy xlt_scale || failed+=("mypy")
# Two at a time: many tests mostly wait for others, those of the cluster above all.
pytest -q -n 2 --dist loadscope --no-loadscope-reorder tests "$@" || failed+=("pytest")

if ((${#failed[@]})); then
    echo "failed: $(printf '%s, ' "${failed[@]}" | sed 's/, $//')" >&2
    exit 1
fi
