//! What kernels with AVX-512 have in common, whatever the numbers.

/// Packing and products of a kind of numbers: `pack_rows`, `pack_columns` and `panels`, see [`super::Unit`].
///
/// Wants the instructions, how many numbers of the depth lie together, `vectors`, which gives a matrix as vectors
/// of 16 rows, and `multiply_add(sum, x, y)`.
macro_rules! kernel {
    ($features:literal, $together:literal, $vectors:ident, $multiply_add:ident) => {
        /// See [`super::Unit::pack_rows`].
        ///
        /// # Safety
        ///
        /// The instructions are there; `to` is writable for `a.rows` rounded up to [`MR`], times the steps
        /// of `a.cols`.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn pack_rows(a: Mat<'_>, to: *mut u32) {
            let (rows, steps) = (a.rows, a.cols.div_ceil($together));
            let store = |i: usize, p: usize, x: __m512i| {
                // SAFETY: the panels of rows that are there.
                unsafe {
                    let at = to.add(i * steps + p * MR);
                    _mm256_storeu_si256(at.cast(), _mm512_castsi512_si256(x));
                    if rows - i > MR {
                        _mm256_storeu_si256(at.add(MR * steps).cast(), _mm512_extracti64x4_epi64::<1>(x));
                    }
                }
            };
            // SAFETY: the instructions are there.
            unsafe { $vectors(a, store) };
        }

        /// See [`super::Unit::pack_columns`].
        ///
        /// # Safety
        ///
        /// The instructions are there; `to` is writable for the steps of `b.rows`, times `b.cols` rounded
        /// up to [`V`].
        #[target_feature(enable = $features)]
        pub(super) unsafe fn pack_columns(b: Mat<'_>, to: *mut u32) {
            let (cols, steps) = (b.cols, b.rows.div_ceil($together));
            let store = |j: usize, p: usize, x: __m512i| {
                let panel = j / NR * NR;
                let width = NR.min(cols - panel).next_multiple_of(V);
                // SAFETY: the panels of columns that are there.
                unsafe { _mm512_storeu_si512(to.add(panel * steps + p * width + (j - panel)).cast(), x) };
            };
            // SAFETY: the instructions are there.
            unsafe { $vectors(b.t(), store) };
        }

        /// See [`super::Unit::panels`].
        ///
        /// # Safety
        ///
        /// The instructions are there; `a` and `b` hold the packed panels of this shape; `c` is writable
        /// for `rows` rows of `cols` numbers and nobody else uses it.
        #[allow(clippy::too_many_arguments)]
        #[target_feature(enable = $features)]
        pub(super) unsafe fn panels(
            rows: usize,
            cols: usize,
            steps: usize,
            a: (*const u32, usize),
            b: (*const u32, usize),
            c: Target,
            alpha: f32,
            into: Into,
        ) {
            for j in (0..cols).step_by(NR) {
                let width = NR.min(cols - j);
                let mask = u16::MAX >> (width.next_multiple_of(V) - width);
                for i in (0..rows).step_by(MR) {
                    // SAFETY: inside the packed operands and `c`, as the caller promised.
                    unsafe {
                        let next = a.0.wrapping_add(if i + MR < rows { (i + MR) * a.1 } else { 0 });
                        let (a, b, c) = (a.0.add(i * a.1), b.0.add(j * b.1), c.at(i, j));
                        let tile = match width.div_ceil(V) {
                            1 => tile_rows::<1>,
                            2 => tile_rows::<2>,
                            _ => tile_rows::<3>,
                        };
                        tile(MR.min(rows - i), steps, (a, next), b, c, mask, alpha, into);
                    }
                }
            }
        }

        /// [`tile`] for a number of rows known at run time.
        ///
        /// # Safety
        ///
        /// As for [`tile`].
        #[allow(clippy::too_many_arguments)]
        #[target_feature(enable = $features)]
        unsafe fn tile_rows<const VECTORS: usize>(
            rows: usize,
            steps: usize,
            a: (*const u32, *const u32),
            b: *const u32,
            c: Target,
            mask: u16,
            alpha: f32,
            into: Into,
        ) {
            // SAFETY: the caller's promises are passed on.
            unsafe {
                match rows {
                    1 => tile::<1, VECTORS>(steps, a, b, c, mask, alpha, into),
                    2 => tile::<2, VECTORS>(steps, a, b, c, mask, alpha, into),
                    3 => tile::<3, VECTORS>(steps, a, b, c, mask, alpha, into),
                    4 => tile::<4, VECTORS>(steps, a, b, c, mask, alpha, into),
                    5 => tile::<5, VECTORS>(steps, a, b, c, mask, alpha, into),
                    6 => tile::<6, VECTORS>(steps, a, b, c, mask, alpha, into),
                    7 => tile::<7, VECTORS>(steps, a, b, c, mask, alpha, into),
                    _ => tile::<8, VECTORS>(steps, a, b, c, mask, alpha, into),
                }
            }
        }

        /// `ROWS` rows and `VECTORS` vectors of `c`; `mask` says which numbers of the last vector count.
        ///
        /// # Safety
        ///
        /// The instructions are there; `a` holds `steps · MR` numbers of 32 bits, `b` `steps · VECTORS · V`; `c` is
        /// writable for `ROWS` rows of the columns that count, and nobody else uses them.
        #[target_feature(enable = $features)]
        unsafe fn tile<const ROWS: usize, const VECTORS: usize>(
            steps: usize,
            (mut a, mut next): (*const u32, *const u32),
            mut b: *const u32,
            c: Target,
            mask: u16,
            alpha: f32,
            into: Into,
        ) {
            // SAFETY: every access is inside what the caller promised; prefetches may be anywhere.
            unsafe {
                for i in 0..ROWS {
                    let row = c.data.wrapping_add(i * c.row_stride);
                    for v in 0..VECTORS {
                        _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(v * V).cast());
                    }
                }
                let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
                let mut step = || {
                    let mut columns = [_mm512_setzero_si512(); VECTORS];
                    for (v, column) in columns.iter_mut().enumerate() {
                        *column = _mm512_loadu_si512(b.add(v * V).cast());
                    }
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let x = _mm512_set1_epi32(*a.add(i) as i32);
                        for (sum, column) in sums.iter_mut().zip(columns) {
                            *sum = $multiply_add(*sum, x, column);
                        }
                    }
                    a = a.add(MR);
                    b = b.add(VECTORS * V);
                };
                for _ in 0..steps / 2 {
                    // Both steps' numbers of the next panel.
                    _mm_prefetch::<_MM_HINT_T0>(next.cast());
                    next = next.wrapping_add(2 * MR);
                    step();
                    step();
                }
                if steps % 2 == 1 {
                    step();
                }
                let alpha = _mm512_set1_ps(alpha);
                for (i, sums) in sums.into_iter().enumerate() {
                    let row = c.data.add(i * c.row_stride);
                    for (v, sum) in sums.into_iter().enumerate() {
                        let mask = if v + 1 == VECTORS { mask } else { u16::MAX };
                        let at = row.add(v * V);
                        let value = match into {
                            Into::Set | Into::Stream => _mm512_mul_ps(alpha, sum),
                            Into::Add => _mm512_fmadd_ps(alpha, sum, _mm512_maskz_loadu_ps(mask, at)),
                        };
                        _mm512_mask_storeu_ps(at, mask, value);
                    }
                }
            }
        }
    };
}
pub(super) use kernel;
