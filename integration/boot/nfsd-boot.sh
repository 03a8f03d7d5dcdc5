#!/usr/bin/env bash
# nfsd-boot.sh: two nodes boot a stock Debian off their roots, over NFSv3 from the kernel's nfsd, which is in a guest of its own, and
# one of them boots again. Root.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
root; need linux.uml exportfs rpc.nfsd rpcbind dnsmasq debootstrap mkfs.ext4
if [ $# = 0 ]; then
  [ -c /dev/net/tun ] || die "no /dev/net/tun here: guests have nothing to be plugged into"
  "$repo/integration/image.sh" "$cache/boot/image" "$image_packages"
  "$boot/initrd.sh" "$cache/boot/initrd"
  in_machine "$0" "$cache/boot"; exit
fi

dir=$1 limit=${LIMIT:-600} roots=/run/statelite/roots
mkdir "$dir/relay"
network server cn1 cn2; ip addr del "$server/24" dev br0
truncate -s 1G "$dir/image.ext4"; mkfs.ext4 -qF -d "$2/image" "$dir/image.ext4"
guest server "$((limit * 3))" linux.uml mem=1G root=none rootfstype=hostfs rootflags=/ ro quiet panic=-1 ubd0r="$dir/image.ext4" "$(plug server)" \
  RELAY="$dir/relay" init="$boot/nfsd-boot-server.sh"
ready() { said server 'ready$' || gone "${guests[server]}"; }
within "$limit" ready || true
expect "the server is up" said server 'ready$'
if ! said server 'ready$'; then console server 60; summary "nodes off the kernel's NFS server"; exit; fi
# asks COMMAND: on the server.
asks() { echo "$1" >"$dir/relay/asked.new"; mv "$dir/relay/asked.new" "$dir/relay/asked"; within 120 test -e "$dir/relay/answer" && [ "$(<"$dir/relay/answer")" = 0 ] && rm "$dir/relay/answer"; }
boots() {
  # shellcheck disable=SC2046 # the words of a command line
  guest "$1" "$limit" linux.uml mem=512M initrd="$2/initrd/initramfs-tools" "$(plug "$1")" $(lines server | sed -n "s/^kernel-cmdline $1 //p")
}
booted() {
  local node=$1 boot="$1, boot $2"
  ended "$node"
  expect "$boot: to the end" said "$node" 'done$'
  if ! said "$node" 'done$'; then console "$node"; return; fi
  expect "$boot: multi-user.target" has "$node" "target active"
  expect "$boot: no unit failed" has "$node" "failed units: "
  expect "$boot: its root comes from the server's view" said "$node" "root $server:$roots/$node nfs rw,.*vers=3[,.]"
  expect "$boot: host name and litetrees" has "$node" "hostname $node" "hosts 127.0.1.1 $node;127.0.0.1 localhost;$server server;"
  expect "$boot: it writes where it may" has "$node" "wrote by $node, by $node, by $node"
  expect "$boot: and not where it may not" said "$node" 'outside rules: .*Read-only file system'
  expect "$boot: it may mount its own root" has "$node" "mounting $node: $node "
  expect "$boot: and not the other's" said "$node" "mounting $3: mount: .*cannot mount .* read-only"
}
boots cn1 "$2"; boots cn2 "$2"
booted cn1 1 cn2; booted cn2 1 cn1
for n in cn1 cn2; do expect "$n, boot 1: nothing is there yet" has $n "tmpfs none" "persistent none" "persistent inside tmpfs none"; done
expect "what the DHCP hook calls empties a tmpfs upper" asks "statelite reset --on-boot cn1 && [ ! -e $roots/cn1/var/tmp/written ]"
boots cn1 "$2"; booted cn1 2 cn2
expect "cn1, boot 2: tmpfs is gone, persistent is there" has cn1 "tmpfs none" "persistent by cn1" "persistent inside tmpfs by cn1"
touch "$dir/relay/off"; ended server
for n in cn1 cn2; do expect "what $n wrote lies on the server" has server "written by $n: by $n;by $n;by $n;by $n;"; done
[ "$failed" = 0 ] || console server 60
summary "nodes off the kernel's NFS server"
