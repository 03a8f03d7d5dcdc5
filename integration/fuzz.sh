#!/usr/bin/env bash
# fuzz.sh [TARGET...]: what reads bytes of others is fed with whatever cargo-fuzz thinks of, beginning with integration/fuzz/corpus.
# RUN=600: seconds each (short form: 10). What is found is put into .cache/fuzz/found; put it into the corpus, where a test of the
# library reads it, before it is mended. What was learnt stays in .cache/fuzz for the next run.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
run=${RUN:-$(form 10 600)} here=$repo/integration/fuzz kept=$cache/fuzz
[ -x "$tools/cargo-fuzz" ] || die "no cargo-fuzz: make setup installs it"
export CARGO_TARGET_DIR=$repo/target/fuzz
# Without a sanitizer: no unsafe code is reached, and no nightly compiler is needed.
fuzz() { "$tools/cargo-fuzz" "$1" --fuzz-dir "$here" --sanitizer none "${@:2}"; }
if [ $# -eq 0 ]; then for t in "$here"/targets/*.rs; do t=${t##*/}; set -- "$@" "${t%.rs}"; done; fi
mkdir -p "$kept/found"
expect "the targets are built" fuzz build
for t; do
  mkdir -p "$kept/$t"; out=$kept/$t.log
  # A file that takes five seconds, or a gigabyte, is a finding like any other.
  if fuzz run "$t" "$kept/$t" "$here/corpus/$t" -- -max_total_time="$run" -timeout=5 -rss_limit_mb=1024 -artifact_prefix="$kept/found/$t-" >"$out" 2>&1; then
    pass "$t: $(sed -n 's/^Done \([0-9]*\) runs in \([0-9]*\) second.*/\1 inputs in \2 s/p' "$out")"
  else
    fail "$t: $kept/found"; tail -40 "$out"
  fi
done
summary "fuzz"
