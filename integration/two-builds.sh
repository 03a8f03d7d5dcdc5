#!/usr/bin/env bash
# two-builds.sh: a second build of this program, whose sessions' state has another layout, takes over from the first and gives back.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
root; cd "$repo"
STATELITE_NAMES_VERSION=2 cargo build --locked --target-dir "$repo/target/another"
export STATELITE_ANOTHER=$repo/target/another/debug/statelite
cargo test --locked --test holder another_build -- --ignored --nocapture
