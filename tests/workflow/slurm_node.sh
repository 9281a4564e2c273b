#!/usr/bin/env bash
# A Slurm of one node, this machine: for the tests, and to try profiles/slurm without a cluster. Needs root.
#
#   apt-get install slurmctld slurmd slurm-client munge
#   tests/workflow/slurm_node.sh start FOLDER    # then `sinfo`
#   tests/workflow/slurm_node.sh stop FOLDER
#
# Everything lies in FOLDER (an absolute path without blanks, below folders that everybody may enter), but for the link
# /etc/slurm/slurm.conf, where jobs look for it. The node has the feature `this_machine`, and jobs are bound to the CPUs
# that they get.
set -euo pipefail
action=${1:?start or stop} folder=${2:?a folder}
CONF=/etc/slurm/slurm.conf
PATH=$PATH:/usr/sbin

start() {
    if [ -e $CONF ]; then
        echo "error: $CONF is there: this machine has a Slurm already" >&2
        return 1
    fi
    mkdir -p "$folder"/{state,spool,munge} "$(dirname $CONF)"
    chmod 755 "$folder" "$folder/munge"
    local host memory
    host=$(uname -n) host=${host%%.*}
    memory=$(awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo)
    (umask 077 && head -c 1024 /dev/urandom >"$folder/munge/key")
    munged --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munge/munged.pid" \
        --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
    # config_overrides: a container may show fewer CPUs than the hardware has.
    cat >"$folder/slurm.conf" <<END
ClusterName=one_node
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthInfo=socket=$folder/munge/socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
MpiDefault=none
ReturnToService=2
KillWait=5
MinJobAge=86400
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$memory Feature=this_machine
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
    ln -s "$folder/slurm.conf" $CONF
    slurmctld
    slurmd
    for _ in $(seq 120); do
        if [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ]; then
            return
        fi
        sleep 0.5
    done
    echo "error: the node did not become idle: see $folder/slurmctld.log and $folder/slurmd.log" >&2
    stop
    return 1
}

stop() {
    if [ "$(readlink $CONF)" = "$folder/slurm.conf" ]; then
        timeout 30 scancel --user=root 2>/dev/null || true
        rm $CONF
    fi
    local pid_file pid
    for pid_file in "$folder"/{slurmd,slurmctld,munge/munged}.pid; do
        pid=$(cat "$pid_file" 2>/dev/null) || continue
        kill "$pid" 2>/dev/null || true
        while kill -0 "$pid" 2>/dev/null; do sleep 0.2; done
    done
}

case $action in
    start | stop) "$action" ;;
    *) echo "error: expected start or stop, not $action" >&2 && exit 2 ;;
esac
