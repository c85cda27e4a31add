//! `_ANEPerformanceStats`: how long the hardware took.

use std::sync::atomic::{AtomicU64, Ordering};

use objc2::rc::{Allocated, Retained};
use objc2::runtime::NSObject;
use objc2::{AnyThread, DefinedClass, define_class, msg_send};
use objc2_foundation::NSObjectProtocol;

use crate::live::Counted;

pub(super) struct Ivars {
    ns: AtomicU64,
    _counted: Counted,
}

define_class!(
    // SAFETY: NSObject asks nothing of subclasses.
    #[unsafe(super(NSObject))]
    #[name = "_ANEPerformanceStats"]
    #[ivars = Ivars]
    pub(super) struct Statistics;

    // SAFETY: NSObject's methods are inherited.
    unsafe impl NSObjectProtocol for Statistics {}

    // SAFETY of the methods: the types are those of the table of the bridge.
    impl Statistics {
        #[unsafe(method_id(statsWithHardwareExecutionNS:))]
        fn with(ns: u64) -> Retained<Self> {
            let this: Allocated<Self> = Self::alloc();
            let this = this.set_ivars(Ivars { ns: ns.into(), _counted: Counted::new() });
            // SAFETY: NSObject's designated initialiser.
            unsafe { msg_send![super(this), init] }
        }

        #[unsafe(method(hwExecutionTime))]
        fn time(&self) -> u64 {
            self.ivars().ns.load(Ordering::SeqCst)
        }
    }
);

impl Statistics {
    pub fn set(&self, ns: u64) {
        self.ivars().ns.store(ns, Ordering::SeqCst);
    }
}
