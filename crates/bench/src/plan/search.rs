//! The largest number that fits.

/// The largest of `1..=most` for which `fits` holds, where it holds for every smaller one; `None` when it
/// holds for none.
///
/// # Errors
/// The first that `fits` has.
pub fn largest<E>(most: usize, mut fits: impl FnMut(usize) -> Result<bool, E>) -> Result<Option<usize>, E> {
    // Doubling first: what fits is usually far below the limit, and huge sizes are slow to count.
    let (mut low, mut high) = (0, 1);
    while high <= most && fits(high)? {
        low = high;
        high = high.saturating_mul(2);
    }
    let mut over = high.min(most + 1);
    while over - low > 1 {
        let middle = low + (over - low) / 2;
        if fits(middle)? { low = middle } else { over = middle }
    }
    Ok((low > 0).then_some(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_border_wherever_it_is() {
        for most in [1, 2, 7, 8, 100] {
            for border in 0..=most + 2 {
                let mut asked = 0;
                let found = largest(most, |n| {
                    asked += 1;
                    assert!((1..=most).contains(&n));
                    Ok::<_, ()>(n <= border)
                });
                let wanted = border.min(most);
                assert_eq!(found, Ok((wanted > 0).then_some(wanted)), "{most} {border}");
                assert!(asked <= 16);
            }
        }
        assert_eq!(largest(5, |_| Err(3)), Err(3));
    }
}
