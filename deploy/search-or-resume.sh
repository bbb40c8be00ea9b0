#!/usr/bin/env bash
# Starts a search, or goes on with it where its study exists: the same command first and after every interruption.
#
#   search-or-resume.sh CONFIG OUT STORAGE [flags that `search` and `resume` share]
#
# CONFIG   TOML file of the search; read only when it starts, the study holds it from then on
# OUT      run folder; the last part of its path is the study's name
# STORAGE  journal file, or database URL without a password (PGPASSWORD or PGPASSFILE has that)
#
# Exit codes are headmask's: 0 done, 1 finished but some masks could not be scored, 2 bad input, 70 an error that was
# not foreseen, 130 interrupted.
# 75: replicas could not be had or were lost, the storage does not answer, or another driver does not let the study go. After
# 0, 1, 2 and 70, trying again is vain.
#
# Checked with shellcheck, and run by tests/deploy/test_scripts.py against a search that was killed.
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: search-or-resume.sh CONFIG OUT STORAGE [flags that search and resume share]" >&2
    exit 2
fi
config=$1 out=${2%/} storage=$3
shift 3
name=${out##*/}

# A driver that was lost with its node holds its study's lock until the database notices.
wait_s=${HEADMASK_WAIT_S:-900}
temporary_failure=75

state() {
    # A journal that is not there yet is no failure.
    if [[ $storage != *://* && ! -s $storage ]]; then
        echo none
        return
    fi
    headmask studies --storage "$storage" --json | python3 -c '
import json, sys
print(next((study["state"] for study in json.load(sys.stdin) if study["name"] == sys.argv[1]), "none"))
' "$name"
}

while state=$(state) || exit "$temporary_failure"; [ "$state" = running ]; do
    if [ "$SECONDS" -ge "$wait_s" ]; then
        echo "another driver still runs study $name after $wait_s s" >&2
        exit "$temporary_failure"
    fi
    echo "another driver runs study $name; waiting until it lets go" >&2
    sleep 5
done

# One that has not begun is what a driver leaves that was killed while it created it.
if [ "$state" = none ] || [ "$state" = "not begun" ]; then
    exec headmask search "$config" --out "$out" --storage "$storage" "$@"
fi
exec headmask resume "$name" --storage "$storage" --out "$out" "$@"
