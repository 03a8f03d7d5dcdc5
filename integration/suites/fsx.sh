#!/usr/bin/env bash
# fsx.sh KIND: random reads, writes, maps, holes and copies on one file of a view, each read checked against memory.
# OPS=1000000 operations a file (short form: 100000), SEED=1: the first seed; a failure is repeated by OPS=20000 and the seed it names.
# Four files: a new one and one that the lower layer has, each with the upper on ext4 and on tmpfs.
set -euo pipefail
. "$(dirname "$0")/../lib.sh"
kind=${1:-statelite} seed=${SEED:-1} chunk=20000
ops=${OPS:-$(form 100000 1000000)}
root; need mkfs.ext4
[ -x "$tools/fsx" ] || die "no fsx: make setup installs it"
scratch; mkdir -p "$scratch/lower" "$scratch/artifacts"
head -c 1000000 /dev/urandom >"$scratch/lower/old"
sum=$(sha256sum <"$scratch/lower/old")
for upperfs in ext4 tmpfs; do
  store "$upperfs" "$scratch/$upperfs"
  target "$kind" "$scratch/lower" "$scratch/$upperfs/upper" "$scratch/$upperfs/work" "$scratch/view"
  for file in new old; do
    start=$SECONDS left=$ops bad=''
    # fsx 0.3.2 never unmaps what it reads mapped: each operation takes longer than the one before, and 65,530 maps are the end.
    # So a new process, with the next seed, every so often; it starts by truncating what the last one left.
    while [ "$left" -gt 0 ] && [ -z "$bad" ]; do
      n=$((left < chunk ? left : chunk))
      "$tools/fsx" -f "${BASH_SOURCE%.sh}.toml" -N "$n" -S "$seed" -P "$scratch/artifacts" "$scratch/view/$file" >"$scratch/out" 2>&1 || bad=$seed
      seed=$((seed + 1)) left=$((left - n))
    done
    name="$file file over $upperfs, $((ops - left)) operations, seeds to $((seed - 1))"
    if [ -z "$bad" ]; then pass "$name, $((SECONDS - start)) s"; else fail "$name"; tail -40 "$scratch/out"; fi
  done
  [ -z "$daemon" ] || expect "the daemon is alive, $(rss "$daemon")" kill -0 "$daemon"
  sha256sum "$scratch/view/old" | cut -d' ' -f1 >"$scratch/sum"
  target_off "$scratch/view"
  expect "the upper on $upperfs has what the view showed" [ "$(sha256sum <"$scratch/$upperfs/upper/old" | cut -d' ' -f1)" = "$(cat "$scratch/sum")" ]
done
expect "the lower file is as it was" [ "$(sha256sum <"$scratch/lower/old")" = "$sum" ]
summary "fsx, $kind"
