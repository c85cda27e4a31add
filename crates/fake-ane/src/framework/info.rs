//! `_ANEDeviceInfo`: what the machine has.

use objc2::define_class;
use objc2::runtime::{Bool, NSObject};
use objc2_foundation::NSObjectProtocol;

define_class!(
    // SAFETY: NSObject asks nothing of subclasses.
    #[unsafe(super(NSObject))]
    #[name = "_ANEDeviceInfo"]
    pub(super) struct DeviceInfo;

    // SAFETY: NSObject's methods are inherited.
    unsafe impl NSObjectProtocol for DeviceInfo {}

    impl DeviceInfo {
        // SAFETY: the types are those of the table of the bridge.
        #[unsafe(method(hasANE))]
        fn has_engine() -> Bool {
            Bool::YES
        }
    }
);
