//! Where the numbers come from while a file is written.

use std::borrow::Cow;
use std::marker::PhantomData;

use crate::BoxError;

/// Gives tensors one at a time, so that writing never holds a second copy of the model. The
/// numbers may be borrowed from the source until the next call.
pub trait Source<K> {
    /// The numbers of one tensor.
    fn read(&mut self, key: K) -> Result<Cow<'_, [f32]>, BoxError>;
}

/// A source from a function of the key.
pub fn from_fn<'a, K, F: FnMut(K) -> Result<Cow<'a, [f32]>, BoxError>>(read: F) -> FromFn<'a, F> {
    FromFn { read, numbers: PhantomData }
}

/// What [`from_fn`] gives.
pub struct FromFn<'a, F> {
    read: F,
    /// What the function returns outlives it.
    numbers: PhantomData<&'a [f32]>,
}

impl<'a, K, F: FnMut(K) -> Result<Cow<'a, [f32]>, BoxError>> Source<K> for FromFn<'a, F> {
    fn read(&mut self, key: K) -> Result<Cow<'_, [f32]>, BoxError> {
        (self.read)(key)
    }
}

/// A source asked by other keys.
pub(crate) struct Keyed<'s, K, F> {
    pub source: &'s mut dyn Source<K>,
    pub key: F,
}

impl<J, K, F: FnMut(J) -> K> Source<J> for Keyed<'_, K, F> {
    fn read(&mut self, key: J) -> Result<Cow<'_, [f32]>, BoxError> {
        self.source.read((self.key)(key))
    }
}
