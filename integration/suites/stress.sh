#!/usr/bin/env bash
# stress.sh KIND [UPPERFS]: stress-ng's file system stressors in a view, two at a time, while files of the lower layer
# are copied up, removed and replaced beside them. SECONDS_EACH=60 (short form: 3). ONLY="a b" runs these alone.
# Some stressors write where they stand, so that is in the view too.
# Afterwards the view is walked and compared with what the kernel's overlayfs shows of the same layers.
set -euo pipefail
. "$(dirname "$0")/../lib.sh"
kind=${1:-statelite} upperfs=${2:-ext4}
each=${SECONDS_EACH:-$(form 3 60)}
root; need stress-ng mkfs.ext4
# The class `filesystem`, less those that never touch the directory they are given:
#   bind-mount binderfs eventfd ioprio procfs; and fanotify, which marks every mount of the machine.
stressors="access chattr chdir chmod chown copy-file dentry dir dirdeep dirmany dnotify dup fallocate fcntl fiemap
  file-ioctl filename flock fpunch fsize fstat getdent handle hdd inode-flags inotify io iomix lease link locka lockf
  lockofd mknod open rename symlink sync-file touch utime verity xattr"
# and from other classes what works on files: asynchronous, mapped, reversed and spliced I/O.
stressors+=" aio fault fifo readahead revio seek sendfile"
stressors=${ONLY:-$stressors}
small="--fallocate-bytes 64M --fiemap-bytes 32M --hdd-bytes 64M --iomix-bytes 64M --readahead-bytes 64M
  --seek-size 64M --sync-file-bytes 64M --dentries 512 --dirdeep-inodes 2000"

scratch; store "$upperfs" "$scratch/store" 3G
lower=$scratch/lower upper=$scratch/store/upper work=$scratch/store/work view=$scratch/view
mkdir -p "$lower/tmp"; chmod 1777 "$lower/tmp"
for i in $(seq 100); do mkdir -p "$lower/d$i/sub"; echo "$i" >"$lower/d$i/file"; echo "$i" >"$lower/d$i/sub/file"; ln -s file "$lower/d$i/link"; done
tree "$lower" >"$scratch/lower.before"
target "$kind" "$lower" "$upper" "$work" "$view"

stress() {
  # shellcheck disable=SC2086 # $small is a list
  timeout -k 5 $((each + 180)) env -C "$view/tmp" stress-ng --temp-path "$view/tmp" --verify --"$1" 1 -t "$each" $small >"$scratch/$1.log" 2>&1 || echo "exit status $?" >>"$scratch/$1.log"
}
n=0
# beside NUMBER: copy-ups, a whiteout, an opaque directory.
beside() {
  echo more >>"$view/d$1/file" && chmod 600 "$view/d$1/sub/file" && rm "$view/d$1/link" &&
    { [ $(($1 % 3)) != 0 ] || { rm -r "$view/d$1/sub" && mkdir "$view/d$1/sub" && echo new >"$view/d$1/sub/new"; }; }
}
# shellcheck disable=SC2086
set -- $stressors
while [ $# -gt 0 ]; do
  pair=("${@:1:2}"); shift ${#pair[@]}; jobs=()
  for s in "${pair[@]}"; do stress "$s" & jobs+=($!); done
  n=$((n + 1)); beside $n || fail "changes beside ${pair[*]}"
  wait "${jobs[@]}"
  for s in "${pair[@]}"; do
    sed -i '/no CPUs found/d' "$scratch/$s.log" # where /sys is not mounted
    if grep -qE 'exit status|(fail|error): ' "$scratch/$s.log"; then fail "$s"; tail -12 "$scratch/$s.log" | sed 's/^/      /'
    elif grep -q 'skipped' "$scratch/$s.log"; then say "skip  $s:$(grep -m1 skipped "$scratch/$s.log" | sed 's/.*\]//')"
    else pass "$s"; fi
  done
done
[ -z "$daemon" ] || expect "the daemon is alive, $(rss "$daemon")" kill -0 "$daemon"
expect "the view can be walked" find "$view" -ls
tree "$view" >"$scratch/view.list"
target_off "$view"
expect "the kernel sees the same in these layers, $(wc -l <"$scratch/view.list") paths" same_as_kernel "$scratch/view.list" "$lower" "$upper"
expect "the lower layer is as it was" diff "$scratch/lower.before" <(tree "$lower")
summary "stress-ng, $kind over $upperfs"
