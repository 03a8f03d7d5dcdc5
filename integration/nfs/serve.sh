#!/usr/bin/env bash
# serve.sh DIR NODES: NFS-Ganesha over NFSv3 and NFSv4, by the exports in DIR/statelite.conf, until standard input ends. Run it in
# mount and network namespaces of its own (unshare -m -n), with clients there too: who asks 10.9.N.100 comes from 10.9.N.1, the
# address of node N. DIR gets log and pid. Beside the server runs what NFSv3 needs: a portmapper, and for locks a monitor.
set -euo pipefail
dir=$1 nodes=$2
mount -t tmpfs none /run; mkdir -p /run/rpcbind /run/statd/sm{,.bak} "$dir/recovery"
for ((n = 1; n <= nodes; n++)); do printf '%s\n' "addr add 10.9.$n.1/32 dev lo" "addr add 10.9.$n.100/32 dev lo" "route replace local 10.9.$n.100 dev lo src 10.9.$n.1 table local"; done |
  { ip link set lo up; ip -batch -; }
cat >"$dir/main.conf" <<END
NFS_CORE_PARAM { Protocols = 3, 4; NFS_Port = 12049; Enable_RQUOTA = false; Enable_UDP = false; mount_path_pseudo = true; fsid_device = false; }
NFSv4 { Minor_Versions = 0, 1; Graceless = true; Only_Numeric_Owners = true; RecoveryBackend = fs; RecoveryRoot = "$dir/recovery"; }
NFS_KRB5 { Active_krb5 = false; }
%include "$dir/statelite.conf"
END
# All of it ends with this, however it ends.
all=(); trap 'kill "${all[@]}" 2>/dev/null; wait' EXIT
# until_it COMMAND...: waits as long as what was started last lives.
until_it() { until "$@"; do kill -0 "${all[-1]}" || exit 1; sleep 0.02; done; }
registered() { rpcinfo -p 127.0.0.1 2>/dev/null | grep -q " $1\$"; }
rpcbind -f & all+=($!)
until_it test -S /run/rpcbind.sock
rpc.statd -F -L -P /run/statd 2>"$dir/statd" & all+=($!)
until_it registered status
ganesha.nfsd -F -f "$dir/main.conf" -L "$dir/log" -p "$dir/pid" -N NIV_EVENT & all+=($!)
listens() { ss -Hltn | grep -q ':12049 '; }
until_it registered nfs; until_it listens
echo ready
read -r _ || true
