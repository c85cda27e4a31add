//! The exponentials of a long row by Apple's Accelerate framework. On other systems nothing runs here.
//!
//! Only where a row stands in memory as it is and nothing else is done with it on the way: the logits.
//! Every other kernel fuses its exponential or its sum into a pass that the compiler turns into NEON
//! instructions, where a call would cost a pass over memory; docs/performance.md says more.

/// Numbers of a row that is worth the calls: logits have tens of thousands.
#[cfg(target_os = "macos")]
const LONG: usize = 4096;

/// Turns every `z` into `e^{z − shift}` and returns the shift, which is asked for only then. `None` when
/// another kernel has to: not on macOS, or few numbers.
pub(super) fn exp_shifted(z: &mut [f32], shift: impl FnOnce(&[f32]) -> f32) -> Option<f32> {
    #[cfg(target_os = "macos")]
    if z.len() >= LONG {
        let shift = shift(z);
        return vector::exp_shifted(z, shift).then_some(shift);
    }
    let _ = (z, shift);
    None
}

#[cfg(any(target_os = "macos", test))]
mod vector {
    use std::ffi::{c_int, c_long, c_ulong};

    // Source of names and types: vecLib/vDSP.h and vecLib/vForce.h of Apple's SDK.
    #[cfg_attr(target_os = "macos", link(name = "Accelerate", kind = "framework"))]
    unsafe extern "C" {
        /// `c[i] = a[i] + *b`, with steps between the numbers.
        fn vDSP_vsadd(a: *const f32, step_a: c_long, b: *const f32, c: *mut f32, step_c: c_long, n: c_ulong);
        /// `y[i] = e^x[i]`; both may be the same.
        fn vvexpf(y: *mut f32, x: *const f32, n: *const c_int);
    }

    pub(super) fn exp_shifted(z: &mut [f32], shift: f32) -> bool {
        let Ok(count) = c_int::try_from(z.len()) else { return false };
        let start = z.as_mut_ptr();
        // SAFETY: `z` has that many numbers, one after another; both functions write where they read.
        unsafe {
            vDSP_vsadd(start, 1, &-shift, start, 1, count as c_ulong);
            vvexpf(start, start, &count);
        }
        true
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::kernels::check::{assert_close, values, wide};

        /// Both by their definitions, so that what we pass to Accelerate is tested where it is not.
        #[cfg(not(target_os = "macos"))]
        #[unsafe(no_mangle)]
        unsafe extern "C" fn vDSP_vsadd(
            a: *const f32,
            step_a: c_long,
            b: *const f32,
            c: *mut f32,
            step_c: c_long,
            n: c_ulong,
        ) {
            for i in 0..n as isize {
                // SAFETY: the arguments describe vectors that are there, which the caller has to get right.
                unsafe { *c.offset(i * step_c as isize) = *a.offset(i * step_a as isize) + *b };
            }
        }

        #[cfg(not(target_os = "macos"))]
        #[unsafe(no_mangle)]
        unsafe extern "C" fn vvexpf(y: *mut f32, x: *const f32, n: *const c_int) {
            // SAFETY: as above.
            unsafe {
                for i in 0..*n as usize {
                    *y.add(i) = (*x.add(i)).exp();
                }
            }
        }

        #[test]
        fn rows_reach_accelerate_whole() {
            for n in [0, 1, 5, 4096, 5003] {
                let z: Vec<f32> = values(n, 1).iter().map(|z| 20.0 * z).collect();
                let wanted: Vec<f64> = wide(&z).iter().map(|z| (z - 7.5).exp()).collect();
                let mut got = z.clone();
                assert!(exp_shifted(&mut got, 7.5));
                assert_close(&got, &wanted, 1e-5);
            }
            let mut edge = [f32::NEG_INFINITY, f32::NAN, f32::INFINITY];
            assert!(exp_shifted(&mut edge, f32::INFINITY));
            assert!(edge[0] == 0.0 && edge[1].is_nan() && edge[2].is_nan());
        }
    }
}
