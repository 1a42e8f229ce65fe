#!/bin/bash
# One node of a job: `bash slurm/node.sh PYTHON VERB WORDS`, started by srun in job.sh. If Python cannot run here, this
# script reports it.
trap '' TERM # Slurm sends SIGTERM to all processes of a step; those that train react to it
python=$1
shift
"$python" -m open_r1.slurm.node "$@"
code=$?
if [ $code != 0 ] && ! output=$("$python" -c 'import open_r1.slurm.node' 2>&1); then
    output=$(tail -n 1 <<<"$output" | tr -d '"\134')
    printf '{"message": "%s", "node": "%s", "when": %s, "code": 2, "final": true}\n' \
        "error: $python cannot run open-r1 here ($output); make install on a file system that the compute nodes share, or set OPEN_R1_PYTHON in slurm/site.sh" \
        "$SLURMD_NODENAME" "$(date +%s)" >"$OPEN_R1_START/errors/$SLURMD_NODENAME.json"
fi
exit $code
