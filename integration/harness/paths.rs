//! Few paths, so that what happens at random meets.

use std::path::PathBuf;

pub const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const DEPTH: u32 = 3;

/// Every path that there can be.
pub fn universe() -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut level = vec![PathBuf::new()];
    for _ in 0..DEPTH {
        level = level
            .iter()
            .flat_map(|dir| NAMES.map(|name| dir.join(name)))
            .collect();
        all.extend(level.iter().cloned());
    }
    all
}

/// One of them.
pub fn any_path(rng: &mut fastrand::Rng) -> PathBuf {
    let depth = rng.u32(1..=DEPTH);
    (0..depth)
        .map(|_| NAMES[rng.usize(..NAMES.len())])
        .collect()
}
