#!/usr/bin/env bash
# nfsd-boot-server.sh: the first process of a guest whose root is the machine's, read-only (hostfs): the server of BOOTING.md with the
# kernel's nfsd, over an image on ubd0. What nfsd-boot.sh asks for by files in $RELAY, the machine's, is a command: its answer is its status.
set -uo pipefail
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/one-node.sh"
say() { printf 'NODE %s\n' "$*"; }
exec >/dev/console 2>&1 </dev/null
guest_mounts
modprobe -d /usr/lib/uml/root fuse
hostname server; ip link set lo up; ip addr add $server/24 dev vec0; ip link set vec0 up
mkdir -p /mnt/relay $srv/{state,debian12/rootimg} /etc/statelite/tables
mount -t hostfs none /mnt/relay -o "$RELAY"; mount -o ro /dev/ubda $srv/debian12/rootimg
say "up: $(uname -r)"
cp "$fixtures"/tables/*.csv /etc/statelite/tables/
# Both by NFSv3.
sed -i 's/debian12-v4/debian12-v3/' /etc/statelite/tables/nodetype.csv
litetrees $srv
printf '%s\n' 'export = "exports"' 'tmpfs_size = "64M"' >/etc/statelite/statelite.toml
nfsd_runs 8
serves || say "not served: $(tail -5 /run/serve.log)"
statelite export --format dnsmasq >/run/nodes.conf || say "no lines for dnsmasq"
dnsmasq -C /dev/null --conf-file=/run/nodes.conf -p 0 -i vec0 -F 10.77.0.0,static -l /run/leases -x /run/dnsmasq.pid -u root || say "no DHCP"
for n in cn1 cn2; do say "kernel-cmdline $n $(statelite export --format kernel-cmdline $n | sed -n 2p)"; done
say "exported: $(exportfs -v | tr -s '\n\t' ' ')"
say "ready"
until [ -e /mnt/relay/off ]; do
  if [ -e /mnt/relay/asked ]; then
    status=0; bash -c "$(cat /mnt/relay/asked)" || status=$?
    rm /mnt/relay/asked; echo $status >/mnt/relay/answer.new; mv /mnt/relay/answer.new /mnt/relay/answer
  fi
  sleep 0.1
done
for n in cn1 cn2; do say "written by $n: $(cat $roots/$n/{var/tmp,home/ada,var/lib/kept}/written $srv/state/$n/home/ada/written | tr '\n' ';')"; done
tail -20 /run/serve.log
say "done"
echo o >/proc/sysrq-trigger; sleep 60
