//! Faults of the virtual Neural Engine, for tests of what follows them.

use ane_bridge::{Faults, SlowDown};

/// Faults of the virtual device, which only tests ask for.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Injected {
    pub budget: Option<u32>,
    fail_at: Option<u64>,
    slow_after: Option<u64>,
    pub care_factor: Option<f64>,
}

impl Injected {
    /// Nothing, unless the build has fail points and `device::faults` is set to a line of TOML.
    pub fn now() -> Self {
        fail::fail_point!("device::faults", |text| {
            let text = text.unwrap_or_default().replace(' ', "\n");
            toml::from_str(&text).expect("the test writes the faults as TOML")
        });
        Self::default()
    }

    pub fn faults(&self) -> Faults {
        Faults {
            evaluate_fails_at: self.fail_at,
            slow_down: self.slow_after.map(|after| SlowDown { after, factor: 30.0 }),
            ..Faults::default()
        }
    }
}
