//! A shuffle without a list: where the i-th sequence of an epoch lies, from the seed alone.
//!
//! A Feistel network of six rounds permutes the numbers of `2·h` bits; numbers at or above `n` are
//! permuted again until one falls below it (cycle walking), which keeps it a permutation of `0..n`.
//! Because `4^h < 4n`, fewer than four steps are needed on average. Nothing is stored, so a resumed
//! run needs only its position.
//! Sources: Luby & Rackoff 1988; Black & Rogaway 2002 (cycle walking).

const ROUNDS: u64 = 6;

/// Place of sequence `position` in epoch `epoch`: a permutation of `0..n` for every seed and epoch.
///
/// # Panics
/// When `position` is not below `n`.
pub fn place(seed: u64, epoch: u64, position: u64, n: u64) -> u64 {
    assert!(position < n, "position {position} of {n}");
    let bits = 64 - (n - 1).leading_zeros();
    let half = bits.div_ceil(2).max(1);
    let mask = (1u64 << half) - 1;
    let key = mix(seed ^ mix(epoch.wrapping_add(0x9E37_79B9_7F4A_7C15)));
    let mut x = position;
    loop {
        let (mut left, mut right) = (x >> half, x & mask);
        for round in 0..ROUNDS {
            let next = left ^ (mix(key.wrapping_add(round << 56) ^ right) & mask);
            (left, right) = (right, next);
        }
        x = left << half | right;
        if x < n {
            return x;
        }
    }
}

/// Spreads every bit of `x` over all bits. Source: the finaliser of SplitMix64, Steele et al. 2014.
pub(super) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_a_permutation(seed: u64, epoch in 0u64..1000, n in 1u64..3000) {
            let mut places: Vec<u64> = (0..n).map(|i| place(seed, epoch, i, n)).collect();
            places.sort_unstable();
            prop_assert!(places.into_iter().eq(0..n));
        }

        #[test]
        fn stays_inside_large_ranges(seed: u64, i: u64, n in 1u64..) {
            prop_assert!(place(seed, 0, i % n, n) < n);
        }
    }

    #[test]
    fn epochs_and_seeds_differ() {
        let order = |seed, epoch| (0..100).map(|i| place(seed, epoch, i, 100)).collect::<Vec<_>>();
        assert_eq!(order(1, 0), order(1, 0));
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
        assert_ne!(order(1, 1), order(2, 0));
    }

    #[test]
    fn neighbours_are_spread() {
        // In a random order, the mean distance of neighbours is n/3.
        let n = 10_000;
        let places: Vec<i64> = (0..n).map(|i| place(7, 3, i, n) as i64).collect();
        let mean = places.windows(2).map(|w| (w[1] - w[0]).abs()).sum::<i64>() as f64 / n as f64;
        assert!((mean / n as f64 - 1.0 / 3.0).abs() < 0.02, "{mean}");
    }
}
