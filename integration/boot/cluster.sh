#!/usr/bin/env bash
# cluster.sh DIR: in a machine of its own (machine.sh): a server as in docs/BOOTING.md, by the same commands, and two nodes that boot off it, twice. DIR has srv/statelite/debian12/rootimg (the image) and initrd/.
set -euo pipefail
dir=$(realpath "$1"); limit=${LIMIT:-600}
. "$(dirname "$0")/lib.sh"
nodes=(cn1 cn2)
mount --make-private /; mount --rbind "$dir/srv" /srv
network "${nodes[@]}"

# What BOOTING.md says, from here...
PREFIX=/usr/local "$repo/integration/install.sh" >/dev/null
mkdir -p /etc/statelite/tables; cp "$fixtures"/tables/*.csv /etc/statelite/tables/
litetrees /srv/statelite
mkdir -p /srv/statelite/state
cat >/etc/statelite/statelite.toml <<'TOML'
export = "ganesha"
tmpfs_size = "64M"
# Two boots of a node are seconds apart here.
boot_window = "20s"
TOML
ganesha_conf
expect "statelite check" statelite check
program statelite serve; serve=$last
within 60 statelite status || true
expect "both roots are served" statelite status
expect "NFS-Ganesha listens" ganesha_runs

mkdir -p /srv/tftp/pxelinux.cfg /etc/dnsmasq.d
cp /usr/lib/PXELINUX/pxelinux.0 /srv/tftp/
for image in debian12-v3:initramfs-tools debian12-v4:dracut; do
  install -D -m 644 "$dir/initrd/kernel" "/srv/tftp/xcat/osimage/${image%:*}/kernel"
  # dracut's own is for root alone, and a TFTP server is not root.
  install -D -m 644 "$dir/initrd/${image#*:}" "/srv/tftp/xcat/osimage/${image%:*}/initrd-statelite.gz"
done
menu() { statelite export --format pxelinux "$@" >/srv/tftp/menu; mv /srv/tftp/menu "/srv/tftp/$(sed -n '1s/^# //p' /srv/tftp/menu)"; }
menu cn1; menu cn2 --initrd dracut
statelite export --format dnsmasq >/etc/dnsmasq.d/statelite-nodes.conf
cat >/etc/dnsmasq.d/statelite.conf <<'CONF'
port=0
interface=br0
dhcp-range=10.77.0.0,static
enable-tftp
tftp-root=/srv/tftp
dhcp-script=/usr/local/lib/statelite/dnsmasq-boot
CONF
program dnsmasq -k --conf-dir=/etc/dnsmasq.d --log-dhcp --log-facility=-
# ... to here.

roots=/run/statelite/roots
# A root that is away looks empty, too.
emptied() { mountpoint -q "$roots/$1" && [ -e "$roots/$1/home/ada/written" ] && [ ! -e "$roots/$1/var/tmp/written" ]; }
# boots NODE ROUND: its firmware, then the node.
boots() {
  local node=$1
  expect "$node, boot $2: address, loader, kernel and initrd" firmware "$node"
  # dnsmasq doesn't wait for its hook.
  [ "$2" = 1 ] || expect "$node, boot $2: its tmpfs upper is empty once its firmware has asked" within 120 emptied "$node"
  # Most of the memory is for what its initramfs unpacks.
  # shellcheck disable=SC2046 # the words of a command line
  guest "$node" "$limit" "$dir/$node.pxe/kernel" mem=512M initrd="$dir/$node.pxe/initrd" "$(plug "$node")" $(<"$dir/$node.pxe/append")
}
version() { case $1 in cn1) echo vers=3 ;; cn2) echo vers=4.1 ;; esac; }
other() { case $1 in cn1) echo cn2 ;; cn2) echo cn1 ;; esac; }
id() { lines "$1" | sed -n 's/^machine-id //p'; }
# What holds at each boot.
booted() {
  local node=$1 boot="$1, boot $2" initrd=(); [ "$node" = cn1 ] || initrd=(--initrd dracut)
  expect "$boot: to the end" said "$node" 'done$'
  if ! said "$node" 'done$'; then console "$node"; return; fi
  expect "$boot: multi-user.target" has "$node" "target active"
  expect "$boot: no unit failed" has "$node" "failed units: "
  expect "$boot: the kernel has the words of statelite export" \
    said "$node" "cmdline .*$(statelite export --format kernel-cmdline "${initrd[@]}" "$node" | sed -n 2p)"
  expect "$boot: its root comes from the server's view, by $(version "$node")" said "$node" "root $server:$roots/$node nfs4? rw,.*$(version "$node")[,.]"
  expect "$boot: host name and litetrees" has "$node" "hostname $node" "hosts 127.0.1.1 $node;127.0.0.1 localhost;10.77.0.1 server;"
  expect "$boot: it writes where it may" has "$node" "wrote by $node, by $node, by $node"
  expect "$boot: and not where it may not" said "$node" 'outside rules: .*Read-only file system'
  expect "$boot: it may mount its own root" has "$node" "mounting $node: $node "
  # How mount(8) words EACCES, of NFSv3, and ENOENT, of NFSv4, where nobody sees what is not his.
  expect "$boot: and not the other's" said "$node" "mounting $(other "$node"): mount: .*(cannot mount .* read-only|does not exist)"
}

for n in "${nodes[@]}"; do boots "$n" 1; done
for n in "${nodes[@]}"; do ended "$n"; booted "$n" 1; done
for n in "${nodes[@]}"; do
  expect "$n, boot 1: nothing is there yet" has "$n" "tmpfs none" "persistent none" "persistent inside tmpfs none" "motd Welcome to $n.;"
  expect "$n: what it wrote lies on the server, tmpfs too" grep -qx "by $n" $roots/"$n"/{var/tmp,home/ada,var/lib/kept}/written "/srv/statelite/state/$n/home/ada/written"
done
expect "each has a machine-id of its own" [ "$(id cn1)" != "$(id cn2)" ]
first=$(id cn1)

# While they are off.
echo "Maintenance at noon." >>/srv/statelite/litetree/cn1/etc/motd
# The first boot's calls of the hook are past: after boot_window a firmware's request is of another boot.
sleep 21
# This time the worker is killed every few seconds, and no node notices.
dies() { while sleep 3; do kill -9 "$(pidof statelite-work)" && echo >>"$dir/deaths"; done; }
dies & killer=$!; at_exit kill $killer
for n in "${nodes[@]}"; do boots "$n" 2; done
for n in "${nodes[@]}"; do ended "$n"; booted "$n" 2; done
kill $killer; wait $killer || true
deaths=$(wc -l <"$dir/deaths")
expect "the worker was killed while they booted ($deaths times)" [ "$deaths" -ge 3 ]
for n in "${nodes[@]}"; do
  expect "$n, boot 2: tmpfs is gone, persistent is there" has "$n" "tmpfs none" "persistent by $n" "persistent inside tmpfs by $n"
done
expect "cn1, boot 2: the litetree's edit, and the same machine-id" has cn1 "motd Welcome to cn1.;Maintenance at noon.;" "machine-id $first"
expect "cn2, boot 2: no edit of its own" has cn2 "motd Welcome to cn2.;"
expect "the roots are still served" statelite status
expect "the server stops" kill "$serve"
unmounted() { [ -z "$(mounts_below $roots)" ]; }
expect "and unmounts" within 60 unmounted
[ "$failed" = 0 ] || for log in statelite.out ganesha dnsmasq.out; do say "--- $log"; tail -n 20 "$dir/$log.log"; done
summary "nodes that boot"
