#!/bin/sh
# node-root.sh: the root of this node, made on this node: image and litetrees over NFS, a tmpfs and a local disk
# above. Both initramfs systems source it: no bashism, no `set -e`. Functions return 1 and say why on standard error.
#
# The kernel's words:
#   statelite.node=NAME               who this node is [the host name]
#   statelite.nfs=HOST:/DIR[,OPTIONS] mounted read-only on /DIR; once for each (image, litetrees, tables)
#   statelite.disk=DEVICE             the local disk, LABEL= and UUID= too: mounted on /statelite/disk
#   statelite.config=FILE             [/etc/statelite/statelite.toml, if it is there]
#   statelite.tables=DIR              over the configuration's
#
# All these directories are in a tree of the daemon's own, its root: the switch to the node's root removes the files
# of the initramfs and moves /proc, /dev and /run away, and the daemon goes on. The tree moves with /run; systemd
# leaves alone what is below /run/initramfs, and takes it for what the end of the shutdown needs.
statelite_top=/run/initramfs/statelite

# What the initramfs brings along of this, before its own (initramfs-tools: a mount that knows labels and NFS).
PATH=/lib/statelite/bin:$PATH

statelite_say() { echo "statelite: $*" >&2; }

# The words of the command line that begin with NAME=, without that, one a line.
statelite_words() {
  # shellcheck disable=SC2013
  for word in $(cat "${STATELITE_CMDLINE:-/proc/cmdline}"); do
    case $word in "$1="*) printf '%s\n' "${word#"$1="}" ;; esac
  done
}

statelite_word() { statelite_words "$1" | tail -n 1; }

# statelite_copy PATH...: to the same paths in the daemon's tree.
statelite_copy() {
  for path; do
    [ ! -e "$statelite_top$path" ] || continue
    mkdir -p "$statelite_top${path%/*}" && cp -RL "$path" "$statelite_top$path" || return 1
  done
}

# The daemon's tree, with its program, the libraries that its loader names, and what the initramfs has in /etc/statelite.
statelite_tree() {
  mkdir -p "$statelite_top" && mount -t tmpfs -o mode=0700 statelite "$statelite_top" || return 1
  # What has a shared mount above it can't be moved (systemd makes all of them shared).
  mount --make-private "$statelite_top" || return 1
  for dir in dev etc proc root run tmp statelite/disk statelite/tmpfs; do mkdir -p "$statelite_top/$dir" || return 1; done
  mount -o bind /dev "$statelite_top/dev" && mount -t proc proc "$statelite_top/proc" || return 1
  program=$(command -v statelite) || return 1
  statelite_copy "$program" || return 1
  for loader in /lib64/ld-*.so.* /lib/ld-*.so.*; do
    needs=$("$loader" --list "$program" 2>/dev/null) || continue
    for file in $needs; do
      case $file in /*) statelite_copy "$file" || return 1 ;; esac
    done
    break
  done
  [ ! -d /etc/statelite ] || statelite_copy /etc/statelite
}

# HOST:/DIR[,OPTIONS] on /DIR; an address of IPv6 is in brackets.
statelite_mount_nfs() {
  spec=$1 options=ro
  case $spec in *,*) options=ro,${spec#*,} spec=${spec%%,*} ;; esac
  dir=/${spec#*:/}
  case $spec in
    \[*\]:/*) dir=/${spec#*\]:/} ;;
    ?*:/*) ;;
    *) statelite_say "statelite.nfs=$1: HOST:/DIR is wanted"; return 1 ;;
  esac
  mkdir -p "$statelite_top$dir" || return 1
  if command -v mount.nfs >/dev/null; then mount -t nfs -o "$options" "$spec" "$statelite_top$dir" && return 0
  else nfsmount -o "$options,nolock" "$spec" "$statelite_top$dir" && return 0; fi
  statelite_say "mounting $spec on $dir failed"; return 1
}

# A disk may be found later than the network.
statelite_mount_disk() {
  case $1 in
    LABEL=*) file=/dev/disk/by-label/${1#*=} ;;
    UUID=*) file=/dev/disk/by-uuid/${1#*=} ;;
    *) file=$1 ;;
  esac
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    [ ! -e "$file" ] || break
    sleep 1
  done
  if mount "$1" "$statelite_top/statelite/disk"; then return 0; fi
  statelite_say "mounting $1 failed"; return 1
}

# systemd-shutdown stops all processes for a moment, the daemon, too, and looks at /proc meanwhile: its look at the root
# may never be answered. When units are stopped and files written there is nothing left for it to do here.
statelite_down() {
  for how in poweroff reboot; do
    dir=/run/systemd/system/systemd-$how.service.d
    mkdir -p "$dir" && printf '[Unit]\nSuccessAction=%s-immediate\n' $how >"$dir/statelite.conf" || return 1
  done
}

# statelite_root DIR: mounts the node's root on DIR.
statelite_root() {
  point=$1
  node=$(statelite_word statelite.node)
  [ -n "$node" ] || node=$(cat /proc/sys/kernel/hostname)
  case $node in '' | '(none)' | localhost) statelite_say "who is this? statelite.node=NAME on the command line"; return 1 ;; esac
  statelite_tree || { statelite_say "the daemon's tree can't be made in $statelite_top"; return 1; }
  for spec in $(statelite_words statelite.nfs); do statelite_mount_nfs "$spec" || return 1; done
  disk=$(statelite_word statelite.disk)
  if [ -n "$disk" ]; then statelite_mount_disk "$disk" || return 1; fi
  config=$(statelite_word statelite.config)
  tables=$(statelite_word statelite.tables)
  if [ -z "$config" ] && [ -e /etc/statelite/statelite.toml ]; then config=/etc/statelite/statelite.toml; fi
  # Without a configuration: the tmpfs and the disk where they are.
  if [ -z "$config" ]; then
    config=/statelite/statelite.toml
    { echo 'tmpfs_dir = "/statelite/tmpfs"'; [ -z "$disk" ] || echo 'localdisk_dir = "/statelite/disk"'; } >"$statelite_top$config"
  fi
  # Another place of the initramfs; what is not there either is on NFS, or the program says so.
  for file in "$config" "$tables"; do
    if [ -n "$file" ] && [ -e "$file" ]; then statelite_copy "$file" || return 1; fi
  done
  modprobe fuse 2>/dev/null || [ -e /dev/fuse ] || { statelite_say "no FUSE in this kernel"; return 1; }
  # Its name begins with @: systemd leaves it alone when it switches to the root, and until the root is unmounted.
  set -- --config "$config"
  [ -z "$tables" ] || set -- "$@" --tables "$tables"
  chroot "$statelite_top" "$program" "$@" mount --serves-root "$node" /root || { statelite_say "no root for $node"; return 1; }
  # Away from where the daemon sees it: what the node mounts in its root, it does not see, and must not take for absent.
  if ! mkdir -p "$point" || ! mount -o move "$statelite_top/root" "$point"; then statelite_say "the root can't be moved to $point"; return 1; fi
  statelite_down
}
