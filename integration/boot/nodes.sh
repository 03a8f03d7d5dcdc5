#!/usr/bin/env bash
# nodes.sh: two nodes boot a stock Debian off their views, over NFSv3 and NFSv4 from NFS-Ganesha, twice. Root.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
root; need linux.uml ganesha.nfsd rpcbind dnsmasq busybox debootstrap
[ -x "$STATELITE" ] || die "no $STATELITE: make build"
[ -c /dev/net/tun ] || die "no /dev/net/tun here: guests have nothing to be plugged into"
"$repo/integration/image.sh" "$cache/boot/image" "$image_packages"
"$boot/initrd.sh" "$cache/boot/initrd"
room
mkdir -p "$scratch/srv/statelite/debian12/rootimg" "$scratch/initrd"
mount --bind "$cache/boot/image" "$scratch/srv/statelite/debian12/rootimg"; at_exit unmount "$scratch/srv/statelite/debian12/rootimg"
mount -o remount,bind,ro "$scratch/srv/statelite/debian12/rootimg"
cp "$cache"/boot/initrd/* "$scratch/initrd/"
"$boot/machine.sh" "$scratch" -- "$boot/cluster.sh" "$scratch"
