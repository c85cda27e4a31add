//! Questions about the Neural Engine that only hardware can settle, each a small program with a rule
//! that turns its numbers into a verdict.
//!
//! [`QUESTIONS`] lists them with the verdict that our model assumes; [`ask`] puts one to a device.
//! A device that is asked may hang or crash, so callers ask each question in a process of its own.
//! On the virtual device every verdict is the assumed one, which tests the questions.

mod arithmetic;
mod binding;
mod compiler;
mod limits;
mod rig;
mod weights;

use std::path::Path;

use mil::verify::Family;

use crate::apple::{self, AppleAne, Budget, Route};
use crate::bare::Bare;
use crate::chip::Chip;
use crate::error::{CompileError, RunError};
use crate::ledger::Entry;
use crate::measured::Measured;
use crate::surface::SurfaceError;
use crate::virtual_ane::{Settings, VirtualAne};
use mil::eval::Arithmetic;

/// What is asked, and what our model takes for granted.
pub struct Question {
    /// Its number, from 1; numbers stay.
    pub number: u8,
    /// What is not known.
    pub asks: &'static str,
    /// The program that decides, and how.
    pub decides: &'static str,
    /// Rules of `docs/ane-rules.md` that the answer supports or refutes.
    pub rules: &'static [&'static str],
    /// Where our model has what it assumes: a file of the repository, and a word in it.
    pub model: &'static [(&'static str, &'static str)],
    assumes: Assumes,
}

enum Assumes {
    Always(&'static str),
    /// What older and newer families do; the newer ones begin with the one named.
    From(Family, &'static str, &'static str),
}

impl Question {
    /// The verdict that our model has for a chip: what one gave where the model takes it over, else what
    /// its family is assumed to do.
    pub fn assumed(&self, chip: &Chip) -> &'static str {
        if let Some(verdict) = Measured::of(chip.name).and_then(|measured| measured.answer(self.number)) {
            return verdict;
        }
        match self.assumes {
            Assumes::Always(verdict) => verdict,
            Assumes::From(first, older, newer) => {
                if chip.family < first {
                    older
                } else {
                    newer
                }
            }
        }
    }

    /// The question of a number.
    pub fn find(number: u8) -> Option<&'static Question> {
        QUESTIONS.iter().find(|question| question.number == number)
    }
}

/// What a question came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// One of few phrases, to compare with [`Question::assumed`] and between machines.
    pub verdict: String,
    /// What was measured.
    pub detail: String,
    /// Results for all 65,536 fp16 inputs in the order of their bits, by operation, where they are
    /// not the evaluator's.
    pub tables: Vec<(&'static str, Vec<u16>)>,
}

impl Answer {
    fn new(verdict: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { verdict: verdict.into(), detail: detail.into(), tables: Vec::new() }
    }
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum LabError {
    #[error("the device did not open: {reason}")]
    Open { reason: String },
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Surface(#[from] SurfaceError),
    #[error("the files of the compiler are not to be read or removed")]
    Files(#[from] std::io::Error),
}

/// What is asked: opens devices.
pub trait Subject: Sync {
    /// Its devices.
    type Device: Bare;

    /// A device; hardware is reached without the daemon when `route` says so.
    ///
    /// # Errors
    /// [`LabError::Open`].
    fn open(&self, route: Route) -> Result<Self::Device, LabError>;

    /// Seconds of the dispatches of a program: of a clock where nothing real ran.
    fn seconds(&self, entry: &Entry) -> f64;

    /// Most bytes of surfaces to ask for.
    fn most_surface_bytes(&self) -> usize;
}

/// The hardware, with our own limits lifted.
pub struct Hardware;

impl Subject for Hardware {
    type Device = AppleAne;

    fn open(&self, route: Route) -> Result<AppleAne, LabError> {
        let lifted = apple::Settings {
            route,
            compile_budget: Budget::Unlimited,
            load_limit: u32::MAX,
            ..apple::Settings::default()
        };
        AppleAne::open(lifted).map_err(|error| LabError::Open { reason: error.to_string() })
    }

    fn seconds(&self, entry: &Entry) -> f64 {
        entry.real.as_secs_f64()
    }

    fn most_surface_bytes(&self) -> usize {
        4 << 30
    }
}

/// The virtual device of a chip, with its limits.
pub struct Virtual(pub &'static Chip);

impl Subject for Virtual {
    type Device = VirtualAne;

    fn open(&self, _: Route) -> Result<VirtualAne, LabError> {
        let settings = Settings { arithmetic: Arithmetic::Exact, ..Settings::of(self.0) };
        Ok(VirtualAne::new(settings))
    }

    fn seconds(&self, entry: &Entry) -> f64 {
        entry.predicted_s
    }

    fn most_surface_bytes(&self) -> usize {
        64 << 20
    }
}

use Assumes::{Always, From};

/// Every question.
pub const QUESTIONS: &[Question] = &[
    Question {
        number: 1,
        asks: "Do products of two runtime inputs use the fixed-point grid of constant weights?",
        decides: "a random product, compared bit by bit with the grid and with f32 sums",
        rules: &[],
        model: &[("crates/mil/src/eval/exact.rs", "GRID")],
        assumes: Always("grid"),
    },
    Question {
        number: 2,
        asks: "What becomes of a partial sum beyond 32768, and where does a total overflow?",
        decides: "20000 + 20000 − 20000 − 20000, and totals from 32753 to 32767",
        rules: &[],
        model: &[
            ("crates/mil/src/eval/round.rs", "MAC_LIMIT"),
            ("crates/mil/src/eval/exact.rs", "round_sum"),
        ],
        assumes: Always("partial sums pass, totals from 32768"),
    },
    Question {
        number: 3,
        asks: "Are fp16 subnormals kept?",
        decides: "2⁻²⁰ times 1 elementwise, and times 2¹⁰ in a product",
        rules: &[],
        model: &[
            ("crates/mil/src/eval/exact.rs", "FLUSH_EXPONENT"),
            ("crates/mil/src/eval/convert.rs", "widen"),
        ],
        assumes: Always("elementwise kept, operands kept"),
    },
    Question {
        number: 4,
        asks: "How do elementwise operations and casts round ties?",
        decides: "two ties per operation, one below an even number and one below an odd one; quotients are tied only \
                  below the smallest normal number",
        rules: &[],
        model: &[("crates/mil/src/eval/convert.rs", "narrow")],
        assumes: Always("add even, sub even, mul even, div even, cast even"),
    },
    Question {
        number: 5,
        asks: "Is the accumulator of reduce_sum wide?",
        decides: "4096 ones, and ones between 2048 and −2048",
        rules: &[],
        model: &[("crates/mil/src/ops/reduce.rs", "reduce_sum")],
        assumes: Always("wide"),
    },
    Question {
        number: 6,
        asks: "What do exp, sigmoid, tanh and softmax give?",
        decides: "all 65,536 inputs, softmax beside a zero, compared with the evaluator; tables are in the report",
        rules: &[],
        model: &[("crates/mil/src/eval/math.rs", "sigmoid")],
        assumes: Always("as computed"),
    },
    Question {
        number: 7,
        asks: "Is a 3×3 convolution a plain sum of products?",
        decides: "impulse and random weights, compared bit by bit with the grid",
        rules: &[],
        model: &[("crates/mil/src/ops/conv.rs", "conv")],
        assumes: Always("plain"),
    },
    Question {
        number: 8,
        asks: "How far apart are rows that are no multiple of 64 bytes?",
        decides: "rows of 4, 16 and 20 fp16 with a ramp over the whole memory",
        rules: &["pitch", "surface"],
        model: &[("crates/mil/src/types.rs", "ROW_ALIGN")],
        assumes: Always("64 bytes"),
    },
    Question {
        number: 9,
        asks: "Do inputs and outputs bind in byte order, upper case and digits included?",
        decides: "four inputs of different constants whose byte order is no other order, declared so and declared \
                  otherwise, bound by index; and the order that the compiler tells",
        rules: &["io-order"],
        model: &[
            ("crates/mil/src/verify/ane.rs", "io_order"),
            ("crates/ane-bridge/src/virtual_ane/bare.rs", "sorted"),
        ],
        assumes: Always("byte order, also when declared otherwise, and told so"),
    },
    Question {
        number: 10,
        asks: "Must surfaces of a program have equal sizes?",
        decides: "four inputs and outputs of four sizes",
        rules: &["surface"],
        model: &[("crates/mil/src/verify/ane.rs", "fn surface")],
        assumes: Always("no"),
    },
    Question {
        number: 11,
        asks: "Which concat does the compiler take?",
        decides: "two and three inputs along channels, height and width",
        rules: &["contested"],
        model: &[("crates/mil/src/ops/shape.rs", "concat")],
        assumes: Always("all"),
    },
    Question {
        number: 12,
        asks: "Does the fused attention honour its mask?",
        decides: "inputs bound by sorted names, compared with the result with and without a mask",
        rules: &["contested"],
        model: &[("crates/mil/src/ops/attention.rs", "attn_mask")],
        assumes: Always("honoured"),
    },
    Question {
        number: 13,
        asks: "How many compiles does a process have, and do repeats count?",
        decides: "one program up to 200 times; when that works, up to 200 programs, one after the other",
        rules: &["compile-budget"],
        model: &[
            ("crates/ane-bridge/src/virtual_ane/mod.rs", "compile_budget: Some"),
            ("crates/ane-bridge/src/apple/settings.rs", "fn of"),
        ],
        assumes: Always("119, repeats count"),
    },
    Question {
        number: 14,
        asks: "Does a weight file that is replaced between unload and load count?",
        decides: "the compiled weight is 2, the file's afterwards 3",
        rules: &[],
        model: &[("crates/ane-bridge/src/virtual_ane/bare.rs", "fn reload")],
        assumes: Always("frozen"),
    },
    Question {
        number: 15,
        asks: "What does the offset in the dictionary of weight files mean?",
        decides: "0, 64 and 128 for a file of two records, of which the program names the first",
        rules: &["blob"],
        model: &[("crates/ane-bridge/src/virtual_ane/bare.rs", "_offset")],
        assumes: Always("ignored"),
    },
    Question {
        number: 16,
        asks: "Which operation sets does the compiler take?",
        decides: "one program under ios16, ios17 and ios18",
        rules: &["version"],
        model: &[("crates/mil/src/verify/ane.rs", "\"version\"")],
        assumes: Always("ios16 ios17 ios18"),
    },
    Question {
        number: 17,
        asks: "May arguments be written in place, fp16 tensors as text, and comments be there?",
        decides: "a permutation in the call, a tensor of numbers that is multiplied, a line of comment",
        rules: &["inline", "literal"],
        model: &[
            ("crates/mil/src/verify/ane.rs", "\"literal\""),
            ("crates/mil/src/verify/ane.rs", "\"inline\""),
        ],
        assumes: Always("in place yes, literal no, comment yes"),
    },
    Question {
        number: 18,
        asks: "Is evaluation without the daemon exact and safe from two threads?",
        decides: "200 evaluations each from two threads, compared with the daemon's",
        rules: &[],
        model: &[("crates/ane-bridge/src/apple/settings.rs", "enum Route")],
        assumes: Always("same"),
    },
    Question {
        number: 19,
        asks: "Does a slice from inside the last axis lose magnitudes above 4094?",
        decides: "5000, sliced from column 64 on",
        rules: &["slice-clamp"],
        model: &[("crates/mil/src/eval/compile.rs", "clamps")],
        assumes: From(Family::M3, "clamped", "kept"),
    },
    Question {
        number: 20,
        asks: "Is the memory of a new surface zero, and are surfaces refused while memory is free?",
        decides: "all elements of a new surface; surfaces of 16 MiB up to a limit, and how many small ones follow",
        rules: &[],
        model: &[
            ("crates/ane-bridge/src/virtual_ane/bare.rs", "fn fresh"),
            ("crates/ane-bridge/src/apple/iosurface.rs", "fill(0.0)"),
        ],
        assumes: Always("zero, granted"),
    },
    Question {
        number: 21,
        asks: "Why are 5120 channels slow?",
        decides: "time per operation at 4096 and 5120 channels, with equal weights",
        rules: &["slow-channels"],
        model: &[
            ("crates/mil/src/verify/ane.rs", "\"slow-channels\""),
            ("crates/ane-bridge/src/clock.rs", "fn dispatch_s"),
        ],
        assumes: Always("not slower"),
    },
    Question {
        number: 22,
        asks: "Can a loaded program get other weights by a new instance?",
        decides: "`_ANEWeight` with the name of a constant and a file that holds 3 instead of 2",
        rules: &[],
        model: &[("crates/ane-bridge/src/virtual_ane/bare.rs", "fn new_instance")],
        assumes: Always("refused"),
    },
    Question {
        number: 23,
        asks: "Must the compiler's folder outlive the load?",
        decides: "the folder is removed between load and evaluation",
        rules: &[],
        model: &[("crates/ane-bridge/src/apple/folder.rs", "impl Drop for Folder")],
        assumes: Always("no"),
    },
    Question {
        number: 24,
        asks: "How many programs may a process have loaded?",
        decides: "programs that stay loaded, up to 300",
        rules: &["load-budget"],
        model: &[
            ("crates/ane-bridge/src/virtual_ane/mod.rs", "load_limit: 110"),
            ("crates/ane-bridge/src/apple/settings.rs", "load_limit: 110"),
        ],
        assumes: Always("110"),
    },
];

/// Puts a question. `temporary` is the folder below which the system keeps the compiler's files.
///
/// # Errors
/// [`LabError`] when the device fails where the question does not expect it.
///
/// # Panics
/// When [`QUESTIONS`] does not list the number.
pub fn ask<S: Subject>(subject: &S, number: u8, temporary: &Path) -> Result<Answer, LabError> {
    match number {
        1 => arithmetic::grid(subject),
        2 => arithmetic::overflow(subject),
        3 => arithmetic::subnormals(subject),
        4 => arithmetic::ties(subject),
        5 => arithmetic::reduction(subject),
        6 => arithmetic::functions(subject),
        7 => arithmetic::convolution(subject),
        8 => binding::pitch(subject),
        9 => binding::order(subject),
        10 => binding::sizes(subject),
        11 => compiler::concat(subject),
        12 => compiler::mask(subject),
        13 => limits::compiles(subject),
        14 => weights::reload(subject),
        15 => weights::offset(subject),
        16 => compiler::opsets(subject),
        17 => compiler::texts(subject),
        18 => limits::threads(subject),
        19 => arithmetic::clamp(subject),
        20 => limits::surfaces(subject),
        21 => limits::channels(subject),
        22 => weights::instance(subject),
        23 => binding::folder(subject, temporary),
        24 => limits::loads(subject),
        _ => panic!("question {number} is not in the list"),
    }
}
