# shellcheck shell=bash
# What every job of slurm/*.slurm does, sourced by them on the first node: `job VERB WORDS` runs `open-r1 VERB WORDS`
# on the job's nodes, tells what failed first, and has the job requeued where it can go on. Nothing here knows a cluster
# or reads a recipe: the first is slurm/site.sh's, the second Python's.

OPEN_R1_SRUN=() # options of srun, for a container of pyxis
OPEN_R1_WRAP=() # a command before Python's, for a container of apptainer

site=${OPEN_R1_SITE:-slurm/site.sh}
if [ -f "$site" ]; then
    # shellcheck source=/dev/null
    source "$site" || {
        echo "error: $site ends with exit code $?" >&2
        exit 2
    }
elif [ -n "${OPEN_R1_SITE:-}" ]; then
    echo "error: OPEN_R1_SITE names $site, and there is no such file in $PWD" >&2
    exit 2
fi
python=${OPEN_R1_PYTHON:-$PWD/.venv/bin/python}

# Put a text on top of the job's log, which is where one looks first, before what the other processes said of it.
on_top() {
    local log
    log=$(scontrol show job "$id" | sed -n 's/^ *StdOut=//p' | head -n 1)
    if [ -f "$log" ] && { printf '%s\n\n' "$1" && cat "$log"; } >"$log.part"; then
        cat "$log.part" >"$log" # not renamed: Slurm goes on writing to this very file
    fi
    rm -f "$log.part"
}

on_one_node() {
    srun --overlap --export=ALL --nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" --mem=0 --kill-on-bad-exit=0 \
        ${OPEN_R1_SRUN[@]+"${OPEN_R1_SRUN[@]}"} ${OPEN_R1_WRAP[@]+"${OPEN_R1_WRAP[@]}"} "$@"
}

# The least that any node of the job has; a step's tasks get one core each unless they are asked for.
cores() {
    tr ',' '\n' <<<"$SLURM_JOB_CPUS_PER_NODE" | sed 's/(.*//' | sort -n | head -n 1
}

# Slurm ends what takes longer than the notice, and does not queue it again.
before_the_limit() {
    local end
    end=$(scontrol show job "$id" | sed -n 's/.* EndTime=\([^ ]*\).*/\1/p' | head -n 1)
    end=$(date -d "$end" +%s 2>/dev/null) || return 0 # without a limit
    (sleep "$((end - 30 > $(date +%s) ? end - 30 - $(date +%s) : 0))" && kill -ALRM $$) &
}

job() {
    id=$SLURM_JOB_ID
    if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then
        id=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
    fi
    local folder=${OPEN_R1_JOBS:-$PWD/runs/slurm}/$id
    export OPEN_R1_START=$folder/start-${SLURM_RESTART_COUNT:-0}
    # What is there already is another cluster's, or of a controller that counts from 1 again.
    if [ "${SLURM_RESTART_COUNT:-0}" = 0 ]; then rm -rf "$folder"; else rm -rf "$OPEN_R1_START"; fi
    if ! mkdir -p "$OPEN_R1_START/errors"; then
        echo "error: $OPEN_R1_START cannot be made; submit from a folder that all nodes can write, or set OPEN_R1_JOBS" >&2
        exit 2
    fi
    export PYTHONUNBUFFERED=1
    OPEN_R1_LOG=$(scontrol show job "$id" | sed -n 's/^ *StdOut=//p' | head -n 1)
    if [ -z "${SLURM_ARRAY_JOB_ID:-}" ]; then export OPEN_R1_LOG; fi # by which a run says what job it is of
    # Steps take all that the job has; by these srun would ask for it in another way than below.
    unset SLURM_CPUS_PER_GPU SLURM_CPUS_PER_TASK SLURM_MEM_PER_NODE SLURM_MEM_PER_CPU SLURM_MEM_PER_GPU SLURM_GPUS
    if [ "${SLURM_GPUS_PER_NODE:-}" = 0 ]; then unset SLURM_GPUS_PER_NODE; fi
    echo "$(date '+%F %T') job $id, start ${SLURM_RESTART_COUNT:-0}, on $SLURM_JOB_NODELIST: open-r1 $*"

    local cancelled="" late=""
    trap 'touch "$OPEN_R1_START/stop"; before_the_limit' USR1 # soon at the time limit, or preempted
    trap 'late=yes' ALRM
    trap 'cancelled=yes' TERM # Slurm has told the step as well
    srun --export=ALL --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --mem=0 \
        --cpus-per-task="$(cores)" --kill-on-bad-exit=1 \
        ${OPEN_R1_SRUN[@]+"${OPEN_R1_SRUN[@]}"} ${OPEN_R1_WRAP[@]+"${OPEN_R1_WRAP[@]}"} \
        bash slurm/node.sh "$python" "$@" &
    local step=$! code=0 told
    # A trap ends `wait`, and the step goes on.
    while wait "$step" && code=0 || code=$?; [ -z "$late" ] && kill -0 "$step" 2>/dev/null; do :; done
    if [ -n "$late" ]; then
        echo "$(date '+%F %T') it has not stopped by itself so shortly before the limit; sbatch --signal gives more notice"
    else
        wait "$step" && code=0 || code=$? # of the step, where a trap came as it ended
    fi

    # Cancelled meanwhile, it ends by the same signal, and has nothing to say.
    [ -n "$cancelled" ] || { told=$(on_one_node "$python" -m open_r1.slurm.outcome "$code") && code=0 || code=$?; }
    if [ -n "$cancelled" ]; then
        echo "$(date '+%F %T') cancelled; sbatch with the same words goes on from the last checkpoint, if it has one"
        exit 143
    fi
    if [ -z "$told" ] && [ "$code" != 0 ]; then # without Python there is only what the nodes themselves have left
        told=$(cat "$OPEN_R1_START"/errors/*.json 2>/dev/null | sed -n 's/.*"message": "\([^"]*\)", "node": "\([^"]*\)".*/\2: \1/p' | head -n 1)
    fi
    [ -z "$told" ] || printf '\n%s\n' "$told"
    if [ "$code" = 75 ]; then
        echo "$(date '+%F %T') requeued"
        if scontrol requeue "$id"; then exit 0; fi
        told="error: Slurm does not requeue this job (see JobRequeue in slurm.conf, or sbatch --requeue); sbatch with the same words goes on from the last checkpoint"
        echo "$told"
    fi
    if [ "$code" != 0 ]; then
        on_top "${told:-error: see slurm/README.md for how to read this log (exit code $code)}"
    fi
    exit "$code"
}
