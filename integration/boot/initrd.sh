#!/usr/bin/env bash
# initrd.sh DIR: what User-mode Linux boots with from an NFS root, made by Debian's own tools as for any kernel of a node's:
# DIR/kernel, DIR/initramfs-tools and DIR/dracut. Kept between runs. Root.
set -euo pipefail
. "$(dirname "$0")/../lib.sh"
root; need linux.uml mkinitramfs dracut
mkdir -p "$1"; dir=$(realpath "$1")
modules=$(echo /usr/lib/uml/modules/*) version=${modules##*/}
stamp="$version $(dpkg-query -W -f '${Package} ${Version} ' user-mode-linux initramfs-tools-core dracut-core) $(cksum <"$0")"
exec 9>"$dir/lock"; flock 9 # two runs at once: the second finds what the first built
if [ "$(cat "$dir/stamp" 2>/dev/null)" = "$stamp" ]; then exit; fi
say "initrd: for Linux $version, about half a minute"
# Where a kernel's package puts what these tools look for.
# shellcheck disable=SC2016 # for the shell inside
"$repo/integration/boot/machine.sh" "$dir" -- bash -euc '
  dir=$1 version=${2##*/}; . "$3"; uml_modules "$2"
  # The node that makes its own root is another test.
  rm -rf /usr/share/initramfs-tools/hooks/statelite /usr/lib/dracut/modules.d/95statelite
  mkinitramfs -d /tmp/conf -o "$dir/initramfs-tools" "$version"
  dracut --quiet --force --no-hostonly --add "nfs network-legacy" --omit "systemd dracut-systemd systemd-initrd plymouth crypt" \
    "$dir/dracut" "$version"' initrd "$dir" "$modules" "$repo/integration/boot/lib.sh" >"$dir/log" 2>&1 || { tail -20 "$dir/log" >&2; die "no initrd was made"; }
cp "$(command -v linux.uml)" "$dir/kernel"
say "$stamp" >"$dir/stamp"
