#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# two_hosts.sh [--rate RATE] PROGRAM ARGUMENT...: runs a program of MPI as one rank on each of two hosts, which are network
# namespaces of this machine with a link of RATE (as tc writes it, e.g. 1gbit; unlimited without) between them. So what
# crosses a network can be timed on one machine: the ranks share its processors, but no memory.
#
#   bench/two_hosts.sh --rate 1gbit build/bench/bench_training_ranks --preset t5-small --source 512 --target 128
#
# Needs root, iproute2 and Open MPI. The namespaces are removed at the end. OMP_* is passed on.
set -euo pipefail
if [ "${1:-}" = --on ]; then  # as mpirun's agent: --on NAME HOST COMMAND..., run in the namespace of the second host
  name=$2
  shift 3
  exec ip netns exec "$name" unshare --uts sh -c "hostname $name; $*"
fi

rate=
if [ "${1:-}" = --rate ]; then rate=${2:?--rate needs a rate, as 1gbit} && shift 2; fi
[ $# -gt 0 ] || { sed -n '3,/^set /s/^# \{0,1\}//p' "$0" | head -n -1; exit 2; }
[ "$(id -u)" -eq 0 ] || { echo "two_hosts.sh: namespaces are made by root alone" >&2; exit 1; }

self=$(realpath "$0")
first=srf-$$-1
second=srf-$$-2
trap 'ip netns del $first 2>/dev/null; ip netns del $second 2>/dev/null' EXIT
ip netns add $first
ip netns add $second
ip link add veth1 netns $first type veth peer name veth2 netns $second
ip -n $first addr add 10.77.0.1/24 dev veth1
ip -n $second addr add 10.77.0.2/24 dev veth2
for host in "$first veth1" "$second veth2"; do
  name=${host% *} device=${host#* }
  ip -n "$name" link set lo up
  ip -n "$name" link set "$device" up
  # shellcheck disable=SC2086
  [ -z "$rate" ] || ip netns exec "$name" tc qdisc add dev "$device" root tbf rate $rate burst 512kb latency 100ms
done

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
mapfile -t passed < <(compgen -e OMP_ | sed 's/^/-x\n/')
# shellcheck disable=SC2016
ip netns exec $first unshare --uts bash -c 'hostname "$0"; exec mpirun "$@"' $first \
  -n 2 --host 10.77.0.1:1,10.77.0.2:1 --bind-to none --mca plm_rsh_agent "$self --on $second" --mca btl tcp,self \
  --mca oob_tcp_if_include 10.77.0.0/24 --mca btl_tcp_if_include 10.77.0.0/24 \
  ${passed[@]+"${passed[@]}"} "$@"
