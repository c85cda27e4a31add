//! `_ANEWeight`, `_ANEProcedureData`, `_ANEModelInstanceParameters`: what a new instance of a model would
//! be made of. They can be made; no instance ever was (see the client).

use objc2::rc::{Allocated, Retained};
use objc2::runtime::{AnyObject, NSObject};
use objc2::{AnyThread, define_class, msg_send};
use objc2_foundation::{NSArray, NSObjectProtocol, NSString, NSURL};

use crate::live::Counted;

macro_rules! parts {
    ($($class:ident $name:literal $selector:ident : $second:ident : ($first_type:ty, $second_type:ty);)*) => {
        $(define_class!(
            // SAFETY: NSObject asks nothing of subclasses.
            #[unsafe(super(NSObject))]
            #[name = $name]
            #[ivars = Counted]
            pub(super) struct $class;

            // SAFETY: NSObject's methods are inherited.
            unsafe impl NSObjectProtocol for $class {}

            impl $class {
                // SAFETY: the types are those of the table of the bridge.
                #[unsafe(method_id($selector:$second:))]
                fn with(first: Option<&$first_type>, second: Option<&$second_type>) -> Option<Retained<Self>> {
                    if first.is_some() && second.is_some() { Self::make() } else { None }
                }
            }
        );

        impl $class {
            fn make() -> Option<Retained<Self>> {
                let this: Allocated<Self> = Self::alloc();
                let this = this.set_ivars(Counted::new());
                // SAFETY: NSObject's designated initialiser.
                Some(unsafe { msg_send![super(this), init] })
            }
        })*
    };
}

parts! {
    Weight "_ANEWeight" weightWithSymbolAndURL:weightURL: (NSString, NSURL);
    Procedure "_ANEProcedureData" procedureDataWithSymbol:weightArray: (NSString, NSArray<AnyObject>);
    Parameters "_ANEModelInstanceParameters" withProcedureData:procedureArray: (NSString, NSArray<AnyObject>);
}
