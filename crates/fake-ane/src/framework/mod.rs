//! The classes of the private framework, under its names.

mod changed;
mod client;
mod descriptor;
mod engine;
mod fault;
mod info;
mod instance;
mod model;
mod request;
mod statistics;
mod surface;

use std::sync::Once;

use objc2::ClassType;
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::{AnyObject, Bool};
use objc2_foundation::{NSDictionary, NSError, NSLocalizedDescriptionKey, NSString};

pub use changed::install_changed;
pub use engine::{compiles, loaded, most_at_once};
pub use fault::Fault;

use crate::{iosurface, runtime};

/// Registers the classes: what loading the framework does on a Mac. Once is enough.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        runtime::ready();
        autoreleasepool(|_| {
            iosurface::set_keys();
            iosurface::register();
            descriptor::Descriptor::class();
            model::InMemoryModel::class();
            model::Model::class();
            surface::SurfaceObject::class();
            request::Request::class();
            client::Client::class();
            statistics::Statistics::class();
            info::DeviceInfo::class();
            instance::Weight::class();
            instance::Procedure::class();
            instance::Parameters::class();
        });
    });
}

const DOMAIN: &str = "com.apple.appleneuralengine";
const COMPILER_DOMAIN: &str = "com.apple.appleneuralengine.compiler";

/// Why a call fails: what the `NSError` says, or nothing.
struct Failure(Option<(&'static str, isize, String)>);

impl Failure {
    fn new(domain: &'static str, code: isize, text: impl Into<String>) -> Self {
        Self(Some((domain, code, text.into())))
    }

    /// NO without an error.
    fn silent() -> Self {
        Self(None)
    }

    /// A failed evaluation with a status of the driver.
    fn status(status: u32, text: &str) -> Self {
        let text = format!(
            "ANEProgramProcessRequestDirect() Failed with status={status:#x} : statusType=0x9: {text}"
        );
        Self::new(DOMAIN, 8, text)
    }
}

/// Turns a result into BOOL and `NSError **`.
///
/// # Safety
/// `out` is null or takes an error.
unsafe fn answer(result: Result<(), Failure>, out: *mut *mut NSError) -> Bool {
    let Err(Failure(reason)) = result else { return Bool::YES };
    if let (Some((domain, code, text)), false) = (reason, out.is_null()) {
        // SAFETY: the key is a constant of Foundation.
        let key = unsafe { NSLocalizedDescriptionKey };
        let text: Retained<AnyObject> = NSString::from_str(&text).into();
        let info = NSDictionary::from_retained_objects(&[key], &[text]);
        // SAFETY: the dictionary has the types that the error wants.
        let error =
            unsafe { NSError::errorWithDomain_code_userInfo(&NSString::from_str(domain), code, Some(&info)) };
        // SAFETY: the caller's promise.
        unsafe { *out = Retained::autorelease_ptr(error) };
    }
    Bool::NO
}

/// Where programs' folders are made.
pub fn temporary_folder() -> std::path::PathBuf {
    autoreleasepool(|_| objc2_foundation::NSTemporaryDirectory().to_string().into())
}
