# shellcheck shell=bash disable=SC2034
# Shared by the benchmarks of mounts: source it after `set -euo pipefail`, then call `options "$@"`.
# Owns: options, the tree and the tables that are measured, mounts of them, and the figures. May not: decide what is
# measured; leave a mount, a process or a file behind, also when it is interrupted.
#   --json FILE   all figures, round by round, and their medians
#   QUICK=1       the smallest form, which shows that it works and not how fast it is
#   ROUNDS=N      how often everything is measured, interleaved; tables have the medians
#   PIN=CPUS      where load and servers run, as taskset -c wants it; empty: wherever the kernel puts them. Unless it is
#                 said: the first CPU that this process may use, or all, as each benchmark says

. "$(dirname "${BASH_SOURCE[0]}")/../../integration/lib.sh"
quick=${QUICK:-} json='' pin=() round=0

# quick SHORT FULL: a setting's value in the smallest form and in the usual one.
quick() { if [ -n "$quick" ]; then echo "$1"; else echo "$2"; fi; }
# allowed: the CPUs that are measured on, one a line: those that this process may use, or those of PIN.
allowed() { local part; "${pin[@]}" bash -c 'taskset -cp $$' | sed 's/.*: //; s/,/\n/g' | while read -r part; do seq "${part%-*}" "${part#*-}"; done; }
# options one|all DEFAULT_ROUNDS "$@": reads the above; $rounds, $cpus, the prefix $pin; and $scratch, on a $filesystem.
options() {
  local first; first=$(allowed | sed -n 1p)
  case $1 in one) cpus=${PIN-$first} ;; all) cpus=${PIN-} ;; esac
  rounds=${ROUNDS:-$(quick 1 "$2")}; shift 2
  while [ $# -gt 0 ]; do case $1 in
    --json) [ $# -gt 1 ] || die "--json wants a file"; json=$(realpath -m "$2"); [ -d "${json%/*}" ] || die "$json: no such directory"; shift 2 ;;
    --help) awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"; exit 0 ;;
    *) die "unknown: $1 (there is --json FILE)" ;;
  esac; done
  case $rounds in '' | *[!0-9]* | 0) die "ROUNDS=$rounds: a number, at least 1" ;; esac
  root; need jq fio findmnt taskset; [ -x "$STATELITE" ] || die "no $STATELITE: make build"
  [ -z "$cpus" ] || { taskset -c "$cpus" true 2>/dev/null || die "PIN=$cpus: no such CPU here; PIN= measures on all"; pin=(taskset -c "$cpus"); }
  scratch; at_exit unmount_below "$scratch"; figures=$scratch/figures; : >"$figures"
  filesystem=$(findmnt -no FSTYPE -T "$scratch" | tail -1) # of several on one mount point, the one that is seen
}
# helper NAME: builds benches/mounts/NAME.rs where that is needed; its path in $helper.
helper() {
  need cargo; (cd "$repo" && cargo build --quiet --release --locked --example "$1") || die "benches/mounts/$1.rs was not built"
  helper=${CARGO_TARGET_DIR:-$repo/target}/release/examples/$1
}
note() { printf '%s\n' "$*" >&2; }
step() { note "round $round of $rounds: $*"; }
# every COMMAND...: in each round.
every() { for ((round = 1; round <= rounds; round++)); do "$@"; done; }
# turned NAME...: the names, in each round beginning with another one; in $turn.
turned() { local by=$(((round - 1) % $#)); turn=("${@:by+1}" "${@:1:by}"); }
# ran COMMAND...: runs it so that a signal ends the script at once, and the command with it.
ran() {
  local child status=0
  "$@" & child=$!
  at_exit end "$child"; wait "$child" || status=$?; unset 'undo[-1]'
  return $status
}
# end PID: what was started here; what is stopped goes on first, and what does not end is made to.
end() { kill -CONT "$1"; kill "$1"; within 20 gone "$1" || kill -KILL "$1"; } 2>/dev/null

# tree DIR N: N small files in directories of 40; four sizes, 200 bytes to 30 KiB.
tree() {
  local dir=$1 n=$2 i d text sizes=(200 2000 8000 30000) bodies=()
  for i in 0 1 2 3; do text=$(head -c "${sizes[i]}" < <(yes 'one line of a file that is read, of some length')) || true; bodies+=("$text"); done
  for ((d = 0; d * 40 < n; d++)); do mkdir -p "$dir/p$((d / 10))/d$d"; done
  for ((i = 0; i < n; i++)); do printf '%s\n' "${bodies[i % 4]}" >"$dir/p$((i / 400))/d$((i / 40))/f$i"; done
}
# big FILE SIZE: a file without holes.
big() { yes 'what is in a large file does not matter' | head -c "$1" >"$2" || [ "${PIPESTATUS[1]}" = 0 ]; }
# rule IMAGE PATH OPTION, litetree PRIORITY IMAGE DIR: rows; then `site NODE...`: the tables of nodes, each with an image row of its own name,
# all of $scratch/image/rootimg.
rule() { printf '"%s","%s","%s"\n' "$@" >>"$scratch/litefile"; }
litetree() { printf '"%s","%s","%s"\n' "$@" >>"$scratch/litetree"; }
site() {
  local t=$scratch/tables n; mkdir -p "$t" "$scratch"/image/rootimg "$scratch"/{tmpfs,run,roots}; touch "$scratch"/lite{file,tree}
  { echo '#image,file,options'; cat "$scratch/litefile"; } >"$t/litefile.csv"
  { echo '#priority,image,directory'; cat "$scratch/litetree"; } >"$t/litetree.csv"
  echo '#node,groups' >"$t/nodelist.csv"; echo '#node,provmethod' >"$t/nodetype.csv"
  echo '#imagename,provmethod' >"$t/osimage.csv"; echo '#imagename,rootimgdir' >"$t/linuximage.csv"
  for n; do
    echo "$n,all" >>"$t/nodelist.csv"; echo "$n,$n" >>"$t/nodetype.csv"
    echo "$n,statelite" >>"$t/osimage.csv"; echo "$n,$scratch/image" >>"$t/linuximage.csv"
  done
}
# config NAME LINE...: a configuration, its path in $config.
config() {
  config=$scratch/$1.toml; shift
  printf '%s\n' "tables = \"$scratch/tables\"" "tmpfs_dir = \"$scratch/tmpfs\"" "root = \"$scratch/roots\"" "control = \"$scratch/run/control.sock\"" \
    'watch_tables = false' 'log = "info"' "$@" >"$config"
}
# What a daemon said when it did not do what it should.
refuse() { cat "$scratch/daemon.log" >&2; die "$*"; }
# node NAME DIR: mounts a node by $config, in a process of its own; its number in $daemon.
node() {
  mkdir -p "$2"
  "${pin[@]}" "$STATELITE" --config "$config" mount --foreground "$1" "$2" >>"$scratch/daemon.log" 2>&1 & daemon=$!
  at_exit end "$daemon"; at_exit unmount "$2"
  up() { mountpoint -q "$1" || gone "$daemon"; }
  within 60 up "$2" || true; mountpoint -q "$2" || refuse "statelite did not mount $1"
}
# Without passthrough in this kernel, what is called so is measured through the daemon.
passes_through() { if grep -q 'no passthrough' "$scratch/daemon.log"; then note "no passthrough here: $(grep -m1 'no passthrough' "$scratch/daemon.log")"; fi; }
# serve: a daemon over the tables by $config, every root below $scratch/roots; its number in $daemon.
serve() {
  "${pin[@]}" "$STATELITE" --config "$config" serve >>"$scratch/daemon.log" 2>&1 & daemon=$!
  at_exit end "$daemon"
  serving() { gone "$daemon" || "$STATELITE" --config "$config" --json status | jq -e '.nodes | length > 0 and all(.state == "serving")'; }
  within 120 serving || true
  if gone "$daemon" || ! serving >/dev/null; then refuse "statelite serve: not every node is mounted"; fi
}
# overlay DIR LOWER[:LOWER...]: the kernel's, its upper on a tmpfs.
overlay() {
  mkdir -p "$1" "$1.rw"; mount -t tmpfs none "$1.rw"; mkdir "$1.rw"/{u,w}
  mount -t overlay overlay -o "lowerdir=$2,upperdir=$1.rw/u,workdir=$1.rw/w" "$1"
}

# figure WHO WHAT UNIT VALUE: one of this round.
figure() { printf '%s\t%s\t%s\t%s\t%s\n' "$round" "$@" >>"$figures"; }
# bench PREFIX OPTION... [NAME=]DIR...: one run of `statelite bench`; its p50 become figures, each round of it one, named PREFIX and the operation.
# PERCENTILES=all: p99 and p99.9 too.
bench() {
  local prefix=$1 out=$scratch/bench.json; shift
  ran "${pin[@]}" "$STATELITE" --json bench "$@" >"$out" || die "statelite bench failed"
  jq -r --arg prefix "$prefix" --argjson first "$((round > 0 ? round : 1))" --arg all "${PERCENTILES:-}" '.operations[] | .operation as $op | .mounts[] | .name as $who | .rounds | to_entries[] |
    (.key + $first) as $round | (.value | if $all == "" then ["", .p50_ns] else [" p50", .p50_ns], [" p99", .p99_ns], [" p99.9", .p999_ns] end) |
    [$round, $who, $prefix + $op + .[0], "ns", .[1]] | @tsv' "$out" >>"$figures"
}
# table BASE WHO... -- WHAT...: checks that every figure is there, once a round and above zero; prints medians, then medians of each round's ratio to BASE.
# Where BASE is empty: no ratios. With --json, all of it and of the tables before is written.
table() {
  local base=$1 who=(); shift
  while [ "$1" != -- ]; do who+=("$1"); shift; done; shift
  [ -s "$scratch/tables.json" ] || echo '[]' >"$scratch/tables.json"
  jq -Rn --argjson who "$(jq -cn '$ARGS.positional' --args "${who[@]}")" --argjson what "$(jq -cn '$ARGS.positional' --args "$@")" --arg base "$base" --argjson rounds "$rounds" \
    --arg bench "$(basename "$0" .sh)" --arg quick "$quick" --arg cpus "$cpus" --arg kernel "$(uname -r)" --arg date "$(date -u +%FT%TZ)" --argjson processors "$(allowed | wc -l)" \
    --arg version "$("$STATELITE" --version)" --arg filesystem "$filesystem" --slurpfile tables "$scratch/tables.json" '
    def median: sort | if length % 2 == 1 then .[length / 2 | floor] else (.[length / 2 - 1] + .[length / 2]) / 2 end;
    [inputs | split("\t") | {round: (.[0] | tonumber), who: .[1], what: .[2], unit: .[3], value: (.[4] | tonumber)}] as $figures |
    ($figures | group_by([.who, .what]) | map({key: ([.[0].who, .[0].what] | tojson), value: .}) | from_entries) as $of |
    {base: $base, who: $who, what: $what,
      missing: [$who[] as $w | $what[] as $o | ($of[[$w, $o] | tojson] // []) | select(([.[].round] | sort) != [range(1; $rounds + 1)] or any(.value <= 0)) | "\($w): \($o)"],
      medians: [$who[] as $w | $what[] as $o | ($of[[$w, $o] | tojson] // []) | select(length > 0) |
        ($of[[$base, $o] | tojson] // []) as $b | (map(. as $f | ($b[] | select(.round == $f.round).value) as $v | select($v > 0) | .value / $v) | sort) as $ratios |
        {who: $w, what: $o, unit: .[0].unit, value: (map(.value) | median), lowest: (map(.value) | min), highest: (map(.value) | max)} +
        if $ratios == [] then {} else {ratio: ($ratios | median), ratio_lowest: $ratios[0], ratio_highest: $ratios[-1]} end]} as $table |
    {bench: $bench, version: $version, date: $date, kernel: $kernel, processors: $processors, cpus: $cpus, filesystem: $filesystem, quick: ($quick != ""), rounds: $rounds,
      tables: ($tables[0] + [$table]), figures: $figures}' <"$figures" >"$scratch/result.json"
  jq .tables "$scratch/result.json" >"$scratch/tables.json"
  [ -z "$json" ] || cp "$scratch/result.json" "$json"
  jq -r '.tables[-1] as $r | $r | def row: "| " + join(" | ") + " |"; def of($w; $o): $r.medians[] | select(.who == $w and .what == $o);
    def digits($n): . * pow(10; $n) | round | tostring | if $n == 0 then . else (("0" * ($n + 1 - length)) // "") + . | .[:-$n] + "." + .[-$n:] end;
    ([""] + [.what[] as $o | $o + ", " + (first(.medians[] | select(.what == $o)).unit // "missing")] | row), ([.what[], ""] | map("---") | row),
    (.who[] as $w | [$w] + [.what[] as $o | [of($w; $o).value | if . < 100 then digits(2) else digits(0) end][0] // "missing"] | row), "",
    if .base == "" then empty else (["median ratio to \(.base) (lowest–highest)"] + .what | row), ([.what[], ""] | map("---") | row),
    (.who[] as $w | select($w != $r.base) | [$w] + [.what[] as $o | [of($w; $o) | select(.ratio) | "\(.ratio | digits(2)) (\(.ratio_lowest | digits(2))–\(.ratio_highest | digits(2)))"][0] // "missing"] | row), "" end' "$scratch/result.json"
  jq -e '.tables[-1].missing == []' "$scratch/result.json" >/dev/null || die "not measured, or zero: $(jq -r '.tables[-1].missing | join("; ")' "$scratch/result.json")"
}
