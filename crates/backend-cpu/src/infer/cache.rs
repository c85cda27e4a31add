//! Keys and values of a sequence.

use backend::KvBlock;
use model::ModelConfig;

use crate::Isa;
use crate::kernels::cached_attention::{BLOCK, Element, Half, attend, key_at, scratch};
use crate::memory::CpuResult;
use crate::{CpuError, Pool, RowsMut};

/// Of each layer and key head, keys in blocks of positions and values position by position.
#[derive(Default)]
pub struct Cache {
    /// Positions that are held.
    pub len: usize,
    heads: Vec<Head>,
}

/// How numbers are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As they are computed.
    F32,
    /// In half of the memory.
    F16,
}

enum Head {
    F32(Store<f32>),
    F16(Store<Half>),
}

/// One key head; layouts in [`crate::kernels::cached_attention`].
#[derive(Default)]
struct Store<E> {
    keys: Vec<E>,
    values: Vec<E>,
}

impl Cache {
    /// Bytes of a cache of so many positions.
    pub fn bytes_of(c: &ModelConfig, precision: Precision, positions: usize) -> u64 {
        let each = match precision {
            Precision::F32 => size_of::<f32>(),
            Precision::F16 => size_of::<Half>(),
        };
        let positions = positions + positions.next_multiple_of(BLOCK);
        (each * c.layers * c.kv_dim() * positions) as u64
    }

    /// Of no position.
    pub fn new(c: &ModelConfig, precision: Precision) -> Self {
        let head = || match precision {
            Precision::F32 => Head::F32(Store::default()),
            Precision::F16 => Head::F16(Store::default()),
        };
        Self { len: 0, heads: std::iter::repeat_with(head).take(c.layers * c.kv_heads).collect() }
    }

    /// Forgets all but the first `len` positions.
    pub fn truncate(&mut self, len: usize, d: usize) {
        self.len = self.len.min(len);
        for head in &mut self.heads {
            match head {
                Head::F32(head) => head.truncate(self.len, d),
                Head::F16(head) => head.truncate(self.len, d),
            }
        }
    }

    /// Makes room for so many positions.
    pub fn reserve(&mut self, positions: usize, d: usize) -> CpuResult<()> {
        let numbers = positions.next_multiple_of(BLOCK) * d;
        for head in &mut self.heads {
            match head {
                Head::F32(head) => head.reserve(numbers)?,
                Head::F16(head) => head.reserve(numbers)?,
            }
        }
        Ok(())
    }

    /// Bytes that are reserved.
    pub fn bytes(&self) -> usize {
        let bytes = |head: &Head| match head {
            Head::F32(head) => head.bytes(),
            Head::F16(head) => head.bytes(),
        };
        self.heads.iter().map(bytes).sum()
    }

    /// Appends a position to the heads of a layer, `keys` and `values` `[kv_heads, d]`. [`Cache::len`]
    /// stays: it counts what every layer has.
    pub fn push(&mut self, layer: usize, d: usize, keys: &[f32], values: &[f32]) {
        let heads = keys.len() / d;
        let rows = keys.chunks_exact(d).zip(values.chunks_exact(d));
        for (head, (key, value)) in self.heads[layer * heads..][..heads].iter_mut().zip(rows) {
            head.push(d, key, value);
        }
    }

    /// Appends positions to the heads of a layer on all threads. `keys` and `values` give the row of a
    /// position and head.
    pub fn push_many<'a>(
        &mut self,
        pool: &Pool,
        heads: std::ops::Range<usize>,
        d: usize,
        positions: usize,
        row: impl Fn(usize, usize) -> (&'a [f32], &'a [f32]) + Sync,
    ) {
        // A few positions are not worth waking threads for.
        let together = if positions < 16 { heads.len() } else { 1 };
        pool.each(RowsMut::new(&mut self.heads[heads], together), |part, heads| {
            for (number, head) in heads.iter_mut().enumerate() {
                for position in 0..positions {
                    let (key, value) = row(position, part * together + number);
                    head.push(d, key, value);
                }
            }
        });
    }

    /// Attention of query heads to the first `seen` positions of a key head.
    #[allow(clippy::too_many_arguments)]
    pub fn attend(
        &self,
        isa: Isa,
        head: usize,
        d: usize,
        seen: usize,
        q: &[f32],
        s: &mut [f32],
        o: &mut [f32],
    ) {
        let s = &mut s[..scratch(seen)];
        match &self.heads[head] {
            Head::F32(head) => attend(isa, d, q, &head.keys, &head.values[..seen * d], s, o),
            Head::F16(head) => attend(isa, d, q, &head.keys, &head.values[..seen * d], s, o),
        }
    }

    /// What other devices read.
    pub fn block(&self, c: &ModelConfig) -> KvBlock {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for head in &self.heads {
            match head {
                Head::F32(head) => head.read(self.len, c.head_dim, &mut keys, &mut values),
                Head::F16(head) => head.read(self.len, c.head_dim, &mut keys, &mut values),
            }
        }
        let ModelConfig { layers, kv_heads, head_dim, .. } = *c;
        KvBlock { layers, kv_heads, len: self.len, head_dim, keys, values }
    }

    /// Takes what another device computed, of the shape of this model.
    pub fn seed(&mut self, kv: &KvBlock) -> CpuResult<()> {
        self.reserve(kv.len, kv.head_dim)?;
        self.len = kv.len;
        for (number, head) in self.heads.iter_mut().enumerate() {
            let (keys, values) = kv.head(number / kv.kv_heads, number % kv.kv_heads);
            for (key, value) in keys.chunks_exact(kv.head_dim).zip(values.chunks_exact(kv.head_dim)) {
                head.push(kv.head_dim, key, value);
            }
        }
        Ok(())
    }
}

impl Head {
    fn push(&mut self, d: usize, key: &[f32], value: &[f32]) {
        match self {
            Head::F32(head) => head.push(d, key, value),
            Head::F16(head) => head.push(d, key, value),
        }
    }
}

impl<E: Element> Store<E> {
    fn push(&mut self, d: usize, key: &[f32], value: &[f32]) {
        let position = self.values.len() / d;
        self.values.extend(value.iter().map(|&v| E::of(v)));
        // Numbers of positions that are not there yet are zeros, or left over from before a truncation.
        let blocks = (position + 1).next_multiple_of(BLOCK) * d;
        if self.keys.len() < blocks {
            self.keys.resize(blocks, E::default());
        }
        for (channel, &k) in key.iter().enumerate() {
            self.keys[key_at(d, position, channel)] = E::of(k);
        }
    }

    fn truncate(&mut self, len: usize, d: usize) {
        self.values.truncate(len * d);
        self.keys.truncate(len.next_multiple_of(BLOCK) * d);
    }

    fn reserve(&mut self, numbers: usize) -> CpuResult<()> {
        for rows in [&mut self.keys, &mut self.values] {
            let more = numbers.saturating_sub(rows.len());
            let bytes = more as u128 * size_of::<E>() as u128;
            rows.try_reserve(more).map_err(|_| CpuError::OutOfMemory { what: "keys and values", bytes })?;
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        (self.keys.capacity() + self.values.capacity()) * size_of::<E>()
    }

    fn read(&self, len: usize, d: usize, keys: &mut Vec<f32>, values: &mut Vec<f32>) {
        values.extend(self.values.iter().map(|v| v.get()));
        for position in 0..len {
            keys.extend((0..d).map(|channel| self.keys[key_at(d, position, channel)].get()));
        }
    }
}
