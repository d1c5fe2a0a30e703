#!/bin/sh
# SPDX-License-Identifier: MIT
# Trains under Slurm, over its time limits and preemptions, until the run is finished:
#
#   sbatch --nodes 4 --cpus-per-task 16 recipes/slurm.sh RECIPE RUN_DIR [--set ...]
#
# A run that exists goes on from its newest checkpoint. QUERN names the program, if it is not in
# PATH. Ranks and cores are what Slurm is asked for: one rank for each task.
#SBATCH --job-name=quern
#SBATCH --ntasks-per-node=1
#SBATCH --time=24:00:00
#SBATCH --output=quern-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# 180 s before the time is over this script gets SIGUSR1; B: it alone, since mpirun passes it on.
# At preemption too, where slurm.conf has a GraceTime and preempt_send_user_signal among its
# SlurmctldParameters (22.05), or PreemptParameters=send_user_signal. Else the newest checkpoint is
# what is left.
#SBATCH --signal=B:USR1@180

if [ $# -lt 2 ]; then
  echo "usage: sbatch recipes/slurm.sh RECIPE RUN_DIR [--set ...]" >&2
  exit 2
fi
recipe=$1 run=$2
shift 2
if [ -f "$run/recipe.textproto" ]; then
  set -- resume "$run"
else
  set -- train "$recipe" --run-dir "$run" "$@"
fi

asked=
mpirun --bind-to none "${QUERN:-quern}" "$@" &
job=$!
trap 'asked=yes; kill -USR1 $job' USR1 TERM  # finish the step, save, exit with 75
wait $job
code=$?
while kill -0 $job 2>/dev/null; do  # the signal has only ended the waiting
  wait $job
  code=$?
done

# Above 128: the signal came before there was anything to save.
if [ $code -eq 75 ] || { [ "$asked" ] && [ $code -gt 128 ]; }; then
  trap - USR1 TERM
  scontrol requeue "$SLURM_JOB_ID" && sleep 60  # until Slurm ends this script
fi
exit $code
