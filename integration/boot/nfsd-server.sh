#!/usr/bin/env bash
# nfsd-server.sh: the first process of a guest whose root is the machine's, read-only (hostfs): a server with the kernel's nfsd over
# one node's root, and its client over the loopback.
set -uo pipefail
. "$(dirname "$0")/one-node.sh"
say() { printf 'NODE %s\n' "$*"; }
exec >/dev/console 2>&1 </dev/null
guest_mounts
for m in fuse nfsv3 nfsv4; do modprobe -d /usr/lib/uml/root $m; done
hostname server; ip link set lo up
one_node 127.0.0.1 exports
# The root of NFSv4's tree: what the guest has for / can't be exported, /run can.
echo '/run 127.0.0.1(ro,no_subtree_check,fsid=0)' >/etc/exports.d/root.exports

nfsd_runs 4
say "up: $(uname -r)"
serves || say "not served: $(tail -5 /run/serve.log)"
# The daemon has written it; so would this.
say "exports: $(statelite export --install)"
say "exported: $(exportfs -v | tr -s '\n\t' ' ')"
for v in ${VERSIONS//,/ }; do
  mkdir -p "/mnt/$v"; path=$roots/cn1; [ "$v" = 3 ] || path=${path#/run}
  # Each look asks the server.
  mount -t nfs -o "vers=$v,actimeo=0" "127.0.0.1:$path" "/mnt/$v" || { say "v$v FAIL the mount"; continue; }
  here=$(dirname "$0"); python3 "$here/client.py" "/mnt/$v" $roots/cn1 "$here/event.sh" | while read -r line; do say "v$v $line"; done
  umount "/mnt/$v"
done
tail -20 /run/serve.log
say "done"
echo o >/proc/sysrq-trigger; sleep 60
