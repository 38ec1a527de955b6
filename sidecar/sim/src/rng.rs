//! The one source of chance: SplitMix64, seeded, so that a seed reproduces a run bit by bit.

/// A small deterministic generator.
#[derive(Clone, Debug)]
pub(crate) struct Rng {
    state: u64,
    /// Chance is switched off: nothing is likely, and every duration is the shortest.
    still: bool,
}

/// Finaliser of SplitMix64: spreads the bits of a counter or a combination of numbers.
pub(crate) fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Combines two numbers into one that stands for both.
pub(crate) fn join(a: u64, b: u64) -> u64 {
    mix(a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ mix(b.wrapping_add(0x632b_e59b_d9b4_e019)))
}

impl Rng {
    /// A generator; equal seeds give equal sequences.
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: mix(seed ^ 0x6b61_725f_7369_6d00), still: false }
    }

    /// No chance at all: for worlds where everything that may happen is chosen.
    pub(crate) fn still() -> Self {
        Self { state: 0, still: true }
    }

    /// 64 random bits.
    pub(crate) fn next(&mut self) -> u64 {
        if self.still {
            return 0;
        }
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// A number below `n`; 0 for `n` = 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.next() % n }
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True in `permille` of 1000 cases.
    pub(crate) fn chance(&mut self, permille: u32) -> bool {
        !self.still && self.below(1000) < u64::from(permille)
    }

    /// An index below `len`, which must not be 0.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// An index drawn by weight; the weights must not all be 0.
    pub(crate) fn weighted(&mut self, weights: &[u32]) -> usize {
        let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        let mut at = self.below(total);
        for (index, weight) in weights.iter().enumerate() {
            let weight = u64::from(*weight);
            if at < weight {
                return index;
            }
            at -= weight;
        }
        weights.len() - 1
    }
}
