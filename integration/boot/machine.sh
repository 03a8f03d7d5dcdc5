#!/usr/bin/env bash
# machine.sh DIR... -- COMMAND...: runs a command as if on a server of its own. Its root is this machine's, copy on write: what is
# installed here is there, and what the command writes outside of the DIRs is gone with it. Network, processes and mounts are
# its own: none outlives it. Root.
set -euo pipefail
. "$(dirname "$0")/../lib.sh"
root; need unshare ip
# The scripts and the program, wherever they are: /tmp and /run are its own.
dirs=("$repo" "$(dirname "$STATELITE")"); while [ "$1" != -- ]; do dirs+=("$(realpath "$1")"); shift; done
# What it writes is in memory: an overlay can't lie on just any file system, and nobody wants it back.
# shellcheck disable=SC2016 # for the shell inside
exec unshare --mount --net --uts --ipc --pid --fork --kill-child --propagation private bash -euc '
  mount -t tmpfs -o mode=755 none /mnt
  mkdir /mnt/upper /mnt/work /mnt/root
  mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
  cd /mnt/root
  mount --rbind /dev dev; mount -t proc proc proc; mount -t sysfs sysfs sys
  mount -t tmpfs -o mode=755 none run; mount -t tmpfs -o mode=1777 none tmp
  while [ "$1" != -- ]; do mkdir -p ".$1"; mount --rbind "$1" ".$1"; shift; done
  shift
  pivot_root . mnt; umount -l /mnt
  hostname server; ip link set lo up
  exec "$@"' machine "${dirs[@]}" "$@"
