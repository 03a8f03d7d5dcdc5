#!/usr/bin/env bash
# nfsd.sh: the kernel's NFS server over a root, in a guest of its own, and the kernel's client with it: client.py says what is looked
# at, nfsd-server.sh is what runs in the guest. Root.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
root; need linux.uml exportfs rpc.nfsd rpcbind python3
if [ $# = 0 ]; then
  [ -x "$STATELITE" ] || die "no $STATELITE: make build"
  scratch
  at_exit keep "$scratch"
  "$boot/machine.sh" "$scratch" -- "$boot/nfsd.sh" "$scratch"
  exit
fi

dir=$1
install -m 755 "$STATELITE" /usr/local/sbin/statelite
# Where modprobe looks, and where the guest mounts.
mkdir -p /usr/lib/uml/root/lib /etc/statelite /etc/exports.d; ln -s /usr/lib/uml/modules /usr/lib/uml/root/lib/modules
# An unknown word of a kernel's command line is a variable of its first process.
versions=${VERSIONS:-3,4.2}
guest server "${LIMIT:-300}" linux.uml mem=1G root=none rootfstype=hostfs rootflags=/ ro quiet panic=-1 VERSIONS="$versions" init="$boot/nfsd-server.sh"
ended server
expect "the guest came to its end" said server 'done$'
while read -r version verdict check; do
  case $verdict in ok) pass "$version: $check" ;; FAIL) fail "$version: $check" ;; esac
done < <(lines server | grep -E '^v[0-9.]+ (ok|FAIL) ')
for v in ${versions//,/ }; do expect "v$v: the client came to its end" said server "v$v ended"; done
[ "$failed" = 0 ] || console server 60
summary "the kernel's NFS server"
