#!/usr/bin/env bash
# flat.sh [--json FILE]: does a lookup cost more with more litetrees, or with more rules? The same files spread over 1, 4 and 16
# litetrees, and below 10, 1,000 and 100,000 rules, half of which lie beside the files; overlayfs with as many layers. One interleaved run.
# Then the first lookup of each path since the root was mounted. Root. On one CPU, ROUNDS=7. PLOT=FILE.svg draws it.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
options one 7 "$@"
plot=$(realpath -m "${PLOT:-$scratch/flat.svg}"); levels=(1 4 16) rules=(10 1000 100000) files=$(quick 400 4000)
helper flat; flat=$helper; helper lookups

image=$scratch/image/rootimg; roots=$scratch/roots
note "$files files over ${levels[*]} litetrees, ${rules[*]} rules"
tree "$scratch/all" "$files"; mkdir -p "$image"/{opt/site,srv,etc}
(cd "$scratch/all" && find . -type f -printf '%P\n' | shuf --random-source=<(yes)) >"$scratch/list"
named() { if [ "$2" = 1 ]; then echo "$1 $3"; else echo "$1 $3s"; fi; } # NUMBER NUMBER NOUN
# rows NODE COUNT: the zone of the files, and rules for paths that are nowhere else: half beside the files, half elsewhere.
rows() {
  rule "$1" /opt/site/ tmpfs
  awk -v node="$1" -v count="$2" '{ sub(/\/[^\/]*$/, ""); if (!seen[$0]++) dir[n++] = $0 }
    END { for (i = 1; i < count; i++) printf "\"%s\",\"%s/rule%d\",\"tmpfs\"\n", node, i % 2 ? "/opt/site/" dir[i % n] : "/srv/d" i % 97, i }' "$scratch/list" >>"$scratch/litefile"
}
names=() nodes=() kernel=(); declare -A root=()
for l in "${levels[@]}"; do
  for ((k = 1; k <= l; k++)); do
    at=$scratch/l$l/$k; mkdir -p "$at/opt/site"
    (cd "$scratch/all" && awk -v l="$l" -v k="$k" 'NR % l == k - 1' "$scratch/list" | xargs cp --parents -t "$at/opt/site")
    litetree "$k" "l$l" "$at"
  done
  rows "l$l" "${rules[0]}"; nodes+=("l$l"); n=$(named "$l" "$l" litetree); names+=("$n"); root[$n]=$roots/l$l
done
for r in "${rules[@]:1}"; do
  litetree 1 "r$r" "$scratch/l1/1"; rows "r$r" "$r"; nodes+=("r$r"); names+=("$r rules"); root[$r rules]=$roots/r$r
done
for l in "${levels[@]}"; do
  # Relative, since all of them have to fit into what mount(2) takes.
  (cd "$scratch" && overlay "o$l" "$(for ((k = 1; k <= l; k++)); do printf 'l%d/%d:' "$l" "$k"; done)image/rootimg")
  n="overlayfs, $(named "$l" "$l" layer)"; kernel+=("$n"); root[$n]=$scratch/o$l
done
site "${nodes[@]}"; config serve 'tmpfs_size = "16M"'; serve

mounts=(); for n in "${names[@]}" "${kernel[@]}"; do mounts+=("$n=${root[$n]}/opt/site"); done
note "lookups: $rounds rounds"
bench "" --rounds "$rounds" --only cold-stat,warm-stat,cold-absent --paths "$(quick 200 2000)" "${mounts[@]}"
# So few that one litetree keeps their descriptors: more litetrees keep more of them, which is not what is asked here.
bench "" --rounds "$rounds" --only open --paths "$(quick 100 300)" "${mounts[@]}"
end "$daemon"

# A process that knows nothing yet, for each of them.
first() {
  local turn node at=$scratch/view
  turned "${nodes[@]}"; step "first lookups"
  for node in "${turn[@]}"; do
    node "$node" "$at"
    ran "${pin[@]}" "$helper" "$scratch/list" "$at/opt/site" >"$scratch/lookups.json" || die "lookups failed on $node"
    figure "${name[$node]}" "first lookup" ns "$(jq '.ns / .lookups' "$scratch/lookups.json")"
    umount_soon "$at"; within 60 gone "$daemon" || die "the daemon of $node outlived its mount"; unset 'undo[-1]' 'undo[-1]'
  done
}
declare -A name=(); for ((i = 0; i < ${#nodes[@]}; i++)); do name[${nodes[i]}]=${names[i]}; done
every first
table "${names[0]}" "${names[@]}" "${kernel[@]}" -- cold-stat warm-stat cold-absent open
table "${names[0]}" "${names[@]}" -- "first lookup"
"$flat" "$scratch/result.json" "$plot"
