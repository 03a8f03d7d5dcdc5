#!/usr/bin/env bash
# everykill.sh KIND: the worker of `statelite serve` is killed at each step of each operation, and at each answer; the operation goes on
# with the next worker, and is done once. What must hold is in everykill.py. KIND is statelite only. In short on tmpfs, in full on ext4,
# too. ONLY=PATTERN: the operations that match.
set -euo pipefail
. "$(dirname "$0")/../lib.sh"
[ "${1:-statelite}" = statelite ] || { summary "every kill, $1 (nothing to kill)"; exit; }
root; need strace python3 mkfs.ext4
[ -x "$STATELITE" ] || die "no $STATELITE: make build"
scratch; at_exit unmount_below "$scratch"; status=0
for fs in $(form tmpfs "tmpfs ext4"); do
  store "$fs" "$scratch/$fs" 256M
  case $fs in tmpfs) image=$scratch/$fs/image ;; *) image=$scratch/image ;; esac
  mkdir "$scratch/$fs/site"
  STATELITE=$STATELITE python3 "$(dirname "$0")/everykill.py" "$fs" "$scratch/$fs/site" "$image" "${ONLY:-}" | tee "$scratch/out" || status=1
  read -r p f < <(sed -n 's/^.*: \([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$scratch/out" | tail -1)
  passed=$((passed + ${p:-0})) failed=$((failed + ${f:-1}))
done
summary "every kill, statelite" && exit $status
