#!/usr/bin/env bash
# placement.sh [--json FILE]: what a lone caller waits for, by where its root's session runs: where the kernel puts it, on the caller's own
# CPU, on another one, and with more weight (nice) or real-time priority (SCHED_FIFO). Root. The whole machine, ROUNDS=9.
# Where there is one CPU, or no right to real-time priority, what needs them is left out, and that is said.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
options all 9 "$@"; need chrt renice
mapfile -t all < <(allowed); own=${all[0]} other=${all[1]:-} any=$(IFS=,; echo "${all[*]}")

image=$scratch/image/rootimg
note "image: $(quick 400 4000) small files"
tree "$image/usr" "$(quick 400 4000)"; mkdir -p "$image"/{etc,var}
rule ALL /etc/hosts tmpfs; rule ALL /var/ tmpfs
site cn1; config node 'tmpfs_size = "16M"'; node cn1 "$scratch/view"
overlay "$scratch/overlayfs" "$image"
sessions() { local t; for t in "/proc/$daemon/task"/*; do case $(<"$t/comm") in fuser-*) echo "${t##*/}" ;; esac; done; }
mapfile -t threads < <(sessions); [ ${#threads[@]} -gt 0 ] || die "statelite has no thread named fuser-*: which one serves requests?"

# Each: the caller's CPU (- for any), the session's, its class.
declare -A as=(["kernel decides"]="- $any plain" ["caller stays, kernel decides"]="$own $any plain" ["caller's CPU"]="$own $own plain" ["kernel decides, nice -20"]="- $any nice")
names=("kernel decides" "caller stays, kernel decides" "caller's CPU" "kernel decides, nice -20")
one_more() { as[$1]=$2; names+=("$1"); }
if [ -n "$other" ]; then one_more "another CPU" "$own $other plain"; one_more "another CPU, nice -20" "$own $other nice"
else note "one CPU only: a session on another one than the caller is left out"; fi
if chrt -f 1 true 2>"$scratch/refused"; then
  one_more "kernel decides, FIFO" "- $any fifo"; one_more "caller's CPU, FIFO" "$own $own fifo"
  [ -z "$other" ] || one_more "another CPU, FIFO" "$own $other fifo"
else note "no real-time priority here ($(<"$scratch/refused")): it is left out"; fi

# place CPUS CLASS: the session's threads.
place() {
  local t; for t in "${threads[@]}"; do
    taskset -cp "$1" "$t"; chrt -o -p 0 "$t"; renice -n 0 -p "$t"
    case $2 in nice) renice -n -20 -p "$t" ;; fifo) chrt -f -p 1 "$t" ;; esac
  done >/dev/null
}
only=(--rounds 1 --only "cold-stat,warm-stat,open,cold-read,warm-read" --paths "$(quick 200 2000)")
placed() {
  local n caller cpus class turn stay
  turned "${names[@]}" overlayfs; step placements
  for n in "${turn[@]}"; do
    if [ "$n" = overlayfs ]; then bench "" "${only[@]}" "$n=$scratch/overlayfs"; continue; fi
    read -r caller cpus class <<<"${as[$n]}"; stay=(); [ "$caller" = - ] || stay=(--pin "$caller")
    place "$cpus" "$class"; bench "" "${only[@]}" "${stay[@]}" "$n=$scratch/view"
  done
}
every placed
table "${names[0]}" "${names[@]}" overlayfs -- cold-stat warm-stat open cold-read warm-read
