#!/usr/bin/env bash
# soak.sh: many roots in use while everything that can happen to the daemon happens (soak.py). Half an hour, in short three minutes.
# SECONDS_OF_IT=1800 NODES=50 SEED=1.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
root; need python3
[ -x "$STATELITE" ] || die "no $STATELITE: make build"
scratch; at_exit unmount_below "$scratch"
STATELITE=$STATELITE python3 "$repo/integration/soak.py" "$scratch/site" "${SECONDS_OF_IT:-$(form 180 1800)}" "${NODES:-50}" "${SEED:-$(form 1 "$(date +%s)")}" ||
  { tail -n 20 "$scratch/site/daemon.log"; exit 1; }
