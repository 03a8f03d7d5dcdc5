#!/usr/bin/env bash
# run.sh ci|full [KIND]: every test there is, one after the other, a failure stops none of them; how long each took, and the sum.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
export FORM=${1:-ci} STATELITE_TARGET=${2:-statelite}; kind=$STATELITE_TARGET
cd "$repo"; report=$(mktemp); at_exit rm -f "$report"; all=0
step() {
  local name=$1 start=$SECONDS status=0 took line; shift
  printf '\n== %s\n' "$name"
  "$@" 2>&1 | tee "$report.out" || status=$?
  took=$((SECONDS - start))
  line=$(grep -aE '[0-9]+ passed' "$report.out" | tail -1) || true
  # cargo test has a line for each binary: the sums of all.
  case $name in cargo*) line=$(awk '/[0-9]+ passed/ { for (i = 2; i <= NF; i++) { if ($i ~ /^passed/) p += $(i - 1); if ($i ~ /^failed/) f += $(i - 1) } } END { print p + 0 " passed, " f + 0 " failed" }' "$report.out") ;; esac
  [ $status = 0 ] || all=1
  printf '%-30s %5d s  %s%s\n' "$name" "$took" "${line##*: }" "$([ $status = 0 ] || echo "   <- exit $status")" >>"$report"
  passed=$((passed + $(sed -n 's/.*[^0-9]\([0-9]*\) passed.*/\1/p' <<<" $line" | head -1)+0)); failed=$((failed + $(sed -n 's/.*[^0-9]\([0-9]*\) failed.*/\1/p' <<<" $line" | head -1)+0))
}
at_exit rm -f "$report.out"
# What runs before every change is the same each time; the long form looks where nobody has looked.
[ "$FORM" = ci ] || { export STATELITE_DIFF_SEED=${STATELITE_DIFF_SEED:-$(date +%s)} STATELITE_DIFF_CASES=${STATELITE_DIFF_CASES:-1000}; say "random sequences from seed $STATELITE_DIFF_SEED"; }
if cargo nextest --version >/dev/null 2>&1; then step "cargo nextest" cargo nextest run --locked --no-fail-fast; step "cargo test --doc" cargo test --locked --doc
else step "cargo test" cargo test --locked --no-fail-fast; fi
# Each once, to see that they work: figures are made by make bench and make bench-mounts.
step "criterion" cargo test --locked --bench rules --bench cache --bench view --bench metrics
[ "$kind" = overlayfs ] || for b in benches/mounts/*.sh; do [ ! -x "$b" ] || step "$(basename "$b" .sh), quick" env QUICK=1 "$b"; done
step "cargo model" integration/model.sh
step "fuzz" integration/fuzz.sh
step "mount.statelite" integration/mount-helper.sh
step "initramfs" integration/initramfs.sh
step "systemd" integration/systemd.sh
[ "$kind" = overlayfs ] || step "two builds" integration/two-builds.sh
[ "$kind" = overlayfs ] || step "nodes that boot" integration/boot/nodes.sh
for u in ext4 tmpfs; do step "pjdfstest, $u" integration/suites/pjdfstest.sh "$kind" $u; done
step "fsx" integration/suites/fsx.sh "$kind"
step "stress-ng, ext4" integration/suites/stress.sh "$kind" ext4
[ "$FORM" = ci ] || step "stress-ng, tmpfs" integration/suites/stress.sh "$kind" tmpfs
step "power cuts" integration/crash/powercut.sh "$kind"
step "every step" integration/crash/everystep.sh "$kind"
step "every kill" integration/crash/everykill.sh "$kind"
[ "$kind" = overlayfs ] || step "soak" integration/soak.sh
printf '\n== %s, %s form\n' "$kind" "$FORM"; cat "$report"
say "all in $SECONDS s: $passed passed, $failed failed"; exit $all
