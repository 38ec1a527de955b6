//! A map by names that is asked many times for each call: names of actors often begin alike, so that comparing them
//! letter by letter is what a search would spend its time with. It compares hashes, and one name at the end.

use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use indexmap::IndexMap;
use smallvec::SmallVec;

/// Values by name. The order follows from what was inserted and removed, and from nothing else.
#[derive(Clone)]
pub(crate) struct ByName<V> {
    /// Whose names have the same hash, by name: many only if somebody chose them so.
    buckets: IndexMap<u64, Bucket<V>, BuildHasherDefault<AsItIs>>,
    len: usize,
}

/// The hash of a hash.
#[derive(Clone, Copy, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    /// Nothing but whole hashes is looked up; bytes would do as well.
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Bucket<V> = SmallVec<[(Arc<str>, V); 1]>;

impl<V> ByName<V> {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The value of a name.
    pub(crate) fn get(&self, name: &str) -> Option<&V> {
        let bucket = self.buckets.get(&hash(name))?;
        let at = find(bucket, name).ok()?;
        Some(&bucket[at].1)
    }

    /// The value of a name, to be changed.
    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut V> {
        let bucket = self.buckets.get_mut(&hash(name))?;
        let at = find(bucket, name).ok()?;
        Some(&mut bucket[at].1)
    }

    /// Whether a name has a value.
    pub(crate) fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The value of a name, which gets a new one if it has none.
    pub(crate) fn get_or_insert_with(
        &mut self,
        name: &Arc<str>,
        new: impl FnOnce() -> V,
    ) -> &mut V {
        let bucket = self.buckets.entry(hash(name)).or_default();
        let at = find(bucket, name).unwrap_or_else(|at| {
            bucket.insert(at, (name.clone(), new()));
            self.len += 1;
            at
        });
        &mut bucket[at].1
    }

    /// Gives a name a value.
    pub(crate) fn insert(&mut self, name: Arc<str>, value: V) {
        self.remove(&name);
        self.get_or_insert_with(&name, || value);
    }

    /// Takes a name's value away.
    pub(crate) fn remove(&mut self, name: &str) -> Option<V> {
        let hash = hash(name);
        let bucket = self.buckets.get_mut(&hash)?;
        let at = find(bucket, name).ok()?;
        let (_, value) = bucket.remove(at);
        if bucket.is_empty() {
            self.buckets.swap_remove(&hash);
        }
        self.len -= 1;
        Some(value)
    }

    /// Every name with its value.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &V)> {
        self.buckets.values().flatten().map(|(name, value)| (name, value))
    }

    /// The names.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Arc<str>> {
        self.iter().map(|(name, _)| name)
    }
}

impl<V> Default for ByName<V> {
    fn default() -> Self {
        Self { buckets: IndexMap::default(), len: 0 }
    }
}

impl<V: fmt::Debug> fmt::Debug for ByName<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

fn find<V>(bucket: &Bucket<V>, name: &str) -> Result<usize, usize> {
    bucket.binary_search_by(|(other, _)| other.as_ref().cmp(name))
}

/// FNV-1a, eight bytes at once: short, and the same on every machine.
fn hash(name: &str) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    // Multiplying moves bits up only; what differs in the last bytes of a chunk is brought down again.
    let mix = |hash: u64, word: u64| {
        let hash = (hash ^ word).wrapping_mul(PRIME);
        hash ^ (hash >> 32)
    };
    let (chunks, rest) = name.as_bytes().as_chunks::<8>();
    let hash = chunks.iter().fold(BASIS, |hash, chunk| mix(hash, u64::from_le_bytes(*chunk)));
    rest.iter().fold(hash, |hash, byte| mix(hash, u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn it_answers_like_a_map() {
        let mut map = ByName::default();
        let mut expected = BTreeMap::new();
        for round in 0_u32..3_000 {
            // A name of one to four letters, so that they come again.
            let name: Arc<str> = format!("{:o}", round.wrapping_mul(2_654_435_761) % 509).into();
            match round % 4 {
                0 => {
                    map.insert(name.clone(), round);
                    expected.insert(name.clone(), round);
                }
                1 => assert_eq!(map.remove(&name), expected.remove(&name)),
                2 => {
                    let value = map.get_or_insert_with(&name, || round);
                    assert_eq!(value, expected.entry(name.clone()).or_insert(round));
                }
                _ => {
                    let value = map.get_mut(&name);
                    assert_eq!(value, expected.get_mut(&name));
                }
            }
            assert_eq!((map.len(), map.get(&name)), (expected.len(), expected.get(&name)));
            assert_eq!(map.contains_key(&name), expected.contains_key(&name));
        }
        let all: BTreeMap<_, _> = map.iter().map(|(name, value)| (name.clone(), *value)).collect();
        assert_eq!(all, expected);
        assert_eq!(map.keys().count(), expected.len());
    }

    #[test]
    fn names_with_the_same_hash_are_told_apart() {
        let mut map = ByName::default();
        // As if two others had the hash of this one.
        let hash_of_a = hash("a");
        let bucket: Bucket<u32> = vec![("b".into(), 2), ("x".into(), 1)].into();
        map.buckets.insert(hash_of_a, bucket);
        map.len = 2;
        assert_eq!(*map.get_or_insert_with(&"a".into(), || 3), 3);
        assert_eq!(map.get("a"), Some(&3));
        let kept: Vec<_> = map.buckets[&hash_of_a].iter().map(|(name, _)| name.as_ref()).collect();
        assert_eq!(kept, ["a", "b", "x"]);
        assert_eq!(map.remove("a"), Some(3));
        assert_eq!((map.len(), map.buckets[&hash_of_a].len()), (2, 2));
    }

    #[test]
    fn names_that_begin_alike_have_different_hashes() {
        let names = (0..100_000).map(|n| format!("customer/{n}"));
        let hashes: std::collections::BTreeSet<_> = names.map(|name| hash(&name)).collect();
        assert_eq!(hashes.len(), 100_000);
    }
}
