#!/usr/bin/env bash
# many.sh [--json FILE]: cold lookups by 1, 2, 4 and 8 processes at once, each in a root of its own of one daemon, beside as many mounts of
# the kernel's overlayfs over the same image: all lookups in a second, and that against one process. Root. The whole machine, ROUNDS=9.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
options all 9 "$@"
counts=(1 2 4 8); most=8
helper lookups

image=$scratch/image/rootimg
note "image: $(quick 400 4000) small files; $most roots of either kind"
tree "$image/usr" "$(quick 400 4000)"; mkdir -p "$image"/{etc,var}
rule ALL /etc/hosts tmpfs; rule ALL /var/ tmpfs
kinds=(overlayfs statelite) nodes=()
for ((i = 1; i <= most; i++)); do nodes+=("cn$i"); overlay "$scratch/overlayfs/cn$i" "$image"; done
site "${nodes[@]}"; config serve 'tmpfs_size = "16M"'; serve
declare -A at=([overlayfs]=$scratch/overlayfs [statelite]=$scratch/roots)
(cd "$image" && find . -mindepth 1 -printf '%P\n' | shuf --random-source=<(yes)) >"$scratch/list"

# look_up KIND COUNT: lookups a second, in $rate.
look_up() {
  local dirs=() i out=$scratch/lookups.json
  for ((i = 1; i <= $2; i++)); do dirs+=("${at[$1]}/cn$i"); done
  ran "${pin[@]}" "$helper" "$scratch/list" "${dirs[@]}" >"$out" || die "lookups failed on $1 by $2 processes"
  rate=$(jq '.lookups / .ns * 1e9' "$out")
}
together() {
  local kind turn n one
  turned "${kinds[@]}"; step "${turn[*]}"
  for kind in "${turn[@]}"; do for n in "${counts[@]}"; do
    look_up "$kind" "$n"; figure "$kind" "$n" lookups/s "$rate"
    if [ "$n" = 1 ]; then one=$rate; else figure "$kind" "$n against 1" times "$(jq -n "$rate / $one")"; fi
  done; done
}
for kind in "${kinds[@]}"; do look_up "$kind" $most; done # what is read from disk once, and what a daemon asks its image once
every together
against=(); for n in "${counts[@]:1}"; do against+=("$n against 1"); done
table overlayfs "${kinds[@]}" -- "${counts[@]}"
table "" "${kinds[@]}" -- "${against[@]}"
