//! Strided views: slices, transposes and most reshapes cost nothing.

use half::f16;

use super::convert::widen;

/// Axes that a view can have; verified programs have at most five.
pub(crate) const MAX_RANK: usize = 8;

/// Where the elements of a tensor lie in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    rank: usize,
    dims: [usize; MAX_RANK],
    steps: [isize; MAX_RANK],
    /// Buffer index of the first element.
    pub offset: usize,
}

impl Layout {
    /// Row-major without gaps. The rank is at most 8.
    pub fn dense(dims: &[usize]) -> Self {
        let mut layout = Self { rank: dims.len(), dims: [1; MAX_RANK], steps: [0; MAX_RANK], offset: 0 };
        let mut step = 1;
        for i in (0..dims.len()).rev() {
            layout.dims[i] = dims[i];
            layout.steps[i] = step;
            step *= dims[i].max(1) as isize;
        }
        layout
    }

    /// Row-major with rows `row_step` elements apart, as on a surface with a pitch.
    pub fn pitched(dims: &[usize], row_step: usize) -> Self {
        let mut layout = Self::dense(dims);
        let mut step = row_step as isize;
        for i in (0..dims.len().saturating_sub(1)).rev() {
            layout.steps[i] = step;
            step *= dims[i].max(1) as isize;
        }
        layout
    }

    /// Extents.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// Buffer elements from one index to the next, per axis; 0 repeats, negative runs backwards.
    pub fn steps(&self) -> &[isize] {
        &self.steps[..self.rank]
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims().iter().product()
    }

    /// True without elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True when the elements lie one after the other from the offset on.
    pub fn is_dense(&self) -> bool {
        let mut step = 1;
        for i in (0..self.rank).rev() {
            if self.dims[i] != 1 && self.steps[i] != step {
                return false;
            }
            step *= self.dims[i] as isize;
        }
        true
    }

    /// The same steps from another first element.
    pub fn starting_at(self, offset: usize) -> Self {
        Self { offset, ..self }
    }

    /// The same elements with the axes in another order.
    pub fn permute(&self, perm: &[usize]) -> Self {
        let mut out = *self;
        for (i, &p) in perm.iter().enumerate() {
            out.dims[i] = self.dims[p];
            out.steps[i] = self.steps[p];
        }
        out
    }

    /// The first `axes` axes and the others, both from the same first element.
    pub fn split(&self, axes: usize) -> (Self, Self) {
        let (mut first, mut last) = (*self, *self);
        first.rank = axes;
        last.rank = self.rank - axes;
        last.dims.rotate_left(axes);
        last.steps.rotate_left(axes);
        (first, last)
    }

    /// Part of one axis: `len` indices from `begin` on, `stride` apart.
    pub fn slice(&self, axis: usize, begin: usize, len: usize, stride: isize) -> Self {
        let mut out = *self;
        out.offset = (out.offset as isize + begin as isize * self.steps[axis]) as usize;
        out.dims[axis] = len;
        out.steps[axis] = self.steps[axis] * stride;
        out
    }

    /// Repeats axes of extent one until the view has the extents `dims` (numpy broadcasting).
    pub fn broadcast(&self, dims: &[usize]) -> Self {
        let mut out = Self::dense(dims);
        out.offset = self.offset;
        let lead = dims.len() - self.rank;
        for (i, &dim) in dims.iter().enumerate() {
            let repeats = i < lead || (self.dims[i - lead] == 1 && dim != 1);
            out.steps[i] = if repeats { 0 } else { self.steps[i - lead] };
        }
        out
    }

    /// The same elements under other extents, if no copy is needed for that.
    pub fn reshape(&self, dims: &[usize]) -> Option<Self> {
        let merged = coalesce([self], self.dims());
        let mut out = Self::dense(dims);
        out.offset = self.offset;
        // Fill the new axes from the back, each inside one run of the merged view.
        let (mut i, mut left, mut step) = (merged.rank, 1, 1);
        for j in (0..dims.len()).rev() {
            if dims[j] == 1 {
                out.steps[j] = 0;
                continue;
            }
            if left == 1 {
                i = i.checked_sub(1)?;
                left = merged.dims[i];
                step = merged.steps[0][i];
            }
            if !left.is_multiple_of(dims[j]) {
                return None;
            }
            out.steps[j] = step;
            step *= dims[j] as isize;
            left /= dims[j];
        }
        (left == 1).then_some(out)
    }
}

/// Several layouts over the same extents, walked together.
pub(crate) struct Walk<const N: usize> {
    pub rank: usize,
    pub dims: [usize; MAX_RANK],
    pub steps: [[isize; MAX_RANK]; N],
    offsets: [usize; N],
}

/// Merges neighbouring axes that all layouts step through as one, and drops axes of extent one.
pub(crate) fn coalesce<const N: usize>(layouts: [&Layout; N], dims: &[usize]) -> Walk<N> {
    let mut walk =
        Walk { rank: 0, dims: [1; MAX_RANK], steps: [[0; MAX_RANK]; N], offsets: layouts.map(|l| l.offset) };
    for (i, &dim) in dims.iter().enumerate() {
        if dim == 1 {
            continue;
        }
        let last = walk.rank.wrapping_sub(1);
        let joins =
            walk.rank > 0 && (0..N).all(|n| walk.steps[n][last] == layouts[n].steps[i] * dim as isize);
        if joins {
            walk.dims[last] *= dim;
        } else {
            walk.dims[walk.rank] = dim;
            walk.rank += 1;
        }
        for (steps, layout) in walk.steps.iter_mut().zip(layouts) {
            steps[walk.rank - 1] = layout.steps[i];
        }
    }
    walk
}

impl<const N: usize> Walk<N> {
    /// Extent of the innermost axis.
    pub fn row_len(&self) -> usize {
        if self.rank == 0 { 1 } else { self.dims[self.rank - 1] }
    }

    /// Step of layout `n` along the innermost axis.
    pub fn row_step(&self, n: usize) -> isize {
        if self.rank == 0 { 0 } else { self.steps[n][self.rank - 1] }
    }

    /// Calls `f(row, offsets)` for every index of the outer axes, in order.
    pub fn rows(&self, f: impl FnMut(usize, [usize; N])) {
        self.outer(self.rank.saturating_sub(1), f);
    }

    /// Calls `f` for every index of the first `axes` axes.
    pub fn outer(&self, axes: usize, mut f: impl FnMut(usize, [usize; N])) {
        if self.dims[..self.rank].contains(&0) {
            return;
        }
        let mut place = self.place(axes, 0);
        let mut row = 0;
        loop {
            f(row, place.at.map(|o| o as usize));
            row += 1;
            if !self.advance(axes, &mut place) {
                return;
            }
        }
    }

    /// Calls `f(elements before, offsets, elements)` for the rows, and the parts of rows at both ends,
    /// of `len` elements from `start` on.
    pub fn range(&self, start: usize, len: usize, mut f: impl FnMut(usize, [usize; N], usize)) {
        let n = self.row_len();
        if len == 0 || n == 0 {
            return;
        }
        let axes = self.rank.saturating_sub(1);
        let mut place = self.place(axes, start / n);
        let (mut column, mut done) = (start % n, 0);
        loop {
            let take = (n - column).min(len - done);
            let at = std::array::from_fn(|i| (place.at[i] + column as isize * self.row_step(i)) as usize);
            f(done, at, take);
            done += take;
            column = 0;
            if done == len || !self.advance(axes, &mut place) {
                return;
            }
        }
    }

    /// Offsets of the index `i` of the first `axes` axes.
    pub fn offsets(&self, axes: usize, i: usize) -> [usize; N] {
        self.place(axes, i).at.map(|o| o as usize)
    }

    fn place(&self, axes: usize, mut row: usize) -> Place<N> {
        let mut place = Place { index: [0; MAX_RANK], at: self.offsets.map(|o| o as isize) };
        for axis in (0..axes).rev() {
            let i = row % self.dims[axis];
            row /= self.dims[axis];
            place.index[axis] = i;
            for (at, steps) in place.at.iter_mut().zip(&self.steps) {
                *at += i as isize * steps[axis];
            }
        }
        place
    }

    /// Goes to the next index of the first `axes` axes; false behind the last.
    fn advance(&self, axes: usize, place: &mut Place<N>) -> bool {
        for axis in (0..axes).rev() {
            place.index[axis] += 1;
            for (at, steps) in place.at.iter_mut().zip(&self.steps) {
                *at += steps[axis];
            }
            if place.index[axis] < self.dims[axis] {
                return true;
            }
            for (at, steps) in place.at.iter_mut().zip(&self.steps) {
                *at -= steps[axis] * self.dims[axis] as isize;
            }
            place.index[axis] = 0;
        }
        false
    }
}

/// An index of outer axes, and where its elements lie.
struct Place<const N: usize> {
    index: [usize; MAX_RANK],
    at: [isize; N],
}

/// Elements in their storage type.
#[derive(Clone, Copy, Debug)]
pub enum Slice<'a> {
    /// `fp16`.
    F16(&'a [f16]),
    /// `fp32`, and whole numbers of the narrower types.
    F32(&'a [f32]),
}

impl Slice<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Slice::F16(v) => v.len(),
            Slice::F32(v) => v.len(),
        }
    }

    /// True without elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element `i`, widened.
    pub fn get(&self, i: usize) -> f32 {
        match self {
            Slice::F16(v) => v[i].to_f32(),
            Slice::F32(v) => v[i],
        }
    }

    /// Widens the elements from `at` on, `step` apart, into `out`.
    pub(crate) fn load_row(&self, at: usize, step: isize, out: &mut [f32]) {
        match (self, step) {
            (Slice::F16(v), 1) => widen(&v[at..at + out.len()], out),
            (Slice::F32(v), 1) => out.copy_from_slice(&v[at..at + out.len()]),
            (_, 0) => out.fill(self.get(at)),
            _ => {
                let mut at = at as isize;
                for x in out {
                    *x = self.get(at as usize);
                    at += step;
                }
            }
        }
    }
}

/// A tensor to read.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The buffer.
    pub data: Slice<'a>,
    /// Where its elements lie.
    pub layout: Layout,
}

/// Side of the square that a transposing load turns at once.
const TILE: usize = 16;

impl View<'_> {
    /// Widens all elements into `out`, row-major.
    pub fn load(&self, out: &mut [f32]) {
        let walk = coalesce([&self.layout], self.layout.dims());
        let n = walk.row_len();
        if walk.rank >= 2 && walk.row_step(0) != 1 && walk.steps[0][walk.rank - 2] == 1 {
            let m = walk.dims[walk.rank - 2];
            let step = walk.row_step(0);
            return walk.outer(walk.rank - 2, |row, [at]| {
                self.load_transposed(at, step, &mut out[row * m * n..][..m * n], n);
            });
        }
        walk.rows(|row, [at]| self.data.load_row(at, walk.row_step(0), &mut out[row * n..][..n]));
    }

    /// Widens the elements from `start` on, row-major. Slower than [`View::load`] where rows are no runs.
    pub(crate) fn load_range(&self, start: usize, out: &mut [f32]) {
        let walk = coalesce([&self.layout], self.layout.dims());
        let step = walk.row_step(0);
        walk.range(start, out.len(), |to, [at], n| self.data.load_row(at, step, &mut out[to..to + n]));
    }

    /// True when [`View::load_range`] reads runs.
    pub(crate) fn in_runs(&self) -> bool {
        let walk = coalesce([&self.layout], self.layout.dims());
        walk.rank == 0 || matches!(walk.row_step(0), 0 | 1)
    }

    /// `out[i, j] = data[at + i + j·step]`, tile by tile so that both sides are read in runs.
    fn load_transposed(&self, at: usize, step: isize, out: &mut [f32], n: usize) {
        let m = out.len() / n;
        let mut tile = [[0f32; TILE]; TILE];
        for j0 in (0..n).step_by(TILE) {
            let cols = TILE.min(n - j0);
            for i0 in (0..m).step_by(TILE) {
                let rows = TILE.min(m - i0);
                for (j, line) in tile[..cols].iter_mut().enumerate() {
                    let from = (at + i0) as isize + (j0 + j) as isize * step;
                    self.data.load_row(from as usize, 1, &mut line[..rows]);
                }
                for i in 0..rows {
                    let to = &mut out[(i0 + i) * n + j0..][..cols];
                    for (x, line) in to.iter_mut().zip(&tile) {
                        *x = line[i];
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(layout: Layout, data: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; layout.len()];
        View { data: Slice::F32(data), layout }.load(&mut out);
        out
    }

    #[test]
    fn transposed_loads_agree_with_indexing() {
        let data: Vec<f32> = (0..3 * 37 * 21).map(|x| x as f32).collect();
        let layout = Layout::dense(&[3, 37, 21]).permute(&[0, 2, 1]);
        let out = load(layout, &data);
        for a in 0..3 {
            for i in 0..21 {
                for j in 0..37 {
                    assert_eq!(out[(a * 21 + i) * 37 + j], data[(a * 37 + j) * 21 + i]);
                }
            }
        }
    }

    #[test]
    fn reshapes_without_copying_where_it_can() {
        let packed = Layout::dense(&[1, 64, 1, 192]).slice(3, 64, 128, 1);
        let matrix = packed.reshape(&[1, 1, 64, 128]).unwrap();
        assert_eq!((matrix.steps()[2], matrix.steps()[3], matrix.offset), (192, 1, 64));
        assert_eq!(packed.reshape(&[64 * 128]), None);
        let turned = Layout::dense(&[1, 1, 64, 128]).permute(&[0, 1, 3, 2]);
        assert!(turned.reshape(&[1, 128, 1, 64]).is_some());
        assert_eq!(turned.reshape(&[1, 64, 1, 128]), None);
    }

    #[test]
    fn reversed_and_repeated_axes() {
        let data = [1.0, 2.0, 3.0];
        let reversed = Layout::dense(&[3]).slice(0, 2, 3, -1);
        assert_eq!(load(reversed, &data), [3.0, 2.0, 1.0]);
        assert_eq!(load(Layout::dense(&[3]).broadcast(&[2, 3]), &data), [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
    }
}
