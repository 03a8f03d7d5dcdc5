#!/usr/bin/env bash
# model.sh: the inode table's promises in many orders of its callers' steps (integration/model, by shuttle). MODEL_RUNS=2000: so many for
# each test and each of two ways to choose them.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
export MODEL_RUNS=${MODEL_RUNS:-$(form 2000 100000)} CARGO_TARGET_DIR=$repo/target/model
# The table's own tests are the daemon's.
RUST_BACKTRACE=0 cargo test --locked --manifest-path "$repo/integration/model/Cargo.toml" -- --skip inode::
