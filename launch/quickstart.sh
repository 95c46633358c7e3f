#!/usr/bin/env bash
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: bash launch/quickstart.sh [OUTPUT]

Makes an environment (.venv) when there is none, then shows the main job on the machine as it is:
  1. one ZeRO-3 run of launch/runs/micro.toml, on two CPU processes or on all visible GPUs
  2. a study of the micro benchmark (studies/micro/quickstart.toml): three model sizes, with and without an
     intermediate task, three seeds, ending with a report on how the gain changes with size
OUTPUT is the folder for all results; default runs/quickstart-<date and time>. Started again with the same OUTPUT,
it goes on where it was.
Environment variables: see launch/environment.sh.
TEXT
}

case "${1:-}" in -h | --help) usage; exit 0 ;; -*) usage >&2; exit 2 ;; esac
(($# <= 1)) || { usage >&2; exit 2; }
output="$(realpath -m "${1:-$(dirname "$0")/../runs/quickstart-$(date +%Y%m%d-%H%M%S)}")"
cd "$(dirname "$0")/.."

part() {
    local title="$1" start=$SECONDS
    shift
    echo "== $title"
    "$@"
    echo "== $title: $((SECONDS - start)) s"
}

# DeepSpeed's default port may be taken by another run on this machine.
free_port() { python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

zero3_run() {
    local processes=()
    [[ "${DS_ACCELERATOR:-}" != cpu ]] || processes=(--num_gpus 2)
    deepspeed --quiet "${processes[@]}" --master_port "$(free_port)" \
        launch/train.py --run launch/runs/micro.toml --set "output=$output/zero3"
}

source launch/environment.sh
part "environment" use_environment
part "compiled ops" python -m xlt_scale.engines.compiled_ops
part "one ZeRO-3 run" zero3_run
part "the study" python -m xlt_scale.cli study run studies/micro/quickstart.toml --output "$output/study" --no-report
part "the report" python -m xlt_scale.cli study report "$output/study"
echo "results: $output"
echo "report: $output/study/report/index.html"
