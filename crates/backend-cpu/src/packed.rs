//! The weight matrices in the layout of bf16 products, made again after every change of weights.
//!
//! Either every matrix has a copy of its own, or all layers share the memory of one, in which the
//! layer that is at work packs its matrices anew.

use std::ops::Range;

use model::{ParamId, Role};

use crate::gemm::bf16::{pack, packed_len, panel_rows};
use crate::moments::BLOCK;
use crate::params::Layout;
use crate::weights::Weights;
use crate::{Buffer, CpuError, Isa, Mat, Packed, Pool, Right, RowsMut, stream};

/// A weight matrix as the right operand of a product.
#[derive(Clone, Copy, Debug)]
pub struct Weight<'a> {
    pub(crate) plain: Mat<'a>,
    pub(crate) packed: Option<Packed<'a>>,
}

impl<'a> Weight<'a> {
    /// For `x·w`.
    pub fn right(self) -> Right<'a> {
        self.packed.map_or(Right::Plain(self.plain), Right::Packed)
    }

    /// For `x·wᵀ`.
    pub fn t(self) -> Right<'a> {
        self.packed.map_or(Right::Plain(self.plain.t()), Right::PackedT)
    }
}

/// Packed copies: 2 bytes per weight of a matrix.
pub struct PackedWeights {
    isa: Isa,
    /// Whether layers share memory.
    shared: bool,
    data: Buffer<u32>,
    matrices: Vec<Matrix>,
}

/// Parameters that are one matrix to a product.
struct Matrix {
    first: ParamId,
    layer: Option<usize>,
    /// Where the weights start, and where the packed ones do.
    from: usize,
    to: usize,
    rows: usize,
    cols: usize,
    /// Whether the copy is that of the weights.
    fresh: bool,
}

/// Bytes of all copies from which those that an update writes are in no cache when the next step reads them:
/// fifteen times as much has passed by then.
const PASSING: usize = 16 << 20;

/// The panels of one matrix, to write.
pub struct Panels<'a> {
    packer: Packer,
    panels: RowsMut<'a, u32>,
}

/// The panels of a packed matrix of so many columns.
pub fn panels_of(isa: Isa, packed: &mut [u32], cols: usize) -> RowsMut<'_, u32> {
    RowsMut::new(packed, packed_len(isa, panel_rows(isa), cols))
}

/// What packs the weights of a panel.
#[derive(Clone, Copy)]
pub struct Packer {
    isa: Isa,
    cols: usize,
    /// Whether panels are written past the caches.
    passing: bool,
}

impl<'a> Panels<'a> {
    /// Weights of one panel.
    pub fn weights(&self) -> usize {
        panel_rows(self.packer.isa) * self.packer.cols
    }

    /// What packs them, and the panels.
    pub fn split(self) -> (Packer, RowsMut<'a, u32>) {
        (self.packer, self.panels)
    }
}

impl Packer {
    /// Packs a panel. `scratch` has room for a packed one.
    pub fn pack(self, w: &[f32], scratch: &mut [f32], to: &mut [u32]) {
        let w = Mat::new(w, w.len() / self.cols, self.cols);
        if !self.passing {
            return pack(self.isa, w, to);
        }
        // SAFETY: any bits are numbers of either kind, of the same size.
        let (_, scratch, _) = unsafe { scratch.align_to_mut::<u32>() };
        let packed = &mut scratch[..to.len()];
        pack(self.isa, w, packed);
        stream::copy(packed, to);
    }
}

impl PackedWeights {
    /// Room for the matrices of a model, where all layers may share that of one.
    pub fn new(isa: Isa, layout: &Layout, shared: bool) -> Result<Self, CpuError> {
        let table = layout.table();
        let tied = table.find(Role::Head, None).is_none();
        let (mut matrices, mut len) = (Vec::new(), 0);
        let mut first_layer = None;
        for p in table {
            let last = match p.role {
                Role::Q => Role::V,
                Role::Gate => Role::Up,
                Role::O | Role::Down | Role::Head => p.role,
                Role::Embed if tied => p.role,
                _ => continue,
            };
            let (place, cols) = (layout.place(p.role, last, p.layer), p.shape[1]);
            let rows = place.len() / cols;
            if p.role == Role::Q {
                // Layers are alike, so each fills what the first one did.
                len = if shared { *first_layer.get_or_insert(len) } else { len };
            }
            let (from, to, layer) = (place.start, len, p.layer);
            matrices.push(Matrix { first: p.id, layer, from, to, rows, cols, fresh: false });
            len += packed_len(isa, rows, cols);
        }
        Ok(Self { isa, shared, data: Buffer::zeros("packed weights", len)?, matrices })
    }

    /// Numbers of the largest panel before it is packed, and after.
    pub fn panel(&self) -> [usize; 2] {
        let cols = self.matrices.iter().map(|m| m.cols).max().unwrap_or(0);
        [panel_rows(self.isa) * cols, packed_len(self.isa, panel_rows(self.isa), cols)]
    }

    /// The matrix that starts with this parameter, and no reference to others.
    pub fn get(&self, first: ParamId) -> Packed<'_> {
        let index = self.matrices.binary_search_by_key(&first, |m| m.first);
        let m = &self.matrices[index.expect("a matrix of the model starts here")];
        let place = m.to..m.to + packed_len(self.isa, m.rows, m.cols);
        Packed::new(self.isa, self.data.part(place), m.rows, m.cols)
    }

    /// Weights of the matrix that starts at `from`, when an update can pack it panel by panel.
    pub fn len_at(&self, from: usize) -> Option<usize> {
        // Parts of moments are whole blocks.
        let own = |m: &Matrix| !self.shared || m.layer.is_none();
        let fits =
            |m: &&Matrix| m.from == from && own(m) && (panel_rows(self.isa) * m.cols).is_multiple_of(BLOCK);
        self.matrices.iter().find(fits).map(|m| m.rows * m.cols)
    }

    /// The panels of the matrix that starts at `from`, for who writes all of them.
    pub fn panels(&mut self, from: usize) -> Option<Panels<'_>> {
        self.len_at(from)?;
        let passing = self.data.bytes() >= PASSING;
        let m = self.matrices.iter_mut().find(|m| m.from == from)?;
        m.fresh = true;
        let (start, len, cols) = (m.to, packed_len(self.isa, m.rows, m.cols), m.cols);
        let panels = panels_of(self.isa, self.data.part_mut(start..start + len), cols);
        Some(Panels { packer: Packer { isa: self.isa, cols, passing }, panels })
    }

    /// Says that the weights of a place changed.
    pub fn weights_changed(&mut self, place: Range<usize>) {
        for m in self.matrices.iter_mut().filter(|m| place.contains(&m.from)) {
            m.fresh = false;
        }
    }

    /// Packs what is not packed of a layer, or of what is outside of all layers.
    pub fn refresh(&mut self, pool: &Pool, weights: &Weights, layer: Option<usize>) {
        let evicted = self.shared && layer.is_some();
        for m in self.matrices.iter_mut().filter(|m| evicted && m.layer.is_some() && m.layer != layer) {
            m.fresh = false;
        }
        for m in self.matrices.iter_mut().filter(|m| m.layer == layer) {
            if std::mem::replace(&mut m.fresh, true) {
                continue;
            }
            let to = &mut self.data[m.to..][..packed_len(self.isa, m.rows, m.cols)];
            let most = panel_rows(self.isa);
            pool.each_with_scratch(panels_of(self.isa, to, m.cols), |panel, to, scratch| {
                let (row, rows) = (panel * most, most.min(m.rows - panel * most));
                let start = m.from + row * m.cols;
                let part = weights.piece(self.isa, start..start + rows * m.cols, scratch);
                pack(self.isa, Mat::new(part, rows, m.cols), to);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use model::ModelConfig;

    use super::*;
    use crate::kernels::check::values;
    use crate::{Rows, WeightFormat};

    #[test]
    fn an_update_packs_as_a_refresh_does_through_the_caches_and_past_them() {
        let config = ModelConfig { vocab: 300, ..ModelConfig::default() };
        let (isa, layout) = (Isa::detect(), Layout::new(&config));
        let mut weights = Weights::new(WeightFormat::F32, &layout).unwrap();
        let p = layout.table().find(Role::Gate, Some(1)).map(|id| layout.table().get(id)).unwrap();
        let place = layout.place(Role::Gate, Role::Up, Some(1));
        weights.write(p.id.index(), place.clone(), false, &values(place.len(), 1));

        let mut packed = PackedWeights::new(isa, &layout, false).unwrap();
        let mut pool = Pool::new(2).unwrap();
        pool.reserve_scratch(packed.panel().iter().sum()).unwrap();
        packed.refresh(&pool, &weights, Some(1));
        let wanted = packed.data.to_vec();
        assert!(wanted.iter().any(|&x| x != 0));
        for passing in [false, true] {
            packed.data.fill(0);
            {
                let panels = packed.panels(place.start).unwrap();
                let w = Rows::new(weights.exact(p.id.index(), place.clone()), panels.weights());
                let (packer, panels) = panels.split();
                let packer = Packer { passing, ..packer };
                pool.each_with_scratch((w, panels), |_, (w, to), scratch| packer.pack(w, scratch, to));
            }
            let differ = wanted.iter().zip(&*packed.data).filter(|(a, b)| a != b).count();
            // Other matrices of the layer were zeros.
            assert_eq!(differ, 0, "passing the caches: {passing}");
        }
    }
}
