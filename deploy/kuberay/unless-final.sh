#!/usr/bin/env bash
# Runs a command, unless an earlier attempt of the same RayJob has ended in a way that trying again does not change.
#
#   unless-final.sh FOLDER search-or-resume CONFIG OUT ...
#
# KubeRay tries a failed RayJob again whatever its exit code, each time on a new cluster named RAYJOB-xxxxx. So headmask's
# final codes (0 done, 1 finished but some masks could not be scored, 2 bad input, 70 an error that was not foreseen) are
# kept in FOLDER under the RayJob's name, and further attempts end with the same code at once. Ray ends a driver that loses its cluster, and with 1, too: where
# an attempt has left no result in OUT, 1 becomes 75.
#
# Checked with shellcheck, and run by tests/deploy/test_scripts.py. It has not run on a cluster.
set -uo pipefail

folder=$1 result=${4%/}/result.json
shift
record=$folder/${RAY_CLUSTER_NAME%-*}
started=$record.started

if [ -s "$record" ]; then
    code=$(<"$record")
    echo "an earlier attempt ended with exit code $code, which trying again does not change" >&2
    exit "$code"
fi

# Ray sends signals to the whole process group; this shell outlives the command to record its code.
trap : TERM INT
# Beside the result, so that one clock dates both.
mkdir -p "$folder" && touch "$started"
"$@"
code=$?
if [ "$code" -eq 1 ] && [ ! "$result" -nt "$started" ]; then
    code=75
fi
case $code in
0 | 1 | 2 | 70) echo "$code" >"$record" ;;
esac
exit "$code"
