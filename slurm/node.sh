#!/bin/bash
# One node of a job: `bash slurm/node.sh PYTHON VERB WORDS`, by srun of job.sh. A node that cannot run Python cannot say
# so by itself.
trap '' TERM # Slurm gives notice to all processes of a step, and those that train act on it
python=$1
shift
"$python" -m open_r1.slurm.node "$@"
code=$?
if [ $code != 0 ] && ! said=$("$python" -c 'import open_r1.slurm.node' 2>&1); then
    said=$(tail -n 1 <<<"$said" | tr -d '"\134')
    printf '{"message": "%s", "node": "%s", "when": %s, "code": 2, "final": true}\n' \
        "error: $python cannot run open-r1 here ($said); make install on a file system that the compute nodes see, or set OPEN_R1_PYTHON in slurm/site.sh" \
        "$SLURMD_NODENAME" "$(date +%s)" >"$OPEN_R1_START/errors/$SLURMD_NODENAME.json"
fi
exit $code
