//! The presets of `configs/`, inside the binary.

/// A named start for a [`crate::RunConfig`].
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Name on the command line.
    pub name: &'static str,
    /// The file, TOML.
    pub text: &'static str,
}

macro_rules! presets {
    ($($name:literal),* $(,)?) => {
        &[$(Preset { name: $name, text: include_str!(concat!("../../../configs/", $name, ".toml")) }),*]
    };
}

/// All of them, small to large.
pub const PRESETS: &[Preset] = presets![
    "tiny",
    "15m",
    "48m",
    "gpt-karpathy",
    "110m",
    "600m-a",
    "600m-b",
    "600m-c",
    "600m-d",
    "600m-e",
    "1b-a",
    "1b-b",
    "1b-c",
    "1b-d",
    "1b-e",
    "1.5b-a",
    "1.5b-b",
    "1.5b-c",
    "1.5b-d",
    "1.5b-e",
    "3b-a",
    "3b-b",
    "3b-c",
    "3b-d",
    "3b-e",
    "5b-a",
    "5b-b",
    "5b-c",
    "5b-d",
    "5b-e",
    "7b",
    "10b",
    "13b",
    "15b",
    "20b",
    "25b",
    "30b",
];

impl Preset {
    /// The preset of that name.
    pub fn find(name: &str) -> Option<&'static Preset> {
        PRESETS.iter().find(|p| p.name == name)
    }

    /// Its first line: what it is.
    pub fn title(&self) -> &'static str {
        self.text.lines().next().unwrap_or_default().trim_start_matches('#').trim()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RunConfig;

    #[test]
    fn every_file_of_configs_is_a_valid_preset() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        files.sort();
        let mut names: Vec<_> = PRESETS.iter().map(|p| p.name.to_owned()).collect();
        names.sort();
        assert_eq!(files, names);
        for preset in PRESETS {
            let config: RunConfig =
                toml::from_str(preset.text).unwrap_or_else(|e| panic!("{}: {e}", preset.name));
            config.validate().unwrap_or_else(|e| panic!("{}: {e}", preset.name));
            assert!(preset.title().len() > 10, "{}: no title", preset.name);
        }
    }

    #[test]
    fn sizes_are_as_their_names_say() {
        let millions = |name: &str| {
            let config: RunConfig = toml::from_str(Preset::find(name).unwrap().text).unwrap();
            config.model.param_count() / 1_000_000
        };
        // The published parameter counts of the original project's shapes.
        for (name, wanted) in [("tiny", 2), ("15m", 15), ("48m", 48), ("110m", 109), ("gpt-karpathy", 48)] {
            assert_eq!(millions(name), wanted, "{name}");
        }
        for (name, wanted) in
            [("600m-a", 578), ("1b-c", 1292), ("1.5b-d", 1887), ("3b-a", 3193), ("5b-e", 5008)]
        {
            assert_eq!(millions(name), wanted, "{name}");
        }
        for (name, wanted) in [("7b", 6509), ("13b", 12730), ("20b", 20343), ("30b", 29042)] {
            assert_eq!(millions(name), wanted, "{name}");
        }
    }
}
