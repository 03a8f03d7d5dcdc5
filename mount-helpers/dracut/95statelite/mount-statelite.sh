#!/bin/sh
# dracut mount hook.
# shellcheck disable=SC2154
[ "$root" = statelite ] || return 0
# shellcheck source=../../node-root.sh
. /lib/statelite/node-root.sh
statelite_root "$NEWROOT" || die "statelite: there is no root (see above)"
