//! How numbers are spread over the shards of a table and their places.

use std::hash::{BuildHasher, Hasher};

use super::id::GRAIN;

/// Numbers are hashes already: one multiplication, keyed anew for each table, since a node can choose
/// the names that its numbers are made of.
#[derive(Clone, Debug)]
pub(super) struct Spread(u64);

impl Default for Spread {
    fn default() -> Self {
        Spread(fastrand::u64(..))
    }
}

impl BuildHasher for Spread {
    type Hasher = Spreading;

    fn build_hasher(&self) -> Spreading {
        Spreading(self.0)
    }
}

/// One number being spread.
#[derive(Debug)]
pub(super) struct Spreading(u64);

impl Hasher for Spreading {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        let product = u128::from(self.0 ^ number) * u128::from(GRAIN);
        self.0 = product as u64 ^ (product >> 64) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_differ_little_fall_far_apart() {
        let spread = Spread::default();
        for shift in [0, 20, 50] {
            let mut places = [0; 64];
            for n in 0..6400u64 {
                places[(spread.hash_one(n << shift) >> 50) as usize % 64] += 1;
            }
            assert!(places.iter().all(|n| (20..400).contains(n)), "{places:?}");
        }
    }
}
