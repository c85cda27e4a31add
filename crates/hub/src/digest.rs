use sha2::Digest as _;

/// The hash by which the hub names a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Digest {
    /// Large files (LFS, Xet): SHA-256 of the bytes, 64 hexadecimal digits.
    Sha256(String),
    /// Small files: git's blob hash, SHA-1 of `blob <length>\0` and the bytes, 40 hexadecimal digits.
    Git(String),
}

impl Digest {
    /// Reads a hash, or an `ETag` that is one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix("W/").unwrap_or(text).trim_matches('"').to_ascii_lowercase();
        let hex = text.bytes().all(|b| b.is_ascii_hexdigit());
        match text.len() {
            64 if hex => Some(Self::Sha256(text)),
            40 if hex => Some(Self::Git(text)),
            _ => None,
        }
    }

    /// The digits; the name of the blob.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Sha256(name) | Self::Git(name) => name,
        }
    }

    /// A hasher of the same kind, for a file of `size` bytes.
    pub(crate) fn hasher(&self, size: u64) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::Sha256(sha2::Sha256::new()),
            Self::Git(_) => Hasher::Git(sha1::Sha1::new_with_prefix(format!("blob {size}\0"))),
        }
    }
}

/// A hash being computed.
pub(crate) enum Hasher {
    Sha256(sha2::Sha256),
    Git(sha1::Sha1),
}

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Git(hash) => hash.update(bytes),
        }
    }

    pub(crate) fn hex(&self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect();
        match self {
            Self::Sha256(hash) => hex(&hash.clone().finalize()),
            Self::Git(hash) => hex(&hash.clone().finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_agree_with_git_and_sha256sum() {
        // `printf hello | git hash-object --stdin`, `printf hello | sha256sum`.
        for wanted in [
            "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0",
            "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
        ] {
            let mut hasher = Digest::parse(wanted).unwrap().hasher(5);
            hasher.update(b"hel");
            hasher.update(b"lo");
            assert_eq!(hasher.hex(), wanted);
        }
    }

    #[test]
    fn etags_are_read_in_their_usual_forms() {
        let digits = "ab".repeat(20);
        for form in
            [digits.clone(), format!("\"{digits}\""), format!("W/\"{digits}\""), digits.to_uppercase()]
        {
            assert_eq!(Digest::parse(&form), Some(Digest::Git(digits.clone())));
        }
        for bad in ["", "\"\"", "\"../../x\"", "abc", &"g".repeat(40), &"a".repeat(41)] {
            assert_eq!(Digest::parse(bad), None);
        }
    }
}
