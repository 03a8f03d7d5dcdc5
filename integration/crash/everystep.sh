#!/usr/bin/env bash
# everystep.sh KIND: the daemon dies at each step of each operation that takes several; then each step fails, by itself, and each look
# at a layer that comes before. What must hold is in everystep.py and everylook.py. KIND is statelite only: of the kernel's overlayfs
# nothing can be killed; here it is the judge. In full on tmpfs and ext4, with EIO, ENOSPC and EDQUOT (looks: EIO and ESTALE); in
# short on tmpfs, without EDQUOT. ONLY=PATTERN: the operations that match.
set -euo pipefail
. "$(dirname "$0")/../lib.sh"
[ "${1:-statelite}" = statelite ] || { summary "every step, $1 (nothing to kill)"; exit; }
root; need strace python3 mkfs.ext4
[ -x "$STATELITE" ] || die "no $STATELITE: make build"
scratch; status=0
for fs in $(form tmpfs "tmpfs ext4"); do
  store "$fs" "$scratch/$fs" 256M
  for what in step look; do
    # On tmpfs the lower is in the same file system (copy_file_range), beside ext4 it is elsewhere (read and write).
    case $fs in tmpfs) lower=$scratch/$fs/$what/lower ;; *) lower=$scratch/$what ;; esac
    case $what in step) errors=$(form EIO,ENOSPC EIO,ENOSPC,EDQUOT) ;; look) errors=EIO,ESTALE ;; esac
    STATELITE=$STATELITE python3 "$(dirname "$0")/every$what.py" "$fs" "$scratch/$fs/$what" "$lower" "$errors" "${ONLY:-}" |
      tee "$scratch/out" || status=1
    read -r p f < <(sed -n 's/^.*: \([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$scratch/out" | tail -1)
    passed=$((passed + ${p:-0})) failed=$((failed + ${f:-1}))
  done
done
summary "every step, statelite" && exit $status
