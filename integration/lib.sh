# shellcheck shell=bash disable=SC2034
# Shared by the scripts here: source it after `set -euo pipefail`. Root.
# A target KIND is `statelite` (the binary: $STATELITE) or `overlayfs` (the kernel's, the reference).

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${STATELITE_CACHE:-$repo/.cache}
tools=$repo/.cache/tools/bin
STATELITE=$(realpath -m "${STATELITE:-$repo/target/release/statelite}")
passed=0 failed=0

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 2; }
pass() { passed=$((passed + 1)); say "ok    $*"; }
fail() { failed=$((failed + 1)); say "FAIL  $*"; }
# expect NAME COMMAND...: one check; what the command says is shown when it fails.
expect() {
  local name=$1 out; shift
  if out=$("$@" 2>&1); then pass "$name"; else fail "$name"; say "      ${out//$'\n'/$'\n      '}"; fi
}
# form CI FULL: a setting's value in the short form of a suite (FORM=ci, make test) and in the full one.
form() { if [ "${FORM:-full}" = ci ]; then echo "$1"; else echo "$2"; fi; }
# summary NAME: the last line of every suite; the status is the verdict.
summary() { say "$1: $passed passed, $failed failed"; [ "$failed" -eq 0 ]; }
# within SECONDS COMMAND...: until the command succeeds, or the deadline passes.
within() {
  local end=$((${EPOCHREALTIME//[.,]/} + $1 * 1000000)); shift
  until "$@" >/dev/null 2>&1; do [ "${EPOCHREALTIME//[.,]/}" -lt $end ] || return 1; sleep 0.05; done
}
need() { local c; for c; do command -v "$c" >/dev/null || die "no $c here: make setup installs it"; done; }
root() { [ "$(id -u)" = 0 ] || die "mounts are made here: run it as root"; }

# What at_exit was given runs last in, first out, however the script ends.
undo=()
at_exit() { undo+=("$(printf '%q ' "$@")"); }
finish() {
  local status=$? i; trap - EXIT; set +e
  for ((i = ${#undo[@]} - 1; i >= 0; i--)); do eval "${undo[i]}" >/dev/null 2>&1; done
  exit $status
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# scratch: $scratch, an empty directory of this run, on the disk.
scratch() { scratch=$(mktemp -d "${STATELITE_SCRATCH:-/var/tmp}/statelite.XXXXXX"); at_exit rm -rf --one-file-system "$scratch"; }
unmount() { local m; for m; do if mountpoint -q "$m" || [ ! -e "$m" ]; then umount "$m" 2>/dev/null || umount -l "$m"; fi; done; }
mounts_below() { awk -v d="$1/" 'index($5, d) == 1 { print $5 }' /proc/self/mountinfo | tac; }
unmount_below() { local m; mounts_below "$1" | while read -r m; do umount "$m" 2>/dev/null || umount -l "$m" || true; done; }
# umount_soon DIR: somebody's df or a child just started may hold it for a moment; not for ten seconds.
umount_soon() { within 10 umount "$1" || umount "$1"; }
# store UPPERFS DIR [SIZE]: an empty file system for uppers; ext4 comes on a loop device over DIR.img.
store() {
  mkdir -p "$2"
  case $1 in
    tmpfs) mount -t tmpfs -o "size=${3:-2G}" none "$2" ;;
    ext4) truncate -s "${3:-2G}" "$2.img"; mkfs.ext4 -qF -E lazy_itable_init=0 "$2.img"; mount -o loop,acl,user_xattr,barrier=0 "$2.img" "$2" ;; # scratch: no flush of the disk below
    *) die "no such file system for uppers: $1 (ext4 tmpfs)" ;;
  esac
  at_exit unmount "$2"
}
# target KIND LOWER UPPER WORK MOUNTPOINT: mounts; the daemon's number, if there is one, is in $daemon.
daemon=
target() {
  mkdir -p "$3" "$4" "$5"; daemon=
  case $1 in
    overlayfs) mount -t overlay overlay -o "lowerdir=$2,upperdir=$3,workdir=$4,index=off,redirect_dir=nofollow,metacopy=off" "$5" ;;
    statelite)
      [ -x "$STATELITE" ] || die "no $STATELITE: make build"
      "$STATELITE" mount --foreground --lower "$2" --upper "$3" --work "$4" "$5" >>"$scratch/daemon.log" 2>&1 & daemon=$!
      up() { mountpoint -q "$1" || gone "$daemon"; }
      within 20 up "$5" || true
      mountpoint -q "$5" || { cat "$scratch/daemon.log" >&2; die "statelite did not mount $5"; } ;;
    *) die "no such kind: $1 (statelite overlayfs)" ;;
  esac
  at_exit unmount "$5"
}
# target_off MOUNTPOINT: unmounts, and the daemon has ended when it returns. Who has just unshared its mounts may keep it for a while.
target_off() { umount_soon "$1"; if [ -n "$daemon" ]; then within 120 gone "$daemon" || die "the daemon outlived its mount"; fi; }
gone() { ! kill -0 "$1" 2>/dev/null || grep -q '^State:.*Z' "/proc/$1/status"; }
rss() { awk '/^VmRSS/ {print $2 " " $3}' "/proc/$1/status"; }
# tree DIR: one line a path, to be compared.
tree() { (cd "$1" && find . -mindepth 1 \( -type d -printf '%p %y %m %U:%G\n' -o -printf '%p %y %m %U:%G %s %l\n' \) | LC_ALL=C sort); }
# same_as_kernel LISTING LOWER UPPER: is LISTING what the kernel's overlayfs shows of these layers, read-only?
same_as_kernel() {
  local m=$scratch/kernel bad=0; mkdir -p "$m"
  mount -t overlay overlay -o "ro,lowerdir=$3:$2" "$m"
  diff <(tree "$m") "$1" >"$scratch/diff" || { bad=1; head -20 "$scratch/diff"; }
  umount "$m"; return $bad
}
