//! What every operation needs: threads, instructions, matrix products.

use crate::gemm::Gemm;
use crate::{CpuError, Into, Isa, Mat, MatMut, Plan, Pool};

/// Threads, vector instructions and the matrix product of one backend.
pub struct Exec {
    /// The threads.
    pub pool: Pool,
    /// The vector instructions.
    pub isa: Isa,
    gemm: Gemm,
}

impl Exec {
    /// Starts the threads of a plan.
    pub fn new(plan: &Plan) -> Result<Self, CpuError> {
        let mut pool = Pool::new(plan.threads)?;
        let gemm = Gemm::new(plan.isa, &mut pool)?;
        Ok(Self { pool, isa: plan.isa, gemm })
    }

    /// `c = alpha·a·b`, or `c += alpha·a·b`.
    pub fn matmul(&mut self, alpha: f32, a: Mat<'_>, b: Mat<'_>, into: Into, c: MatMut<'_>) {
        self.gemm.matmul(&self.pool, alpha, a, b, into, c);
    }
}
