#!/usr/bin/env bash
# own.sh: a node that makes its root itself: image and litetrees over NFS below, its memory and its disk above. It boots a stock Debian
# by initramfs-tools' initramfs and once by dracut's, each with our hook in it. Root.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
root; need linux.uml ganesha.nfsd rpcbind mkinitramfs dracut debootstrap mkfs.ext4
if [ $# = 0 ]; then
  [ -c /dev/net/tun ] || die "no /dev/net/tun here: guests have nothing to be plugged into"
  "$repo/integration/image.sh" "$cache/boot/image" "$image_packages"
  in_machine "$0" "$cache/boot/image"; exit
fi

dir=$1 limit=${LIMIT:-600} srv=/srv/statelite
mkdir -p "$dir/srv/statelite/debian12/rootimg"; mount --bind "$dir/srv" /srv
mount --bind "$2" $srv/debian12/rootimg; mount -o remount,bind,ro $srv/debian12/rootimg
network cn1

# The tables of BOOTING.md, but that what is to be kept is so on the node's disk.
PREFIX=/usr/local "$repo/integration/install.sh" >/dev/null
mkdir -p /etc/statelite/tables; cp "$fixtures"/tables/*.csv /etc/statelite/tables/
sed -i 's/,persistent/,localdisk/' /etc/statelite/tables/litefile.csv
printf '%s\n' 'tmpfs_dir = "/statelite/tmpfs"' 'localdisk_dir = "/statelite/disk"' 'tmpfs_size = "64M"' >/etc/statelite/statelite.toml
litetrees $srv
expect "statelite check" statelite check
# Image and litetrees, read-only; no root of a node's. What is edited beneath NFS-Ganesha it would not see for a minute.
{
  echo 'NFS_CORE_PARAM { mount_path_pseudo = true; }'
  for id in 1:$srv/debian12/rootimg 2:$srv/litetree; do
    echo "EXPORT { Export_Id = ${id%%:*}; Path = ${id#*:}; Pseudo = ${id#*:}; Access_Type = RO; Squash = none; Protocols = 3; SecType = sys; Attr_Expiration_Time = 0; FSAL { Name = VFS; } }"
  done
} >/etc/ganesha/ganesha.conf
expect "NFS-Ganesha listens" ganesha_runs

modules=$(echo /usr/lib/uml/modules/*) version=${modules##*/}
uml_modules "$modules"
expect "mkinitramfs" mkinitramfs -d /tmp/conf -o "$dir/initramfs-tools" "$version"
expect "dracut" dracut --quiet --force --no-hostonly --add "statelite network-legacy" --omit "systemd dracut-systemd systemd-initrd plymouth crypt" \
  "$dir/dracut" "$version"
truncate -s 256M "$dir/disk"; mkfs.ext4 -qF -L local "$dir/disk"

words=(statelite.node=cn1 "statelite.disk=LABEL=local")
for path in debian12/rootimg litetree; do words+=("statelite.nfs=$server:$srv/$path,vers=3,tcp,nolock"); done
# boots ROUND INITRAMFS WORD...
boots() {
  local round=$1 boot="boot $1, $2"; shift
  guest cn1 "$limit" linux.uml mem=640M initrd="$dir/$1" ubd0="$dir/disk" "$(plug cn1)" rw panic=-1 node.off=systemctl "${words[@]}" "${@:2}"
  ended cn1; cp "$dir/cn1.console" "$dir/boot$round.console"
  expect "$boot: to the end" said cn1 'done$'
  if ! said cn1 'done$'; then console cn1 60; return; fi
  expect "$boot: multi-user.target" has cn1 "target active"
  expect "$boot: no unit failed" has cn1 "failed units: "
  expect "$boot: its root is one of its own daemon's" said cn1 'root [^ ]+ fuse'
  expect "$boot: host name and litetrees" has cn1 "hostname cn1" "hosts 127.0.1.1 cn1;127.0.0.1 localhost;$server server;"
  expect "$boot: it writes where it may" has cn1 "wrote by cn1, by cn1, by cn1"
  expect "$boot: and not where it may not" said cn1 'outside rules: .*Read-only file system'
  expect "$boot: systemd takes it down to the end" grep -aqE 'reboot: (Power down|System halted)' "$dir/cn1.console"
}
by_initramfs_tools=(boot=statelite "ip=10.77.0.11::$server:255.255.255.0:cn1:vec0:off")
by_dracut=(root=statelite "ip=10.77.0.11::$server:255.255.255.0:cn1:vec0:off")
boots 1 initramfs-tools "${by_initramfs_tools[@]}"
expect "boot 1: nothing is there yet" has cn1 "tmpfs none" "persistent none" "persistent inside tmpfs none" "motd Welcome to cn1.;"
first=$(lines cn1 | sed -n 's/^machine-id //p')
echo "Maintenance at noon." >>$srv/litetree/cn1/etc/motd
boots 2 initramfs-tools "${by_initramfs_tools[@]}"
kept() { has cn1 "tmpfs none" "persistent by cn1" "persistent inside tmpfs by cn1" "machine-id $first"; }
expect "boot 2: memory is gone, the disk has what was written" kept
expect "boot 2: the litetree's edit" has cn1 "motd Welcome to cn1.;Maintenance at noon.;"
boots 3 dracut "${by_dracut[@]}"
expect "boot 3: the same" kept
# The disk as it was left: what other programs would find.
# Nobody unmounts it, as nobody unmounts a root: its journal has the rest.
e2fsck -p "$dir/disk" || true
expect "the disk's file system is sound" e2fsck -fn "$dir/disk"
mkdir -p /mnt/disk; mount -o loop "$dir/disk" /mnt/disk
expect "what was written lies on it, below the node's name" grep -qx "by cn1" /mnt/disk/cn1/{home/ada,var/lib/kept}/written
umount /mnt/disk
[ "$failed" = 0 ] || tail -n 20 "$dir/ganesha.log"
summary "a node that makes its root itself"
