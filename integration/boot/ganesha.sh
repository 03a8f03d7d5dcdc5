#!/usr/bin/env bash
# ganesha.sh: NFS-Ganesha over a root, and the kernel's client in a guest: client.py says what is looked at. Root.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
root; need linux.uml ganesha.nfsd rpcbind python3
[ $# = 1 ] || { in_machine "$0"; exit; }

dir=$1 versions=${VERSIONS:-3,4.1}
. "$boot/one-node.sh"
mkdir -p "$dir/srv" "$dir/relay"; mount --bind "$dir/srv" /srv
network cn1
one_node 10.77.0.11 ganesha
ganesha_conf
expect "the root is served" serves
expect "NFS-Ganesha listens" ganesha_runs
guest client "${LIMIT:-1200}" linux.uml mem=512M root=none rootfstype=hostfs rootflags=/ ro quiet panic=-1 "$(plug cn1)" \
  VERSIONS="$versions" RELAY="$dir/relay" init="$boot/ganesha-client.sh"
# What the client wants done here.
while kill -0 "${guests[client]}" 2>/dev/null; do
  if [ -e "$dir/relay/asked" ]; then
    status=0; "$boot/event.sh" "$(<"$dir/relay/asked")" >>"$dir/events.log" 2>&1 || status=$?
    rm "$dir/relay/asked"; echo $status >"$dir/relay/answer.new"; mv "$dir/relay/answer.new" "$dir/relay/answer"
  fi
  sleep 0.05
done
checks client
[ "$failed" = 0 ] || { tail -n 20 "$dir/events.log" "$dir/ganesha.log"; tail -n 20 /run/serve.log; }
summary "NFS-Ganesha and the kernel's client"
