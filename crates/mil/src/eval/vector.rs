//! Loops compiled for the vector instructions of the machine.

/// Defines `fn name(arch, args…) -> out`, whose body is compiled once per instruction set and chosen at
/// run time. A closure would do the same only where the compiler happens to inline it.
macro_rules! vector_fn {
    ($(#[$doc:meta])* $vis:vis fn $name:ident $(<$f:ident: $bound:path>)? ($($arg:ident: $ty:ty),* $(,)?) $(-> $out:ty)? $body:block) => {
        $(#[$doc])*
        $vis fn $name<'a $(, $f: $bound)?>(arch: pulp::Arch, $($arg: $ty),*) $(-> $out)? {
            struct Loop<'a $(, $f)?> {
                $($arg: $ty,)*
                lifetime: std::marker::PhantomData<&'a ()>,
            }
            impl<'a $(, $f: $bound)?> pulp::WithSimd for Loop<'a $(, $f)?> {
                type Output = $crate::eval::vector::output!($($out)?);
                #[inline(always)]
                fn with_simd<S: pulp::Simd>(self, _: S) -> Self::Output {
                    let Self { $($arg,)* lifetime: _ } = self;
                    $body
                }
            }
            arch.dispatch(Loop { $($arg,)* lifetime: std::marker::PhantomData })
        }
    };
}

/// The output type, `()` when none is written.
macro_rules! output {
    () => {
        ()
    };
    ($out:ty) => {
        $out
    };
}

pub(crate) use {output, vector_fn};
