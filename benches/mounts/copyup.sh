#!/usr/bin/env bash
# copyup.sh [--json FILE]: lookups in one root of a daemon while another root does nothing, copies large files up one after the other, or
# waits for a store that hangs. Each in turn; the whole machine. Root. ROUNDS=9; SIZE of the large file (1G), which the page
# cache holds once and a tmpfs up to twice: memory for three.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
options all 9 "$@"
size=$(numfmt --from=iec "${SIZE:-$(quick 64M 1G)}") names=300
[ "$(awk '/^MemAvailable/ { print $2 }' /proc/meminfo)" -gt $((3 * size / 1024)) ] || die "no memory for three times $size bytes: SIZE=256M is less"

image=$scratch/image/rootimg; roots=$scratch/roots; upper=$scratch/tmpfs/cn1/upper; hung=$scratch/hung
note "image: $(quick 400 4000) small files, one of $size bytes under $names names"
tree "$image/usr" "$(quick 400 4000)"; mkdir -p "$image/home" "$image/srv"/{first,large} "$hung" "$scratch/store"/{lower/home,upper,work}
big "$size" "$image/srv/first/0"; for ((i = 0; i < names; i++)); do printf '%s\n' "$image/srv/large/$i"; done | xargs -n 1 ln "$image/srv/first/0"; sync
for ((i = 1; i <= rounds; i++)); do echo "late $i" >"$scratch/store/lower/home/late$i"; done
rule ALL /srv/ tmpfs; rule ALL /home/ tmpfs; litetree 1 cn3 "$hung"
site cn1 cn2 cn3
"${pin[@]}" "$STATELITE" mount --foreground --lower "$scratch/store/lower" --upper "$scratch/store/upper" --work "$scratch/store/work" "$hung" >>"$scratch/daemon.log" 2>&1 & store=$!
at_exit end "$store"; at_exit unmount "$hung"
within 60 mountpoint -q "$hung" || refuse "statelite did not mount the store"
config serve "tmpfs_size = \"$((2 * size + (64 << 20)))\""; serve
at_exit kill -CONT "$store" # before anything waits for it

# copy: the next name is copied up and removed again; a line with when that began and ended, in microseconds.
next=0
now() { echo "${EPOCHREALTIME//[.,]/}"; }
copy() {
  local file=$roots/cn1/srv/large/$next began ended
  [ "$next" -lt "$names" ] || die "all $names names are used up: fewer ROUNDS, or a larger SIZE"
  began=$(now); : >>"$file"; ended=$(now)
  [ "$(stat -c %s "$upper/srv/large/$next")" = "$size" ] || die "$file was not copied up"
  rm "$file"; echo "$began $ended" >>"$scratch/copies"; next=$((next + 1))
}
# In the background until $scratch/enough is there; then $scratch/next has the number to go on with.
copier() { : >"$scratch/begun"; while true; do copy; [ ! -e "$scratch/enough" ] || break; done; echo $next >"$scratch/next"; }
lookups() { PERCENTILES=all bench "" --rounds 1 --only cold-stat,warm-stat --paths "$(quick 400 4000)" "$1=$roots/cn2"; }

idle() { lookups idle; }
copying() {
  local child began ended
  rm -f "$scratch"/{begun,enough,copies,next}; copy
  figure copy-up "alone" ms "$(awk '{ print ($2 - $1) / 1000 }' "$scratch/copies")"; : >"$scratch/copies"
  copier & child=$!; at_exit wait "$child"; at_exit touch "$scratch/enough"
  within 60 [ -e "$scratch/begun" ]
  began=$(now); lookups copying; ended=$(now)
  touch "$scratch/enough"; wait "$child" || die "the copies failed"; unset 'undo[-1]' 'undo[-1]'; next=$(<"$scratch/next")
  figure copy-up "beside lookups" ms "$(awk '{ s += $2 - $1 } END { print s / NR / 1000 }' "$scratch/copies")"
  figure copy-up "of the time" % "$(awk -v b="$began" -v e="$ended" '{ f = $1 > b ? $1 : b; t = $2 < e ? $2 : e; if (t > f) s += t - f } END { print 100 * s / (e - b) }' "$scratch/copies")"
}
waits() { grep -qE 'fuse|request_wait' "/proc/$1/wchan"; }
# One thread takes the signal, and the others go on until that one has run.
stopped() { ! grep -qvE '^State:.T' <(grep -h '^State:' /proc/"$1"/task/*/status); }
hanging() {
  local child
  kill -STOP "$store"; within 60 stopped "$store"
  cat "$roots/cn3/home/late$round" >"$scratch/late" 2>&1 & child=$!
  within 60 waits "$child" || die "nobody waits for the store that is stopped; it was read: $(<"$scratch/late")"
  lookups hanging
  waits "$child" || die "the store did not hang as long as lookups were measured"
  kill -CONT "$store"; wait "$child" || die "what hung was not read afterwards: $(<"$scratch/late")"
  [ "$(<"$scratch/late")" = "late $round" ] || die "what hung was read wrong: $(<"$scratch/late")"
}
states() { local state turn; turned idle copying hanging; step "${turn[*]}"; for state in "${turn[@]}"; do $state; done; }
every states
table idle idle copying hanging -- "cold-stat p50" "cold-stat p99" "cold-stat p99.9" "warm-stat p50" "warm-stat p99" "warm-stat p99.9"
table "" copy-up -- alone "beside lookups" "of the time"
