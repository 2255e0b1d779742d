#!/bin/sh
# A real Slurm on this machine, for tests and by hand: a controller, three compute nodes and a data mover node.
#
#   eval "$(sh scripts/slurm.sh start [DIR [PORT]])"   start it if it does not run; prints `export SLURM_CONF=...`
#   sh scripts/slurm.sh stop [DIR]                     end its daemons
#
# Needs root, and Debian's slurm-wlm and munge (scripts/setup-tests.sh installs them). DIR holds state and logs; PORT (24600)
# and the nine after it are its own, so that several can run. Partitions: `normal` (default; n1 n2 n3), `datamover` (dm1).
#
# All nodes are this machine. Each has a disk of its own all the same, DIR/nodes/NODE: tasks have it as TMPDIR. With SAME_PATH=1
# it is mounted at DIR/disk for the tasks of that node, so that it has the same path on all of them, as on a real cluster; but
# then the nodes do not see what is mounted later.
set -eu
cd -- "$(dirname -- "$0")/.."
command=${1-}
dir=$(realpath -m -- "${2:-node_modules/.cache/slurm}")
port=${3:-24600}
export SLURM_CONF="$dir/slurm.conf"

idle_nodes() {
  timeout 5 sinfo -h -t idle,mix,alloc -o %D 2>/dev/null | awk '{ n += $1 } END { print n + 0 }'
}

stop() {
  for file in "$dir"/slurmd-*.pid "$dir"/slurmctld.pid; do
    [ -f "$file" ] && kill "$(cat "$file")" 2>/dev/null || true
  done
}

configure() {
  host=$(hostname -s)
  cat >"$SLURM_CONF" <<END
ClusterName=eftest
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd-%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
TaskProlog=$dir/task-prolog
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2
ReturnToService=2
MpiDefault=none
KillWait=10
NodeName=n[1-3] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + 3))] CPUs=16 RealMemory=2000
NodeName=dm1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 4)) CPUs=16 RealMemory=2000
PartitionName=normal Nodes=n[1-3] Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
PartitionName=datamover Nodes=dm1 MaxTime=INFINITE State=UP OverSubscribe=YES
END
  cat >"$dir/task-prolog" <<END
#!/bin/sh
disk=$dir/disk
[ -e "\$disk/.node" ] || disk=$dir/nodes/\$SLURMD_NODENAME
echo "export TMPDIR=\$disk"
END
  chmod 755 "$dir/task-prolog"
}

# A node's daemon, and with it its tasks; with SAME_PATH in a mount namespace of its own.
start_node() {
  mkdir -p "$dir/nodes/$1" "$dir/spool/$1"
  if [ "${SAME_PATH-}" ]; then
    : >"$dir/nodes/$1/.node"
    # shellcheck disable=SC2016 # for the inner shell
    unshare --mount sh -c 'mount --bind "$1/nodes/$2" "$1/disk" && exec slurmd -N "$2"' sh "$dir" "$1" >&2
  else
    slurmd -N "$1" >&2
  fi
}

start() {
  for program in slurmctld slurmd munged; do
    command -v "$program" >/dev/null || { echo "Missing: $program (Debian: slurm-wlm munge)" >&2; exit 1; }
  done
  mkdir -p "$dir/state" "$dir/spool" "$dir/log" "$dir/disk" /run/munge
  chown munge: /run/munge
  munge -n </dev/null >/dev/null 2>&1 || su -s /bin/sh munge -c munged >&2
  configure
  slurmctld >&2
  for node in n1 n2 n3 dm1; do start_node "$node"; done
  for _ in $(seq 100); do
    [ "$(idle_nodes)" = 4 ] && return
    sleep 0.2
  done
  echo "Slurm did not start within 20 s; its logs: $dir/log" >&2
  stop
  exit 1
}

case $command in
start)
  if [ ! -f "$SLURM_CONF" ] || [ "$(idle_nodes)" != 4 ]; then
    stop
    start
  fi
  echo "export SLURM_CONF='$SLURM_CONF'"
  ;;
stop) stop ;;
*)
  echo "usage: sh scripts/slurm.sh start|stop [DIR [PORT]]" >&2
  exit 2
  ;;
esac
