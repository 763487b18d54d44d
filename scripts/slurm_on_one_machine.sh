#!/bin/sh
# A Slurm of two nodes on this machine, to try sweeps on: no systemd, no cgroups, no accounting; Debian or Ubuntu, as root.
#
#   eval "$(scripts/slurm_on_one_machine.sh up FOLDER)"     installs what is missing, starts everything, prints what to export
#   python -m sparserl.train -m ... hydra.launcher.executor=slurm
#   scripts/slurm_on_one_machine.sh down FOLDER             ends everything, and all jobs
#
# FOLDER holds keys, logs and state; its name must not have spaces.
set -eu

usage="usage: $0 up|down FOLDER"
action=${1:?$usage}
mkdir -p "${2:?$usage}"
folder=$(cd "$2" && pwd)
export SLURM_CONF="$folder/slurm.conf"

say() { echo "$*" >&2; }

packages() {
    command -v slurmctld slurmd munged >/dev/null && return
    [ "$(id -u)" = 0 ] || { say "Slurm is not installed, and only root can install it"; exit 1; }
    command -v apt-get >/dev/null || { say "Slurm is not installed, and there is no apt-get to install it with"; exit 1; }
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -q slurm-wlm slurm-wlm-basic-plugins munge >"$folder/apt.log" 2>&1 ||
        { apt-get update -q >>"$folder/apt.log" 2>&1 &&
          apt-get install -y -q slurm-wlm slurm-wlm-basic-plugins munge >>"$folder/apt.log" 2>&1; } ||
        { say "Slurm cannot be installed: $(tail -n 1 "$folder/apt.log")"; exit 1; }
}

configure() {
    set -- $(python3 -c 'import socket; free = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(each.getsockname()[1] for each in free))')
    cat >"$SLURM_CONF" <<EOF
ClusterName=one
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=$1
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool.%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
SlurmdParameters=config_overrides
MailProg=/bin/true
# what is ended gets a while to end by itself; what is requeued begins after cred_expire seconds
KillWait=20
SchedulerParameters=sched_interval=2
NodeName=n1 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=$2 CPUs=1 RealMemory=16000
NodeName=n2 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=$3 CPUs=1 RealMemory=16000
# whatever waits in the partition urgent takes the place of what runs in the other one, which has GraceTime seconds to leave
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=2
EOF
    mkdir -p "$folder/state"
}

up() {
    trap '[ $? = 0 ] || down' EXIT
    packages
    configure
    [ -f "$folder/munge.key" ] || dd if=/dev/urandom of="$folder/munge.key" bs=1024 count=1 2>/dev/null
    chmod 400 "$folder/munge.key"
    munged --force --key-file "$folder/munge.key" --socket "$folder/munge.socket" --pid-file "$folder/munged.pid" \
        --log-file "$folder/munged.log" --seed-file "$folder/munged.seed" 2>"$folder/munged.err"
    slurmctld -c
    for node in n1 n2; do slurmd -N $node; done
    tries=0
    until [ "$(sinfo --noheader --format %D --states idle 2>/dev/null)" = 2 ]; do
        tries=$((tries + 1))
        [ $tries -lt 60 ] || { say "the nodes do not come up; see $folder/*.log"; exit 1; }
        sleep 0.5
    done
    echo "export SLURM_CONF=$SLURM_CONF"
}

down() {
    scancel --user "$(id -un)" 2>/dev/null || true
    for name in slurmd.n1 slurmd.n2 slurmctld munged; do
        pid=$(cat "$folder/$name.pid" 2>/dev/null) || continue
        kill "$pid" 2>/dev/null || true
        tries=0
        while kill -0 "$pid" 2>/dev/null && [ $tries -lt 100 ]; do tries=$((tries + 1)); sleep 0.1; done
    done
}

case $action in
    up) up ;;
    down) down ;;
    *) say "$usage"; exit 1 ;;
esac
