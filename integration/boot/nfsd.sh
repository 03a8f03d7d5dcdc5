#!/usr/bin/env bash
# nfsd.sh: the kernel's NFS server over a root, in a guest of its own, and the kernel's client with it: client.py says what is looked
# at, nfsd-server.sh is what runs in the guest. Root.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
root; need linux.uml exportfs rpc.nfsd rpcbind python3
[ $# = 1 ] || { in_machine "$0"; exit; }

# An unknown word of a kernel's command line is a variable of its first process.
dir=$1 versions=${VERSIONS:-3,4.2}
guest server "${LIMIT:-1200}" linux.uml mem=1G root=none rootfstype=hostfs rootflags=/ ro quiet panic=-1 \
  VERSIONS="$versions" init="$boot/nfsd-server.sh"
ended server
checks server
summary "the kernel's NFS server"
