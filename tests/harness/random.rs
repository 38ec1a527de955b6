//! Random numbers from a seed that a failed test prints.

/// SplitMix64: small, and good enough for choosing moments.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From `KAR_TEST_SEED` if set, else from the clock; printed, so that the run can be repeated.
    ///
    /// # Panics
    ///
    /// If `KAR_TEST_SEED` is no number.
    pub fn seeded(test: &str) -> Self {
        let seed = match std::env::var("KAR_TEST_SEED") {
            Ok(text) => text.parse().expect("KAR_TEST_SEED is a number"),
            Err(_) => uuid::Uuid::new_v4().as_u64_pair().0,
        };
        println!("{test}: KAR_TEST_SEED={seed}");
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below `bound`, which is at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// Another generator that goes its own way from here.
    pub fn fork(&mut self) -> Self {
        Self(self.number())
    }
}
