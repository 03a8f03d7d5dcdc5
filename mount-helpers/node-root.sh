#!/bin/sh
# node-root.sh: the root of this node, made on this node: image and litetrees over NFS, a tmpfs and a local disk
# above. Both initramfs systems source it: no bashism, no `set -e`. Functions return 1 and say why on standard error.
#
# The kernel's words:
#   statelite.node=NAME               who this node is [the host name]
#   statelite.nfs=HOST:/DIR[,OPTIONS] mounted read-only on the same /DIR here; once for each (image, litetrees, tables)
#   statelite.disk=DEVICE             the local disk: mounted where localdisk_dir points, /statelite/disk unless said
#   statelite.config=FILE             [/etc/statelite/statelite.toml, if it is there]
#   statelite.tables=DIR              over the configuration's
#
# All of it stays in the initramfs' own tree, outside /run: the daemon goes on there after the switch, and a mount
# that moved away with /run would be missing to it.

statelite_say() { echo "statelite: $*" >&2; }

# The words of the command line that begin with NAME=, without that, one a line.
statelite_words() {
  # shellcheck disable=SC2013
  for word in $(cat "${STATELITE_CMDLINE:-/proc/cmdline}"); do
    case $word in "$1="*) printf '%s\n' "${word#"$1="}" ;; esac
  done
}

statelite_word() { statelite_words "$1" | tail -n 1; }

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
  mkdir -p "$dir" || return 1
  if command -v mount.nfs >/dev/null; then mount -t nfs -o "$options" "$spec" "$dir" && return 0
  else nfsmount -o "$options,nolock" "$spec" "$dir" && return 0; fi
  statelite_say "mounting $spec on $dir failed"; return 1
}

# statelite_root DIR: mounts the node's root on DIR.
statelite_root() {
  point=$1
  node=$(statelite_word statelite.node)
  [ -n "$node" ] || node=$(cat /proc/sys/kernel/hostname)
  case $node in '' | '(none)' | localhost) statelite_say "who is this? statelite.node=NAME on the command line"; return 1 ;; esac
  for spec in $(statelite_words statelite.nfs); do statelite_mount_nfs "$spec" || return 1; done
  disk=$(statelite_word statelite.disk)
  mkdir -p /statelite/disk /statelite/tmpfs "$point" || return 1
  if [ -n "$disk" ] && ! mount "$disk" /statelite/disk; then statelite_say "mounting $disk failed"; return 1; fi
  config=$(statelite_word statelite.config)
  tables=$(statelite_word statelite.tables)
  if [ -z "$config" ] && [ -e /etc/statelite/statelite.toml ]; then config=/etc/statelite/statelite.toml; fi
  # Without a configuration: the tmpfs and the disk where the daemon still finds them after the switch.
  if [ -z "$config" ]; then
    config=/statelite/statelite.toml
    { echo 'tmpfs_dir = "/statelite/tmpfs"'; [ -z "$disk" ] || echo 'localdisk_dir = "/statelite/disk"'; } >"$config"
  fi
  modprobe fuse 2>/dev/null || [ -e /dev/fuse ] || { statelite_say "no FUSE in this kernel"; return 1; }
  # Its name begins with @: systemd leaves it alone when it switches to the root, and until the root is unmounted.
  set -- --config "$config"
  [ -z "$tables" ] || set -- "$@" --tables "$tables"
  statelite "$@" mount --serves-root "$node" "$point" || { statelite_say "no root for $node"; return 1; }
}
