#!/usr/bin/env bash
# ganesha-client.sh: the first process of a guest whose root is the machine's, read-only (hostfs): the kernel's client of the machine's
# NFS-Ganesha. What client.py wants done to the server it asks for by files in $RELAY, which is the machine's, too. Called with a
# word by client.py: does that.
set -uo pipefail
if [ $# = 1 ]; then
  rm -f /mnt/relay/answer; echo "$1" >/mnt/relay/asked.new; mv /mnt/relay/asked.new /mnt/relay/asked
  until [ -e /mnt/relay/answer ]; do sleep 0.1; done
  exit "$(cat /mnt/relay/answer)"
fi

. "$(dirname "$0")/one-node.sh"
say() { printf 'NODE %s\n' "$*"; }
exec >/dev/console 2>&1 </dev/null
mount -t proc proc /proc; mount -t sysfs sysfs /sys
for d in /run /tmp /mnt; do mount -t tmpfs none $d; done
mkdir /mnt/relay /mnt/view; mount -t hostfs none /mnt/relay -o "$RELAY"
for m in nfsv3 nfsv4; do modprobe -d /usr/lib/uml/root $m; done
hostname client; ip link set lo up; ip addr add 10.77.0.11/24 dev vec0; ip link set vec0 up
say "up: $(uname -r)"
from=10.77.0.1:$roots/cn1
for v in ${VERSIONS//,/ }; do
  # Each finds the root as it was.
  "$0" reset || say "v$v FAIL the reset"
  mkdir "/mnt/$v"; o=vers=$v,actimeo=0,nosharecache; [ "$v" != 3 ] || o=$o,nolock
  mount -t nfs -o "$o" "$from" "/mnt/$v" || { say "v$v FAIL the mount"; continue; }
  # In the place of the view itself: another mount, which shares nothing with the first.
  mount -t nfs -o vers=3,nolock,noac,nosharecache "$from" /mnt/view || { say "v$v FAIL the second mount"; continue; }
  python3 "$(dirname "$0")/client.py" "/mnt/$v" /mnt/view "$0" stays | while read -r line; do say "v$v $line"; done
  umount /mnt/view "/mnt/$v"
done
say "done"
echo o >/proc/sysrq-trigger; sleep 60
