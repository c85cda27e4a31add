//! The order in which the numbers of a weight matrix lie.
//!
//! Products on tiles take 32 rows or 32 columns of a matrix at a time. Of numbers that lie row by row they read 128
//! bytes here and 128 bytes there, of *cells* of 16 × 16 numbers they read kilobytes from end to end. So the matrices
//! that training in f32 multiplies on tiles lie in cells: those of a band of 16 rows one behind the other, then those
//! of the next band, and row by row within each. Gradients and moments lie as the weights do, which is all the same to
//! AdamW. Tensors that somebody reads or writes are rows.

use std::ops::Range;

use model::{ModelConfig, Param, Role};

use crate::{Isa, Plan, Precision};

/// Rows, and columns, of a cell.
pub const CELL: usize = 16;

/// The order of the numbers of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Row by row.
    Rows,
    /// Cell by cell.
    Cells,
}

impl Order {
    /// The one in which products of weights of these extents read them best.
    pub fn best(isa: Isa, precision: Precision, extents: &[usize]) -> Self {
        // In bf16 they are packed before.
        let on_tiles = isa.tiles() && precision == Precision::F32;
        let cells = on_tiles && extents.iter().all(|n| n.is_multiple_of(CELL));
        if cells { Order::Cells } else { Order::Rows }
    }

    /// Numbers from a row to the next one of the same cell, and from a column to the one that is a [`CELL`] further.
    /// Rows that are a [`CELL`] apart are `CELL · cols` numbers apart in either order.
    ///
    /// # Panics
    ///
    /// When a matrix in cells does not consist of whole ones.
    pub fn strides(self, rows: usize, cols: usize) -> (usize, usize) {
        if self == Order::Rows {
            return (cols, CELL);
        }
        assert!(rows.is_multiple_of(CELL) && cols.is_multiple_of(CELL), "whole cells");
        (CELL, CELL * CELL)
    }

    /// The pieces of a row of `cols` numbers: where in the matrix they lie, and which numbers of the row they are.
    pub fn row(self, row: usize, cols: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let (start, len, hop) = match self {
            Order::Rows => (row * cols, cols, cols),
            Order::Cells => (row / CELL * CELL * cols + row % CELL * CELL, CELL, CELL * CELL),
        };
        (0..cols / len.max(1)).map(move |piece| {
            let (from, first) = (start + piece * hop, piece * len);
            (from..from + len, first..first + len)
        })
    }

    /// The rows of a matrix of `cols` columns that lies in this order.
    pub fn to_rows(self, from: &[f32], cols: usize) -> Vec<f32> {
        let mut to = Vec::with_capacity(from.len());
        for row in 0..from.len() / cols {
            self.row(row, cols).for_each(|(place, _)| to.extend_from_slice(&from[place]));
        }
        to
    }

    /// A matrix of `cols` columns in this order, from its rows.
    pub fn arrange(self, rows: &[f32], cols: usize) -> Vec<f32> {
        let mut to = vec![0.0; rows.len()];
        for (row, from) in rows.chunks_exact(cols).enumerate() {
            for (place, piece) in self.row(row, cols) {
                to[place].copy_from_slice(&from[piece]);
            }
        }
        to
    }
}

/// Which parameters of a model lie in cells.
#[derive(Clone, Copy, Debug)]
pub struct Cells {
    /// All matrices of layers.
    layers: Order,
    /// The matrix of the head.
    head: Order,
    tied: bool,
}

impl Cells {
    /// For a plan.
    pub fn new(c: &ModelConfig, plan: &Plan) -> Self {
        let order = |extents: &[usize]| match plan.by_rows {
            true => Order::Rows,
            false => Order::best(plan.isa, plan.precision, extents),
        };
        let layers = order(&[c.dim, c.q_dim(), c.kv_dim(), c.hidden]);
        Self { layers, head: order(&[c.dim, c.vocab]), tied: c.tied }
    }

    /// The order of a parameter.
    pub fn order(&self, p: &Param) -> Order {
        match p.role {
            Role::Head => self.head,
            Role::Embed if self.tied => self.head,
            Role::Q | Role::K | Role::V | Role::O | Role::Gate | Role::Up | Role::Down => self.layers,
            // Vectors, and an embedding that nothing multiplies.
            _ => Order::Rows,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_lie_one_behind_the_other() {
        let rows: Vec<f32> = (0..32 * 48).map(|i| i as f32).collect();
        let cells = Order::Cells.arrange(&rows, 48);
        let at = |row: usize, col: usize| (row * 48 + col) as f32;
        assert_eq!([cells[0], cells[1], cells[16]], [at(0, 0), at(0, 1), at(1, 0)]);
        assert_eq!([cells[256], cells[3 * 256], cells[5 * 256 + 17]], [at(0, 16), at(16, 0), at(17, 33)]);
        assert_eq!(Order::Cells.to_rows(&cells, 48), rows);
        assert_eq!(Order::Rows.to_rows(&rows, 48), rows);
        assert_eq!(Order::Rows.arrange(&rows, 48), rows);
    }
}
