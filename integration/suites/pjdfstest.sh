#!/usr/bin/env bash
# pjdfstest.sh KIND UPPERFS: POSIX, call by call, in a view whose upper is on UPPERFS (ext4 or tmpfs).
# KIND bare runs it on UPPERFS itself: what fails there is no overlay's fault.
# A test listed in pjdfstest.exclude is run all the same: when it passes, the list is wrong, and that is a failure.
set -euo pipefail
. "$(dirname "$0")/../lib.sh"
here=$(dirname "$(realpath "$0")")
kind=${1:-statelite} upperfs=${2:-ext4}
root; need mkfs.ext4
[ -x "$tools/pjdfstest" ] || die "no pjdfstest: make setup installs it"
for u in pjd1 pjd2; do id "$u" >/dev/null 2>&1 || useradd --no-create-home --shell /usr/sbin/nologin "$u"; done
scratch; store "$upperfs" "$scratch/store"
mkdir -p "$scratch/lower/run" "$scratch/other"; chmod 755 "$scratch" "$scratch/lower" "$scratch/lower/run"
store tmpfs "$scratch/other" 64M
view=$scratch/store
[ "$kind" = bare ] || { view=$scratch/view; target "$kind" "$scratch/lower" "$scratch/store/upper" "$scratch/store/work" "$view"; }
mkdir -p "$view/run"; chmod 755 "$view/run"

# The crate remounts with mount(8), which for a FUSE type would start a helper that knows no remount: -i starts none.
mkdir "$scratch/bin"; printf '#!/bin/sh\nexec %s -i "$@"\n' "$(command -v mount)" >"$scratch/bin/mount"; chmod +x "$scratch/bin/mount"
# run REMOUNT [PATTERN]: appends what the crate says to $scratch/out.
run() {
  local remount=$1; shift
  sed "/^\[settings\]/a allow_remount = $remount\nexpected_failures = [$(sed 's/.*/"&"/' "$scratch/exclude" | paste -sd,)]" "$here/pjdfstest.toml" >"$scratch/toml"
  PATH=$scratch/bin:$PATH NO_COLOR=1 "$tools/pjdfstest" -c "$scratch/toml" -p "$view/run" -s "$scratch/other" "$@" >"$scratch/out.new" 2>&1 || true
  grep -q '^Summary' "$scratch/out.new" || { cat "$scratch/out.new"; die "pjdfstest did not get to its end"; }
  cat "$scratch/out.new" >>"$scratch/out"
}
awk -v kind="$kind" '!/^ *(#|$)/ { sub(/#.*/, ""); if ($2 == "" || $2 == kind) print $1 }' "$here/pjdfstest.exclude" >"$scratch/exclude"
# The crate keeps some of its files open, so a later remount to read-only is refused, on ext4 as well: those tests go alone.
run false; sed -i '/erofs_.* skipped$/,/allow_remount/d' "$scratch/out"
run true erofs
awk '/ (FAILED|PASSED UNEXPECTEDLY|skipped)$/ { print; show = /FAILED$/ || /skipped$/; next } /^[^\t ]/ { show = 0 } show' "$scratch/out"
[ -z "$daemon" ] || expect "the daemon is alive, $(rss "$daemon")" kill -0 "$daemon"
count() { grep -cE "$1" "$scratch/out" || true; }
passed=$((passed + $(count ' ok$') + $(count ' failed as expected$'))) failed=$((failed + $(count ' FAILED$') + $(count ' PASSED UNEXPECTEDLY$')))
say "$(count ' failed as expected$') of them listed in pjdfstest.exclude, $(count ' skipped$') skipped"
summary "pjdfstest, $kind over $upperfs"
