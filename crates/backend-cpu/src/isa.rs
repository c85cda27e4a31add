//! Which vector instructions run.

#[cfg(target_arch = "x86_64")]
use crate::gemm::amx;

/// A level of vector instructions that this machine has: only [`Isa::available`] makes one, so
/// holding it is the proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Isa(Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// What the compiler's target has: SSE2 on x86-64, NEON on aarch64.
    Baseline,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// These, AVX-512 BF16, and tiles that multiply bf16; the system lets this process use them.
    #[cfg(target_arch = "x86_64")]
    Amx,
}

impl Isa {
    /// The widest level of this machine.
    pub fn detect() -> Self {
        Self::available().last().copied().unwrap_or(Isa(Level::Baseline))
    }

    /// Every level of this machine, narrowest first.
    pub fn available() -> &'static [Isa] {
        #[cfg(target_arch = "x86_64")]
        {
            const ALL: [Isa; 4] =
                [Isa(Level::Baseline), Isa(Level::Avx2), Isa(Level::Avx512), Isa(Level::Amx)];
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            match (avx2, avx512) {
                (true, true) if is_x86_feature_detected!("avx512bf16") && amx::available() => &ALL,
                (true, true) => &ALL[..3],
                (true, false) => &ALL[..2],
                (false, _) => &ALL[..1],
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        &[Isa(Level::Baseline)]
    }

    /// What every machine has.
    pub(crate) const fn baseline() -> Self {
        Isa(Level::Baseline)
    }

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Baseline => "baseline",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Level::Amx => "amx",
        }
    }

    pub(crate) fn level(self) -> Level {
        self.0
    }

    /// Whether it has tiles that multiply bf16.
    pub(crate) fn tiles(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self.0 == Level::Amx;
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Whether it has AVX-512.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn avx512(self) -> bool {
        self.0 >= Level::Avx512
    }
}

/// Writes a function once and compiles it for each [`Level`]; the new first argument picks.
///
/// The body may use the constant `FMA`: whether a fused multiply-add is one instruction. Helpers
/// that the body calls must be `#[inline(always)]`, else they lose the wide instructions.
macro_rules! simd {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name(isa: $crate::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body<const FMA: bool>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                body::<true>($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
            #[allow(clippy::too_many_arguments)]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                body::<true>($($arg),*)
            }

            match isa.level() {
                $crate::isa::Level::Baseline => body::<{ cfg!(target_arch = "aarch64") }>($($arg),*),
                // SAFETY: a machine without these instructions never makes this `Isa`.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Level::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Level::Avx512 | $crate::isa::Level::Amx => unsafe { avx512($($arg),*) },
            }
        }
    };
}
pub(crate) use simd;
