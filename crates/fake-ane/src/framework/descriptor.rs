//! `_ANEInMemoryModelDescriptor`: a program's text and weight files.

use std::hash::{DefaultHasher, Hash, Hasher};

use mil::{Program, Weights};
use objc2::rc::{Allocated, Retained};
use objc2::runtime::{AnyObject, NSObject};
use objc2::{AnyThread, define_class, msg_send};
use objc2_foundation::{NSData, NSDictionary, NSNumber, NSObjectProtocol, NSString};

use super::fault::Fault;
use crate::live::Counted;

/// What a descriptor describes.
#[derive(Clone)]
pub(super) struct Described {
    pub text: Vec<u8>,
    pub program: Program,
    pub weights: Weights,
    pub fault: Option<Fault>,
}

impl Described {
    /// Names the folder; follows from text and weights.
    pub fn identifier(&self) -> String {
        let half = |salt: u8| {
            let mut hash = DefaultHasher::new();
            (salt, &self.text).hash(&mut hash);
            self.weights.files().for_each(|file| file.hash(&mut hash));
            hash.finish()
        };
        format!("{:016X}{:016X}", half(0), half(1))
    }
}

pub(super) struct Ivars {
    pub described: Described,
    _counted: Counted,
}

define_class!(
    // SAFETY: NSObject asks nothing of subclasses.
    #[unsafe(super(NSObject))]
    #[name = "_ANEInMemoryModelDescriptor"]
    #[ivars = Ivars]
    pub(super) struct Descriptor;

    // SAFETY: NSObject's methods are inherited.
    unsafe impl NSObjectProtocol for Descriptor {}

    impl Descriptor {
        // SAFETY: the types are those of the table of the bridge.
        #[unsafe(method_id(modelWithMILText:weights:optionsPlist:))]
        fn with_text(
            text: Option<&NSObject>,
            weights: Option<&NSDictionary<NSString, AnyObject>>,
            _options: Option<&NSData>,
        ) -> Option<Retained<Self>> {
            Self::make(text, weights)
        }
    }
);

impl Descriptor {
    fn make(
        text: Option<&NSObject>,
        weights: Option<&NSDictionary<NSString, AnyObject>>,
    ) -> Option<Retained<Self>> {
        // Text as a string, and nil for no weights, crash or fail silently on a Mac.
        let text = text?.downcast_ref::<NSData>()?.to_vec();
        let weights = files(weights?)?;
        let program = mil::parse(std::str::from_utf8(&text).ok()?).ok()?;
        let fault = Fault::of(&program);
        if fault == Some(Fault::Describe) {
            return None;
        }
        let described = Described { text, program, weights, fault };
        let this: Allocated<Self> = Self::alloc();
        let this = this.set_ivars(Ivars { described, _counted: Counted::new() });
        // SAFETY: NSObject's designated initialiser.
        Some(unsafe { msg_send![super(this), init] })
    }
}

/// `{path: {"offset": number, "data": bytes}}`.
fn files(dictionary: &NSDictionary<NSString, AnyObject>) -> Option<Weights> {
    let mut files = Weights::new();
    for path in dictionary.allKeys() {
        let entry = dictionary.objectForKey(&path)?.downcast::<NSDictionary>().ok()?;
        let get = |key: &str| entry.objectForKey(&NSString::from_str(key));
        get("offset")?.downcast::<NSNumber>().ok()?;
        let data = get("data")?.downcast::<NSData>().ok()?;
        files.insert(path.to_string(), data.to_vec());
    }
    Some(files)
}
