# shellcheck shell=bash
# Sourced by slurm/*.slurm on the first node of a job. `job VERB WORDS` runs `open-r1 VERB WORDS` on the nodes of the
# job, prints the first failure, and requeues the job if it can continue. Settings of a cluster are in slurm/site.sh;
# recipes are read in Python.

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

# Put a text at the top of the job's log, before the output of all processes.
on_top() {
    local log=$OPEN_R1_LOG
    [ -f "$log" ] || return 0
    # Copied back, not renamed: Slurm has this file open.
    { printf '%s\n\n' "$1" && cat "$log"; } >"$log.part" && cat "$log.part" >"$log"
    rm -f "$log.part"
}

on_one_node() {
    srun --overlap --export=ALL --nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" --mem=0 --kill-on-bad-exit=0 \
        ${OPEN_R1_SRUN[@]+"${OPEN_R1_SRUN[@]}"} ${OPEN_R1_WRAP[@]+"${OPEN_R1_WRAP[@]}"} "$@"
}

# Cores of the node with the fewest; without --cpus-per-task a task of a step gets one core.
cores() {
    tr ',' '\n' <<<"$SLURM_JOB_CPUS_PER_NODE" | sed 's/(.*//' | sort -n | head -n 1
}

# Send ALRM half a minute before the limit: Slurm ends a job at its limit without a requeue.
alarm_before_limit() {
    local end
    end=$(scontrol show job "$id" | sed -n 's/.* EndTime=\([^ ]*\).*/\1/p' | head -n 1)
    end=$(date -d "$end" +%s 2>/dev/null) || return 0 # no limit
    (sleep "$((end - 30 > $(date +%s) ? end - 30 - $(date +%s) : 0))" && kill -ALRM $$) &
    alarm=$!
}

job() {
    id=$SLURM_JOB_ID
    if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then
        id=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
    fi
    local folder=${OPEN_R1_JOBS:-$PWD/runs/slurm}/$id
    export OPEN_R1_START=$folder/start-${SLURM_RESTART_COUNT:-0}
    # A folder that exists is from another cluster, or from a controller that counts jobs from 1 again.
    if [ "${SLURM_RESTART_COUNT:-0}" = 0 ]; then rm -rf "$folder"; else rm -rf "$OPEN_R1_START"; fi
    if ! mkdir -p "$OPEN_R1_START/errors"; then
        echo "error: $OPEN_R1_START cannot be made; submit from a folder that all nodes can write, or set OPEN_R1_JOBS" >&2
        exit 2
    fi
    export PYTHONUNBUFFERED=1
    OPEN_R1_LOG=$(scontrol show job "$id" | sed -n 's/^ *StdOut=//p' | head -n 1)
    if [ -z "${SLURM_ARRAY_JOB_ID:-}" ]; then export OPEN_R1_LOG; fi # a run notes its job by it
    # The step takes all resources of the job by the options below; these variables would add others.
    unset SLURM_CPUS_PER_GPU SLURM_CPUS_PER_TASK SLURM_MEM_PER_NODE SLURM_MEM_PER_CPU SLURM_MEM_PER_GPU SLURM_GPUS
    if [ "${SLURM_GPUS_PER_NODE:-}" = 0 ]; then unset SLURM_GPUS_PER_NODE; fi
    echo "$(date '+%F %T') job $id, start ${SLURM_RESTART_COUNT:-0}, on $SLURM_JOB_NODELIST: open-r1 $*"

    local cancelled="" late="" alarm=""
    trap 'touch "$OPEN_R1_START/stop"; alarm_before_limit' USR1 # the time limit is near, or the job is preempted
    trap 'late=yes' ALRM
    trap 'cancelled=yes' TERM # Slurm sends it to the step as well
    srun --export=ALL --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --mem=0 \
        --cpus-per-task="$(cores)" --kill-on-bad-exit=1 \
        ${OPEN_R1_SRUN[@]+"${OPEN_R1_SRUN[@]}"} ${OPEN_R1_WRAP[@]+"${OPEN_R1_WRAP[@]}"} \
        bash slurm/node.sh "$python" "$@" &
    local step=$! code=0 message
    # A trap interrupts `wait`, while the step continues.
    while wait "$step" && code=0 || code=$?; [ -z "$late" ] && kill -0 "$step" 2>/dev/null; do :; done
    if [ -n "$late" ]; then
        echo "$(date '+%F %T') it has not stopped by itself so shortly before the limit; sbatch --signal gives more notice"
    else
        wait "$step" && code=0 || code=$? # the step's exit code, if a trap interrupted the last wait
    fi
    [ -z "$alarm" ] || kill "$alarm" 2>/dev/null

    # A job that is cancelled now ends by the same signal, without a message.
    [ -n "$cancelled" ] || { message=$(on_one_node "$python" -m open_r1.slurm.outcome "$code") && code=0 || code=$?; }
    if [ -n "$cancelled" ]; then
        echo "$(date '+%F %T') cancelled; the same sbatch command continues from the last checkpoint, if there is one"
        exit 143
    fi
    if [ -z "$message" ] && [ "$code" != 0 ]; then # without Python there are only the messages of node.sh
        message=$(cat "$OPEN_R1_START"/errors/*.json 2>/dev/null | sed -n 's/.*"message": "\([^"]*\)", "node": "\([^"]*\)".*/\2: \1/p' | head -n 1)
    fi
    [ -z "$message" ] || printf '\n%s\n' "$message"
    if [ "$code" = 75 ]; then
        echo "$(date '+%F %T') requeued"
        if scontrol requeue "$id"; then exit 0; fi
        message="error: Slurm does not requeue this job (see JobRequeue in slurm.conf, or sbatch --requeue); the same sbatch command continues from the last checkpoint"
        echo "$message"
    fi
    if [ "$code" != 0 ]; then
        on_top "${message:-error: exit code $code; slurm/README.md explains how to read this log}"
    fi
    exit "$code"
}
