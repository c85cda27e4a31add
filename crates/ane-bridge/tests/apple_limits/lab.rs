//! The lab's questions below `Device`, put to the fake framework: the bridge's own calls answer.

use ane_bridge::apple::{Route, Settings};
use ane_bridge::lab::{LabError, Question, Subject, ask};
use ane_bridge::{AppleAne, Chip, Entry};

use crate::alone;
use crate::support::settings;

struct Fake;

impl Subject for Fake {
    type Device = AppleAne;

    fn open(&self, route: Route) -> Result<AppleAne, LabError> {
        fake_ane::install();
        let settings = Settings { route, ..settings() };
        AppleAne::open(settings).map_err(|error| LabError::Open { reason: error.to_string() })
    }

    fn seconds(&self, entry: &Entry) -> f64 {
        entry.predicted_s
    }

    fn most_surface_bytes(&self) -> usize {
        64 << 20
    }
}

#[test]
fn the_bridges_own_calls_answer() {
    let _alone = alone();
    let temporary = fake_ane::temporary_folder();
    let before = fake_ane::live();
    for number in [4, 8, 9, 14, 15, 17, 18, 22, 23] {
        let question = Question::find(number).unwrap();
        let answer = ask(&Fake, number, &temporary).unwrap();
        assert_eq!(answer.verdict, question.assumed(Chip::M4_MAX), "{number}: {}", answer.detail);
        if number == 22 {
            for said in ["loadModelNewInstance:options:modelInstParams:qos:error:", "no instance is made"] {
                assert!(answer.detail.contains(said), "{}", answer.detail);
            }
        }
    }
    // Memory is NaN there, so that whoever relies on zeros is seen.
    assert_eq!(ask(&Fake, 20, &temporary).unwrap().verdict, "not zero, granted");
    assert_eq!((fake_ane::live(), fake_ane::loaded()), (before, 0), "the lab left something");
}
