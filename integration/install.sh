#!/usr/bin/env bash
# install.sh: the program, its unit, man pages and completions below PREFIX, mount.statelite in /sbin, where mount(8) looks for it.
# DESTDIR goes before every path.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
to=${DESTDIR:-}${PREFIX:-/usr/local}
[ -x "$STATELITE" ] || die "no $STATELITE: make build"
install -D -m 755 "$STATELITE" "$to/sbin/statelite"
install -D -m 755 "$repo/mount-helpers/mount.statelite" "${DESTDIR:-}/sbin/mount.statelite"
install -D -m 644 "$repo/docs/statelite.toml" "$to/share/doc/statelite/statelite.toml"
mkdir -p "$to"/share/{man/man1,bash-completion/completions,zsh/site-functions,fish/vendor_completions.d}
unit=${DESTDIR:-}${PREFIX:-/usr/local}/lib/systemd/system/statelite.service
mkdir -p "$(dirname "$unit")"
sed "s|/usr/local/sbin|${PREFIX:-/usr/local}/sbin|" "$repo/mount-helpers/statelite.service" >"$unit"
"$STATELITE" man "$to/share/man/man1"
"$STATELITE" completions bash >"$to/share/bash-completion/completions/statelite"
"$STATELITE" completions zsh >"$to/share/zsh/site-functions/_statelite"
"$STATELITE" completions fish >"$to/share/fish/vendor_completions.d/statelite.fish"
say "installed below $to; an example of the configuration is $to/share/doc/statelite/statelite.toml"
