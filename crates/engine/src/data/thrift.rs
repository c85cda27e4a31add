//! A walk through Thrift's compact encoding that allocates nothing.
//!
//! Parquet's headers are Thrift structs. A reader that believes their counts can be made to allocate
//! without bound; this walk checks first that every count is covered by the bytes that are there.
//! Source: the Apache Thrift compact protocol specification.

/// Deepest nesting of structs and lists.
const MAX_DEPTH: usize = 24;

/// What was wrong, in a few words.
pub(super) type Problem = &'static str;

/// A cursor over encoded bytes.
pub(super) struct Walker<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Wire types of the compact protocol.
mod wire {
    pub const TRUE: u8 = 1;
    pub const FALSE: u8 = 2;
    pub const I8: u8 = 3;
    pub const I16: u8 = 4;
    pub const I32: u8 = 5;
    pub const I64: u8 = 6;
    pub const DOUBLE: u8 = 7;
    pub const BINARY: u8 = 8;
    pub const LIST: u8 = 9;
    pub const SET: u8 = 10;
    pub const MAP: u8 = 11;
    pub const STRUCT: u8 = 12;
    pub const UUID: u8 = 13;
}

impl<'a> Walker<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Walker { bytes, at: 0 }
    }

    /// Bytes walked so far.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Walks one struct and calls `number` with the path of field ids and the value of every integer
    /// in it.
    pub(super) fn walk(&mut self, number: &mut dyn FnMut(&[i64], i64)) -> Result<(), Problem> {
        self.fields(&mut Vec::new(), number)
    }

    fn fields(&mut self, path: &mut Vec<i64>, number: &mut dyn FnMut(&[i64], i64)) -> Result<(), Problem> {
        if path.len() >= MAX_DEPTH {
            return Err("nested too deep");
        }
        let mut id = 0i64;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Ok(());
            }
            id = match head >> 4 {
                0 => self.zigzag()?,
                step => id + i64::from(step),
            };
            path.push(id);
            self.value(head & 15, false, path, number)?;
            path.pop();
        }
    }

    fn value(
        &mut self,
        kind: u8,
        in_list: bool,
        path: &mut Vec<i64>,
        number: &mut dyn FnMut(&[i64], i64),
    ) -> Result<(), Problem> {
        match kind {
            // In a struct the type is the value; in a list it is a byte.
            wire::TRUE | wire::FALSE if !in_list => Ok(()),
            wire::TRUE | wire::FALSE | wire::I8 => self.skip(1),
            wire::I16 | wire::I32 | wire::I64 => {
                let value = self.zigzag()?;
                number(path, value);
                Ok(())
            }
            wire::DOUBLE => self.skip(8),
            wire::UUID => self.skip(16),
            wire::BINARY => {
                let length = self.varint()?;
                self.skip(usize::try_from(length).map_err(|_| "a length past the end")?)
            }
            wire::LIST | wire::SET => {
                let head = self.byte()?;
                let count = match head >> 4 {
                    15 => self.varint()?,
                    count => u64::from(count),
                };
                self.covered(count)?;
                self.items(count, &[head & 15], path, number)
            }
            wire::MAP => {
                let count = self.varint()?;
                if count == 0 {
                    return Ok(());
                }
                let kinds = self.byte()?;
                self.covered(count)?;
                self.items(count, &[kinds >> 4, kinds & 15], path, number)
            }
            wire::STRUCT => self.fields(path, number),
            _ => Err("an unknown type"),
        }
    }

    fn items(
        &mut self,
        count: u64,
        kinds: &[u8],
        path: &mut Vec<i64>,
        number: &mut dyn FnMut(&[i64], i64),
    ) -> Result<(), Problem> {
        if path.len() >= MAX_DEPTH {
            return Err("nested too deep");
        }
        for i in 0..count {
            path.push(i as i64);
            for kind in kinds {
                self.value(*kind, true, path, number)?;
            }
            path.pop();
        }
        Ok(())
    }

    /// Every item takes a byte at least.
    fn covered(&self, count: u64) -> Result<(), Problem> {
        if count > (self.bytes.len() - self.at) as u64 { Err("a count past the end") } else { Ok(()) }
    }

    fn byte(&mut self) -> Result<u8, Problem> {
        let byte = *self.bytes.get(self.at).ok_or("cut off")?;
        self.at += 1;
        Ok(byte)
    }

    fn skip(&mut self, bytes: usize) -> Result<(), Problem> {
        if bytes > self.bytes.len() - self.at {
            return Err("a length past the end");
        }
        self.at += bytes;
        Ok(())
    }

    fn varint(&mut self) -> Result<u64, Problem> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number of more than 64 bits")
    }

    fn zigzag(&mut self) -> Result<i64, Problem> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbers(bytes: &[u8]) -> Result<Vec<(Vec<i64>, i64)>, Problem> {
        let mut found = Vec::new();
        Walker::new(bytes).walk(&mut |path, n| found.push((path.to_vec(), n)))?;
        Ok(found)
    }

    #[test]
    fn finds_integers_by_path() {
        // {1: i32 0, 2: i32 150, 5: {1: i32 -1}, 6: [i32 2, 3]}
        let bytes = [0x15, 0, 0x15, 0xAC, 2, 0x3C, 0x15, 1, 0, 0x19, 0x25, 4, 6, 0];
        let want = vec![(vec![1], 0), (vec![2], 150), (vec![5, 1], -1), (vec![6, 0], 2), (vec![6, 1], 3)];
        assert_eq!(numbers(&bytes), Ok(want));
    }

    #[test]
    fn refuses_counts_that_no_byte_covers() {
        assert_eq!(numbers(&[0x19, 0xFC, 0xFF, 0xFF, 0xFF, 0xFF, 7, 0]), Err("a count past the end"));
        assert_eq!(numbers(&[0x18, 0xFF, 0xFF, 3, 0]), Err("a length past the end"));
        assert_eq!(numbers(&[0x1C; 100]), Err("nested too deep"));
        assert_eq!(numbers(&[0x15]), Err("cut off"));
        assert_eq!(
            numbers(&[0x15, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255]),
            Err("a number of more than 64 bits")
        );
    }

    proptest! {
        #[test]
        fn ends_on_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut walker = Walker::new(&bytes);
            let _ = walker.walk(&mut |_, _| {});
            prop_assert!(walker.position() <= bytes.len());
        }
    }
}
