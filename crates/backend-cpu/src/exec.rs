//! What every operation needs: threads, instructions, matrix products.

use crate::gemm::Gemm;
use crate::pool::Beside;
use crate::{CpuError, Into, Isa, Left, Mat, MatMut, Plan, Pool, Precision, Right};

/// Threads, vector instructions and the matrix product of one backend.
pub struct Exec {
    /// The threads.
    pub pool: Pool,
    /// The vector instructions.
    pub isa: Isa,
    /// Of [`Exec::product`].
    pub precision: Precision,
    gemm: Gemm,
}

impl Exec {
    /// Starts the threads of a plan.
    pub fn new(plan: &Plan) -> Result<Self, CpuError> {
        let mut pool = Pool::new(plan.threads)?;
        let gemm = Gemm::new(plan.isa, plan.precision, &mut pool)?;
        Ok(Self { pool, isa: plan.isa, precision: plan.precision, gemm })
    }

    /// Bytes that products of these `(rows, columns, depth)` write to the operand that threads share.
    pub(crate) fn shared_bytes(&self, products: &[(usize, usize, usize)]) -> usize {
        products.iter().map(|&p| self.gemm.shared_bytes(p)).max().unwrap_or(0)
    }

    /// `c = alpha·a·b`, or `c += alpha·a·b`, in f32.
    pub fn matmul(&mut self, alpha: f32, a: Mat<'_>, b: Mat<'_>, into: Into, c: MatMut<'_>) {
        self.gemm.matmul(&self.pool, &Beside::nothing(), alpha, a.into(), b, into, c);
    }

    /// `c = alpha·a·b`, or `c += alpha·a·b`, in the precision of the plan.
    ///
    /// # Panics
    ///
    /// When `b` is packed and the precision is f32.
    pub fn product<'a, A>(&mut self, alpha: f32, a: A, b: Right<'_>, into: Into, c: MatMut<'_>)
    where
        Left<'a>: From<A>,
    {
        self.gemm.product(&self.pool, &Beside::nothing(), alpha, Left::from(a), b, into, c);
    }

    /// [`Exec::product`], with something else for threads to do beside it: all of that is done, too.
    pub fn product_beside<'a, A>(
        &mut self,
        beside: &Beside<'_>,
        alpha: f32,
        a: A,
        b: Right<'_>,
        into: Into,
        c: MatMut<'_>,
    ) where
        Left<'a>: From<A>,
    {
        self.gemm.product(&self.pool, beside, alpha, Left::from(a), b, into, c);
        self.pool.finish(beside);
    }

    /// [`Exec::product`], with the sum of the squares of what `c` is then, where the kernel takes it on its
    /// way: no pass over `c` is needed for it.
    pub fn product_and_squares(
        &mut self,
        alpha: f32,
        a: Mat<'_>,
        b: Right<'_>,
        into: Into,
        c: MatMut<'_>,
    ) -> Option<f64> {
        self.gemm.product_and_squares(&self.pool, alpha, a.into(), b, into, c)
    }
}
