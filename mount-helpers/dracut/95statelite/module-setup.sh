#!/bin/bash
# shellcheck disable=SC2154 # dracut sets moddir
# dracut module statelite: root=statelite. STATELITE names the binary, STATELITE_ETC configuration and tables.

check() {
  require_binaries "${STATELITE:-/usr/local/sbin/statelite}" || return 1
  # Only where it is asked for, with --add statelite.
  return 255
}

depends() { echo base network nfs; }

installkernel() { instmods fuse nfs nfsv3 nfsv4 ext4 xfs; }

install() {
  local binary etc=${STATELITE_ETC:-/etc/statelite} file
  binary=${STATELITE:-/usr/local/sbin/statelite}
  inst_simple "${STATELITE_LIB:-/usr/local/lib/statelite}/node-root.sh" /lib/statelite/node-root.sh
  inst_binary "$binary" /sbin/statelite
  inst_multiple mount mkdir cat tail cp chroot sleep mount.nfs
  if [ -d "$etc" ]; then
    while IFS= read -r file; do inst_simple "$etc/$file" "/etc/statelite/$file"; done < <(cd "$etc" && find -L . -type f -printf '%P\n')
  fi
  inst_hook cmdline 90 "$moddir/parse-statelite.sh"
  inst_hook mount 90 "$moddir/mount-statelite.sh"
}
