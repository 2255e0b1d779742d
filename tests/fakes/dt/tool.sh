#!/bin/sh
# The dt* tools of ZIH Dresden (doc.zih.tu-dresden.de, data_transfer/datamover), by the name it is called: each is the Linux tool
# on another machine, here the same one. With --blocking (dtls: always) it is srun, else sbatch. DT_STATE holds the jobs.
set -u
name=${0##*/}
state=${DT_STATE:?}
mkdir -p "$state"
{ printf '%s' "$name"; printf ' [%s]' "$@"; echo; } >>"$state/calls"

case $name in
  dtinfo) echo 'Directory on Taurus  Directory on datamover'; echo '/scratch/ws          /scratch/ws'; exit ;;
  dtq | dtqueue)
    echo '  JOBID PARTITION     NAME'
    for job in "$state"/job-*; do [ -f "$job" ] && echo "  ${job##*-} datamover"; done
    exit ;;
  dtcancel)
    for id; do
      [ -f "$state/job-$id" ] || { echo "scancel: error: Invalid job id $id" >&2; exit 1; }
      kill "$(cat "$state/job-$id")"
    done
    exit ;;
esac

blocking=
[ "$name" = dtls ] && blocking=1
count=$#
while [ "$count" -gt 0 ]; do
  case $1 in
    --blocking) blocking=1 ;;
    --account=* | --time=*) ;;
    --help | --version) exec "${name#dt}" "$1" ;;
    *) set -- "$@" "$1" ;;
  esac
  shift
  count=$((count - 1))
done

id=$((27549105 + $(ls "$state" | wc -l)))
while ! (set -C; : >"$state/number-$id") 2>/dev/null; do id=$((id + 1)); done
if [ -z "$blocking" ]; then
  "${name#dt}" "$@" >"$state/slurm-$id.out" 2>&1 </dev/null &
  echo $! >"$state/job-$id"
  echo "Submitted batch job $id"
  exit
fi
echo "srun: job $id queued and waiting for resources" >&2
while [ -f "$state/busy" ]; do sleep 0.05; done
echo "srun: job $id has been allocated resources" >&2
echo 'srun: error: ioctl(TIOCGWINSZ): Inappropriate ioctl for device' >&2
echo 'srun: error: Not using a pseudo-terminal, disregarding --pty option' >&2
"${name#dt}" "$@" <&0 &
tool=$!
echo $tool >"$state/job-$id"
trap 'kill $tool' TERM
wait $tool
code=$?
rm -f "$state/job-$id"
exit $code
