#!/usr/bin/env bash
# install.sh: the program, its unit, man pages and completions below PREFIX, mount.statelite in /sbin, where mount(8) looks for it,
# and what initramfs-tools and dracut look for, where they are.
# DESTDIR goes before every path.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
to=${DESTDIR:-}${PREFIX:-/usr/local}
[ -x "$STATELITE" ] || die "no $STATELITE: make build"
install -D -m 755 "$STATELITE" "$to/sbin/statelite"
install -D -m 755 "$repo/mount-helpers/mount.statelite" "${DESTDIR:-}/sbin/mount.statelite"
install -D -m 644 "$repo/docs/statelite.toml" "$to/share/doc/statelite/statelite.toml"
mkdir -p "$to"/share/{man/man1,bash-completion/completions,zsh/site-functions,fish/vendor_completions.d}
prefix=${PREFIX:-/usr/local} helpers=$repo/mount-helpers; lib=$prefix/lib
# place MODE HELPER PATH: with the paths in it below PREFIX.
place() { install -D -m "$1" /dev/stdin "${DESTDIR:-}$3" < <(sed "s|/usr/local|$prefix|" "$helpers/$2"); }
place 644 statelite.service "$lib/systemd/system/statelite.service"
place 755 statelite-generator "$lib/systemd/system-generators/statelite-generator"
place 644 tmpfiles.d/statelite.conf "$lib/tmpfiles.d/statelite.conf"
place 644 node-root.sh "$lib/statelite/node-root.sh"
place 755 dnsmasq-boot "$lib/statelite/dnsmasq-boot"
# For nodes that make their root themselves, where there is a tool that builds their initramfs.
if [ -d "${DESTDIR:-}/usr/share/initramfs-tools/hooks" ]; then
  place 755 initramfs-tools/hooks/statelite /usr/share/initramfs-tools/hooks/statelite
  place 644 initramfs-tools/scripts/statelite /usr/share/initramfs-tools/scripts/statelite
fi
if [ -d "${DESTDIR:-}/usr/lib/dracut/modules.d" ]; then
  for f in "$helpers"/dracut/95statelite/*; do place 755 "${f#"$helpers"/}" "/usr/lib/dracut/modules.d/95statelite/${f##*/}"; done
fi
"$STATELITE" man "$to/share/man/man1"
"$STATELITE" completions bash >"$to/share/bash-completion/completions/statelite"
"$STATELITE" completions zsh >"$to/share/zsh/site-functions/_statelite"
"$STATELITE" completions fish >"$to/share/fish/vendor_completions.d/statelite.fish"
say "installed below $to; an example of the configuration is $to/share/doc/statelite/statelite.toml"
