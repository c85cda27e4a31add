//! Every Objective-C call that the bridge makes into the private framework and into Metal: class, selector,
//! types, source, and since which macOS it was seen.
//!
//! Calls go through a row ([`Method`]), so a selector or type that is not in this table cannot be sent;
//! [`check`] compares the rows with the framework of the machine before the first call. Encodings are
//! Objective-C's, without frame offsets: `@` object, `:` selector, `B` BOOL, `I` u32, `Q` u64,
//! `^@` NSError**, `@?` block. Nobody documents the framework's calls: each row names who uses it on
//! hardware. Metal's are public, and its rows name the header.

use std::ffi::{CStr, c_void};
use std::fmt;
use std::marker::PhantomData;
use std::sync::OnceLock;

use block2::Block;
use objc2::encode::{EncodeArguments, EncodeReturn, Encoding, RefEncode};
use objc2::runtime::{AnyClass, AnyObject, Bool, Sel};
use objc2_foundation::NSError;

use super::error::Mismatch;

/// Any object, borrowed or autoreleased.
pub type Id = *mut AnyObject;
/// Where a call leaves its error.
pub type ErrorOut = *mut *mut NSError;

/// What Metal calls when it is done with bytes that are not its own: address, length.
pub type Deallocator = *mut Block<dyn Fn(*mut c_void, usize)>;

/// What `IOSurfaceRef` points to.
#[repr(C)]
pub struct IOSurface {
    opaque: [u8; 0],
}

// SAFETY: an `IOSurfaceRef` is a pointer to the C struct `__IOSurface`, whose fields are hidden.
unsafe impl RefEncode for IOSurface {
    const ENCODING_REF: Encoding = Encoding::Pointer(&Encoding::Struct("__IOSurface", &[]));
}

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The class: `+`.
    Class,
    /// An instance: `-`.
    Instance,
}

/// Whether the bridge works without a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing runs without it.
    Always,
    /// [`super::Route::Direct`] needs it.
    Direct,
    /// Statistics need it.
    Statistics,
    /// Something is checked more thoroughly with it.
    Extra,
    /// A question of the lab is put with it.
    Lab,
}

/// One call, as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The class.
    pub class: &'static CStr,
    /// Whom the message is for.
    pub kind: Kind,
    /// The selector.
    pub selector: &'static CStr,
    /// Types of result, receiver, selector and arguments.
    pub encoding: &'static str,
    /// What needs it.
    pub need: Need,
    /// The oldest macOS on which a source ran it.
    pub since: &'static str,
    /// Who calls it.
    pub source: &'static str,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.kind {
            Kind::Class => '+',
            Kind::Instance => '-',
        };
        write!(f, "{sign}[{} {}]", self.class.to_string_lossy(), self.selector.to_string_lossy())
    }
}

/// A row with the Rust types of its arguments and its result.
pub struct Method<A, R> {
    /// The row.
    pub row: Row,
    selector: OnceLock<Sel>,
    types: PhantomData<fn(A) -> R>,
}

impl<A: EncodeArguments, R: EncodeReturn> Method<A, R> {
    const fn new(row: Row) -> Self {
        Self { row, selector: OnceLock::new(), types: PhantomData }
    }

    /// The registered selector.
    pub(super) fn selector(&self) -> Sel {
        *self.selector.get_or_init(|| Sel::register(self.row.selector))
    }

    /// The encoding that the Rust types have.
    fn typed(&self) -> String {
        let arguments: String = A::ENCODINGS.iter().map(ToString::to_string).collect();
        normal(&format!("{}@:{arguments}", R::ENCODING_RETURN))
    }
}

macro_rules! methods {
    ($rows:ident, $typed:ident; $($(#[$doc:meta])* $name:ident: $kind:ident $class:literal $selector:literal
        ($($argument:ty),*) -> $result:ty, $encoding:literal, $need:ident, $since:literal, $source:literal;)*) => {
        $($(#[$doc])* pub static $name: Method<($($argument,)*), $result> = Method::new(Row {
            class: $class,
            kind: Kind::$kind,
            selector: $selector,
            encoding: $encoding,
            need: Need::$need,
            since: $since,
            source: $source,
        });)*

        /// Every row, in order.
        pub static $rows: &[&Row] = &[$(&$name.row),*];

        /// Every row, with the encoding that its Rust types have.
        pub fn $typed() -> Vec<(&'static Row, String)> {
            vec![$((&$name.row, $name.typed())),*]
        }
    };
}

methods! {
    ROWS, typed;
    /// Descriptor of a program: UTF-8 text, weight files by path, options or nil. Autoreleased; nil when refused.
    DESCRIBE: Class c"_ANEInMemoryModelDescriptor" c"modelWithMILText:weights:optionsPlist:"
        (Id, Id, Id) -> Id, "@@:@@@", Always, "15.0", "maderix/ANE, bridge/ane_bridge.m";
    /// Model of a descriptor. Autoreleased; nil when refused.
    MODEL: Class c"_ANEInMemoryModel" c"inMemoryModelWithDescriptor:"
        (Id) -> Id, "@@:@", Always, "15.0", "maderix/ANE, bridge/ane_bridge.m";
    /// Name of the model's folder below the temporary one; follows from text and weights.
    IDENTIFIER: Instance c"_ANEInMemoryModel" c"hexStringIdentifier"
        () -> Id, "@@:", Always, "15.0", "maderix/ANE, bridge/ane_bridge.m";
    /// Compiles the files in the model's folder. Counts against the process's budget.
    COMPILE: Instance c"_ANEInMemoryModel" c"compileWithQoS:options:error:"
        (u32, Id, ErrorOut) -> Bool, "B@:I@^@", Always, "15.0", "maderix/ANE, bridge/ane_bridge.m";
    /// Loads what was compiled.
    LOAD: Instance c"_ANEInMemoryModel" c"loadWithQoS:options:error:"
        (u32, Id, ErrorOut) -> Bool, "B@:I@^@", Always, "15.0", "maderix/ANE, bridge/ane_bridge.m";
    /// Evaluates a request through the daemon, and waits.
    EVALUATE: Instance c"_ANEInMemoryModel" c"evaluateWithQoS:options:request:error:"
        (u32, Id, Id, ErrorOut) -> Bool, "B@:I@@^@", Always, "15.0", "maderix/ANE, bridge/ane_bridge.m";
    /// Unloads.
    UNLOAD: Instance c"_ANEInMemoryModel" c"unloadWithQoS:error:"
        (u32, ErrorOut) -> Bool, "B@:I^@", Always, "15.0", "maderix/ANE, bridge/ane_bridge.m";
    /// What the compiler made of inputs and outputs: names in binding order, strides.
    ATTRIBUTES: Instance c"_ANEInMemoryModel" c"modelAttributes"
        () -> Id, "@@:", Extra, "15.4", "jafreck/ironmill, ane-runtime-behavior 7";
    /// The model as the client knows it.
    INNER: Instance c"_ANEInMemoryModel" c"model"
        () -> Id, "@@:", Direct, "26.3", "thebasedcapital/ane-infer, docs/ane-internals.md";
    /// Which statistics are collected. No source says what the bits mean; the bridge sets all of them, a guess.
    STATISTICS_MASK: Instance c"_ANEInMemoryModel" c"setPerfStatsMask:"
        (u32) -> (), "v@:I", Statistics, "26.3", "thebasedcapital/ane-infer, docs/ane-internals.md; the mask is our guess";
    /// Wraps an IOSurface, which it retains.
    WRAP: Class c"_ANEIOSurfaceObject" c"objectWithIOSurface:"
        (*mut IOSurface) -> Id, "@@:^{__IOSurface=}", Always, "15.0", "computer-graphics-tools/ane";
    /// A request: wrapped surfaces with their symbol indices, weights buffer, statistics, procedure.
    REQUEST: Class c"_ANERequest"
        c"requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:procedureIndex:"
        (Id, Id, Id, Id, Id, Id, Id) -> Id, "@@:@@@@@@@", Always, "15.0", "maderix/ANE, bridge/ane_bridge.m";
    /// This process's connection to the daemon.
    CLIENT: Class c"_ANEClient" c"sharedConnection"
        () -> Id, "@@:", Direct, "15.0", "ncdrone/ane, crates/ane/src";
    /// Evaluates without the daemon, and waits. The request stands before the priority.
    EVALUATE_DIRECT: Instance c"_ANEClient" c"doEvaluateDirectWithModel:options:request:qos:error:"
        (Id, Id, Id, u32, ErrorOut) -> Bool, "B@:@@@I^@", Direct, "26.0", "thebasedcapital/ane-infer; ncdrone/ane";
    /// A place for statistics, with a first value of the time.
    STATISTICS: Class c"_ANEPerformanceStats" c"statsWithHardwareExecutionNS:"
        (u64) -> Id, "@@:Q", Statistics, "26.3", "maderix/ANE, training/m5result.md";
    /// Time of the last evaluation in nanoseconds, by the hardware. Zero was read through the daemon.
    HARDWARE_TIME: Instance c"_ANEPerformanceStats" c"hwExecutionTime"
        () -> u64, "Q@:", Statistics, "26.3", "maderix/ANE, training/m5result.md";
    /// A constant by its name in the program, and the file that it comes from. Autoreleased.
    WEIGHT: Class c"_ANEWeight" c"weightWithSymbolAndURL:weightURL:"
        (Id, Id) -> Id, "@@:@@", Lab, "15.4", "jafreck/ironmill, ironmill-ane-sys";
    /// A function by its name, and its constants. Autoreleased.
    PROCEDURE: Class c"_ANEProcedureData" c"procedureDataWithSymbol:weightArray:"
        (Id, Id) -> Id, "@@:@@", Lab, "15.4", "jafreck/ironmill, ironmill-ane-sys";
    /// A name and functions of an instance. Autoreleased.
    INSTANCE: Class c"_ANEModelInstanceParameters" c"withProcedureData:procedureArray:"
        (Id, Id) -> Id, "@@:@@", Lab, "15.4", "jafreck/ironmill, ironmill-ane-sys";
    /// Loads another instance of a loaded model: model, options, parameters, priority.
    NEW_INSTANCE: Instance c"_ANEClient" c"loadModelNewInstance:options:modelInstParams:qos:error:"
        (Id, Id, Id, u32, ErrorOut) -> Bool, "B@:@@@I^@", Lab, "15.4", "jafreck/ironmill, ironmill-ane-sys";
    /// Whether this machine has an engine.
    HAS_ENGINE: Class c"_ANEDeviceInfo" c"hasANE"
        () -> Bool, "B@:", Extra, "15.4", "jafreck/ironmill, ironmill-ane-sys";
}

methods! {
    METAL_ROWS, metal_typed;
    /// Bytes that the GPU may keep resident without losing speed.
    WORKING_SET: Instance c"MTLDevice" c"recommendedMaxWorkingSetSize"
        () -> u64, "Q@:", Extra, "10.12", "Metal/MTLDevice.h";
    /// A buffer of bytes where they lie: address, length, options, what to call at its end. The caller owns
    /// the result.
    NO_COPY: Instance c"MTLDevice" c"newBufferWithBytesNoCopy:length:options:deallocator:"
        (*mut c_void, usize, usize, Deallocator) -> Id, "@@:^vQQ@?", Extra, "10.11", "Metal/MTLDevice.h";
    /// Where a buffer's bytes are.
    CONTENTS: Instance c"MTLBuffer" c"contents"
        () -> *mut c_void, "^v@:", Extra, "10.11", "Metal/MTLBuffer.h";
    /// How many there are.
    LENGTH: Instance c"MTLBuffer" c"length"
        () -> usize, "Q@:", Extra, "10.11", "Metal/MTLResource.h";
}

/// Compares a row with the classes that are loaded.
///
/// # Errors
/// [`Mismatch`] when class or selector is not there, or has other types.
pub fn check(row: &'static Row) -> Result<(), Mismatch> {
    let class = || row.class.to_str().unwrap_or_default();
    check_in(row, AnyClass::get(row.class).ok_or(Mismatch::Class { class: class() })?)
}

/// Compares a row with a class: of an object whose class has another name than the row's, which is a
/// protocol's.
///
/// # Errors
/// [`Mismatch`] when the selector is not there, or has other types.
pub fn check_in(row: &Row, found: &AnyClass) -> Result<(), Mismatch> {
    let selector = Sel::register(row.selector);
    let method = match row.kind {
        Kind::Class => found.class_method(selector),
        Kind::Instance => found.instance_method(selector),
    };
    let method = method.ok_or_else(|| Mismatch::Selector { method: row.to_string() })?;
    // SAFETY: the method was just found, and classes are not unloaded.
    let types = unsafe { objc2::ffi::method_getTypeEncoding(method) };
    let types = if types.is_null() {
        String::new()
    } else {
        // SAFETY: the runtime returns a C string that lives as long as the method.
        unsafe { CStr::from_ptr(types) }.to_string_lossy().into_owned()
    };
    let types = normal(&types);
    if types == row.encoding {
        return Ok(());
    }
    Err(Mismatch::Encoding { method: row.to_string(), found: types, wanted: row.encoding })
}

/// An encoding without frame offsets and qualifiers, and with `B` for whatever BOOL is on this system.
fn normal(encoding: &str) -> String {
    let bool_here = Bool::ENCODING_RETURN.to_string();
    let mut depth = 0usize;
    // Some compilers add a block's own types: `@?<v@?^vQ>`.
    let mut block = 0usize;
    let kept = encoding.chars().filter(|c| {
        match c {
            '{' | '(' => depth += 1,
            '}' | ')' => depth = depth.saturating_sub(1),
            '<' if depth == 0 => block += 1,
            '>' if depth == 0 => {
                block = block.saturating_sub(1);
                return false;
            }
            _ => {}
        }
        block == 0 && (depth > 0 || !(c.is_ascii_digit() || "rnNoORV".contains(*c)))
    });
    let kept: String = kept.collect();
    // Only results are BOOL in this table.
    match kept.strip_prefix(&bool_here) {
        Some(rest) => format!("B{rest}"),
        None => kept,
    }
}

/// Whether a pointer is one that C functions take; a check at compile time that the type is thin.
const _: () = assert!(size_of::<*mut IOSurface>() == size_of::<*mut c_void>());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_types_are_those_of_the_text() {
        for (row, typed) in typed().into_iter().chain(metal_typed()) {
            assert_eq!(typed, row.encoding, "{row}");
        }
    }

    #[test]
    fn selectors_take_as_many_arguments_as_their_types() {
        for row in ROWS.iter().chain(METAL_ROWS) {
            let colons = row.selector.to_bytes().iter().filter(|&&b| b == b':').count();
            let arguments = row.encoding.split_once("@:").expect("receiver and selector").1;
            let structs = arguments.replace("^{__IOSurface=}", "^").replace("^@", "^");
            let structs = structs.replace("^v", "^").replace("@?", "@");
            assert_eq!(colons, structs.len(), "{row}");
        }
    }

    #[test]
    fn frame_offsets_and_qualifiers_do_not_matter() {
        assert_eq!(normal("@40@0:8@16r^{__IOSurface=}24Vv32"), "@@:@^{__IOSurface=}v");
        assert_eq!(normal("B44@0:8I16@20@28o^@36"), "B@:I@@^@");
        assert_eq!(normal(&format!("{}24@0:8Q16", Bool::ENCODING_RETURN)), "B@:Q");
        assert_eq!(normal("v20@0:8{a1=I}16"), "v@:{a1=I}");
        assert_eq!(normal("@48@0:8^v16Q24Q32@?<v@?^vQ>40"), "@@:^vQQ@?");
    }
}
