#!/bin/sh
# Super Mario Bros 7-1 from pixels on one data-centre GPU: a dense policy, then from it policies without a regulariser and under l0,
# l0_units and l1, trained as one population. The runs are those of tables mario_7_1_dense and mario_7_1 of reproduce_mario.py.
#
#   scripts/mario_on_gpu.sh [OVERRIDE ...]              such as seed=1
#   PIECES=1 scripts/mario_on_gpu.sh                    for machines that are lent for a short time
#   DRY_RUN=1 scripts/mario_on_gpu.sh                   prints the commands
#   python scripts/reproduce_mario.py mario_7_1 --report
#
# Training is done in pieces of SECONDS_EACH (570): each is a process that is told to end and then goes on, in the next piece, from its
# newest checkpoint, which outputs/ holds. Exit status 0: all is trained. 75: PIECES are used up, and the same command goes on.
set -eu
cd "$(dirname "$0")/.."

python=${PYTHON:-.venv/bin/python}
seconds=${SECONDS_EACH:-570}
left=${PIECES:-1000000}

# progress FOLDER: the names of its results and checkpoints, which change when a piece has come farther
progress() {
    [ ! -d "$1" ] || find "$1" -name result.json -o -name 'checkpoint-*.pt' | sort
}

# train SWEEP KEY=VALUE ...: pieces until it has ended
train() {
    sweep=$1
    shift
    set -- -m sparserl.train -m algorithm=ppo environment=super_mario_bros environment.threads=16 "$@" "sweep_name=$sweep" logger=disk
    if [ -n "${DRY_RUN:-}" ]; then
        printf '%s\n' "$python $*"
        return
    fi
    while :; do
        before=$(progress "outputs/$sweep")
        status=0
        timeout --signal=TERM --kill-after=30 "$seconds" "$python" "$@" || status=$?
        case $status in
            0) return ;;
            124 | 137) ;;
            *) exit "$status" ;;
        esac
        if [ "$before" = "$(progress "outputs/$sweep")" ]; then
            echo "no checkpoint was made in $seconds s: raise SECONDS_EACH, or lower trainer.checkpoint_every" >&2
            exit 1
        fi
        left=$((left - 1))
        if [ "$left" -le 0 ]; then
            echo "the pieces are used up; the same command goes on" >&2
            exit 75
        fi
    done
}

train mario_7_1_dense regularizer=none seed=0 trainer.total_steps=1000000 "$@"
# shellcheck disable=SC2016 # Hydra puts them in
train mario_7_1 regularizer=none,l0,l0_units,l1 seed=0 trainer.total_steps=200000 \
    'init_from=outputs/${sweep_name}_dense/ppo-super_mario_bros-none-seed${seed}-*' \
    algorithm.ent_coef=0.001 algorithm.learning_rate.start=1e-4 regularizer.delay_steps=0 "$@"
