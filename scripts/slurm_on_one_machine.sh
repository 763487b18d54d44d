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
    cat >"$SLURM_CONF" <<EOF
ClusterName=one
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
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
# what is ended gets a while to end by itself, and what is requeued begins soon
KillWait=20
SchedulerParameters=requeue_delay=1
NodeName=n1 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=17001 CPUs=1 RealMemory=16000
NodeName=n2 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=17002 CPUs=1 RealMemory=16000
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
EOF
    # without accounting sacct knows nothing, and submitit, which asks it, would wait for ever for a cancelled job
    mkdir -p "$folder/bin" "$folder/state"
    cat >"$folder/bin/sacct" <<'EOF'
#!/bin/sh
echo 'JobID|State|NodeList'
scontrol show job -o | awk '{
    delete f
    for (i = 1; i <= NF; i++) { at = index($i, "="); f[substr($i, 1, at - 1)] = substr($i, at + 1) }
    id = f["JobId"]
    if ("ArrayJobId" in f) id = f["ArrayJobId"] "_" (f["ArrayTaskId"] ~ /[-,%]/ ? "[" f["ArrayTaskId"] "]" : f["ArrayTaskId"])
    if (id) print id "|" f["JobState"] "|" f["NodeList"]
}'
EOF
    chmod +x "$folder/bin/sacct"
}

up() {
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
        [ $tries -lt 60 ] || { say "the nodes do not come up; see $folder/*.log"; down; exit 1; }
        sleep 0.5
    done
    echo "export SLURM_CONF=$SLURM_CONF PATH=$folder/bin:\$PATH"
}

down() {
    scancel --user root 2>/dev/null || true
    for name in slurmd.n1 slurmd.n2 slurmctld munged; do
        pid=$(cat "$folder/$name.pid" 2>/dev/null) || continue
        kill "$pid" 2>/dev/null || true
        while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
    done
}

case $action in
    up) up ;;
    down) down ;;
    *) say "$usage"; exit 1 ;;
esac
