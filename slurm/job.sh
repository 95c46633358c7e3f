# shellcheck shell=bash
# What the batch scripts share; sourced by them. docs/cluster.md tells the whole story.
#
#   begin_job             settings, environment, and what this allocation is; sets the variables that are named below
#   run_on_nodes NAME …   the function NAME of the script, once on every node; waits; sets launcher_code
#   run_here NAME …       the same on the first node only
#   pass_on_environment   what run_here's ssh needs to tell other nodes
#   end_job               requeues the job or ends it with the right code
#
# After begin_job:
#   XLT_SCALE_NODES             number of nodes                    XLT_SCALE_PROCESSES        processes per node
#   XLT_SCALE_MASTER_ADDRESS    the first node                     XLT_SCALE_MASTER_PORT      other for every start
#   XLT_SCALE_JOB_FOLDER        of this job, over all its starts   XLT_SCALE_END_FOLDER       of this start
#   XLT_SCALE_GPUS              GPUs per node used, or 0           XLT_SCALE_STOP_FILE        when it exists, the run
#                                                                                             saves and stops

XLT_SCALE_CHECKOUT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export XLT_SCALE_CHECKOUT
# When one node has ended the others end too, or are lost: nobody waits longer for srun to find that out.
XLT_SCALE_SECONDS_FOR_OTHERS="${XLT_SCALE_SECONDS_FOR_OTHERS:-25}"
launcher_code=""

begin_job() {
    local settings="${XLT_SCALE_CLUSTER_ENV:-$XLT_SCALE_CHECKOUT/slurm/cluster.env}" facts
    [[ -r "$settings" ]] || { echo "error: XLT_SCALE_CLUSTER_ENV: $settings cannot be read" >&2; exit 2; }
    # Settings and modules may use variables that are not set.
    set +u
    # shellcheck source=slurm/cluster.env
    source "$settings"
    if [[ -n "${XLT_SCALE_MODULES:-}" ]]; then
        # shellcheck disable=SC2086  # a list of names
        module load $XLT_SCALE_MODULES || { echo "error: $settings: module load $XLT_SCALE_MODULES failed" >&2; exit 2; }
    fi
    set -u
    XLT_SCALE_ENV="${XLT_SCALE_ENV:-$XLT_SCALE_CHECKOUT/.venv}"
    if [[ ! -x "$XLT_SCALE_ENV/bin/python" ]]; then
        echo "error: $XLT_SCALE_ENV/bin/python is not there; set XLT_SCALE_ENV in $settings" >&2
        exit 2
    fi
    export XLT_SCALE_ENV PATH="$XLT_SCALE_ENV/bin:$PATH"
    [[ -n "${XLT_SCALE_DATA:-}" ]] || unset XLT_SCALE_DATA
    facts="$(python -m xlt_scale.cluster.batch_job begin)" || exit
    eval "$facts"
    # Of the batch script alone: srun tells the launchers, but not those that were started over ssh.
    trap 'touch "$XLT_SCALE_STOP_FILE"' USR1 TERM
}

run_on_nodes() {
    local step=(--nodes="$XLT_SCALE_NODES" --ntasks="$XLT_SCALE_NODES" --ntasks-per-node=1)
    ((XLT_SCALE_GPUS == 0)) || step+=(--gpus-per-node="$XLT_SCALE_GPUS")
    # What the job was submitted with would shape this step otherwise: one launcher per node gets all that is there.
    unset SLURM_NTASKS SLURM_NPROCS SLURM_NTASKS_PER_NODE SLURM_CPUS_PER_TASK SLURM_TRES_PER_TASK \
        SLURM_GPUS SLURM_GPUS_PER_NODE SLURM_GPUS_PER_TASK SLURM_GPUS_PER_SOCKET SLURM_GRES SLURM_STEP_GRES
    # All cores for every process; and no node's end ends the others, which may be saving.
    srun "${step[@]}" --cpu-bind=none --kill-on-bad-exit=0 \
        bash -c "$(declare -f _on_node "$1"); _on_node \"\$@\"" bash "$@" &
    _wait_for $!
}

run_here() {
    # The others begin without _on_node.
    rm -f "$XLT_SCALE_END_FOLDER/nodes"
    SLURM_NODEID=0 SLURMD_NODENAME="${SLURMD_NODENAME:-$(hostname -s)}" _on_node "$@" &
    _wait_for $!
}

# On every node: run the function, and leave a word when it begins and when it has ended.
_on_node() {
    local code=0
    # Launchers die of SIGUSR1, and kill their ranks at SIGTERM before these have saved. The ranks listen to both.
    trap '' USR1 TERM
    export TORCHELASTIC_SIGNALS_TO_HANDLE=SIGINT
    hostname >"$XLT_SCALE_END_FOLDER/$SLURMD_NODENAME.began"
    "$@" || code=$?
    echo "$code" >"$XLT_SCALE_END_FOLDER/$SLURMD_NODENAME.ended"
    return "$code"
}

# Wait for the launchers, but only some seconds once a node is done for: srun waits for lost nodes for minutes.
_wait_for() {
    local seconds=0
    while kill -0 "$1" 2>/dev/null && ((seconds < XLT_SCALE_SECONDS_FOR_OTHERS)); do
        ! _is_over || ((seconds += 1))
        # A signal to the whole job ends the sleep as well.
        sleep 1 || true
    done
    if ! kill -0 "$1" 2>/dev/null; then
        launcher_code=0
        wait "$1" || launcher_code=$?
    fi
}

# Whether this node has ended, or any node otherwise than well.
_is_over() {
    compgen -G "$XLT_SCALE_END_FOLDER/*.json" >/dev/null || [[ -e "$XLT_SCALE_END_FOLDER/$SLURMD_NODENAME.ended" ]] ||
        grep --quiet --invert-match '^0$' "$XLT_SCALE_END_FOLDER"/*.ended 2>/dev/null
}

end_job() {
    local code=0
    # A requeue ends this script, too: not before it is said what follows.
    trap '' USR1 TERM
    python -m xlt_scale.cluster.batch_job end ${launcher_code:+--launcher-code "$launcher_code"} || code=$?
    exit "$code"
}

# For ranks that are started over ssh, which passes nothing on: a file with what DeepSpeed's pdsh route has to tell them.
pass_on_environment() {
    local name
    export DS_ENV_FILE="$XLT_SCALE_END_FOLDER/deepspeed_env"
    for name in $(compgen -e); do
        case "$name" in
            HF_TOKEN) ;;
            PATH | LD_LIBRARY_PATH | CUDA_HOME | TORCH_EXTENSIONS_DIR | XLT_SCALE_* | HF_* | TRANSFORMERS_* | \
                NCCL_* | GLOO_* | OMP_* | DS_ACCELERATOR)
                [[ -z "${!name}" ]] || echo "$name=${!name}"
                ;;
        esac
    done >"$DS_ENV_FILE"
}
