#!/usr/bin/env bash
# Makes two hosts of one machine for as long as a command runs on the first. Each has a network, an address, a /dev/shm and a
# /tmp/ray of its own, and a Ray node with one CPU; a cable joins them. The second one finds HIDDEN empty.
#
#   two_hosts.sh HIDDEN COMMAND...
#
# Namespaces of the kernel do that; no privilege is needed where users may make them, and nothing outlives the command.
set -euo pipefail

if [ -z "${INSIDE-}" ]; then
    INSIDE=yes exec unshare --user --map-root-user --net --mount --pid --fork --kill-child --mount-proc "$0" "$@"
fi
hidden=$1
shift
mkdir -p /tmp/ray

unshare --net --mount sleep infinity &
second=(nsenter --target $! --net --mount --)
until [ "$(readlink /proc/$!/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
"${second[@]}" mount -t tmpfs none "$hidden"
ip link add cable type veth peer name cable netns $!

settle() {
    "${@:2}" ip link set lo up
    "${@:2}" ip address add "$1/24" dev cable
    "${@:2}" ip link set cable up
    "${@:2}" mount -t tmpfs none /tmp/ray
    "${@:2}" mount -t tmpfs none /dev/shm
}
settle 192.0.2.1
settle 192.0.2.2 "${second[@]}"

ray start --head --node-ip-address 192.0.2.1 --num-cpus 1 --num-gpus 0
"${second[@]}" ray start --address 192.0.2.1:6379 --node-ip-address 192.0.2.2 --num-cpus 1 --num-gpus 0
"$@"
