//! `_ANEIOSurfaceObject`: a wrapped IOSurface, which it retains.

use objc2::rc::{Allocated, Retained};
use objc2::runtime::NSObject;
use objc2::{AnyThread, DefinedClass, define_class, msg_send};
use objc2_foundation::NSObjectProtocol;

use crate::iosurface::{IOSurface, Surface};
use crate::live::Counted;

pub(super) struct Ivars {
    surface: Retained<Surface>,
    _counted: Counted,
}

define_class!(
    // SAFETY: NSObject asks nothing of subclasses.
    #[unsafe(super(NSObject))]
    #[name = "_ANEIOSurfaceObject"]
    #[ivars = Ivars]
    pub(super) struct SurfaceObject;

    // SAFETY: NSObject's methods are inherited.
    unsafe impl NSObjectProtocol for SurfaceObject {}

    impl SurfaceObject {
        // SAFETY: the types are those of the table of the bridge.
        #[unsafe(method_id(objectWithIOSurface:))]
        fn with(surface: *mut IOSurface) -> Option<Retained<Self>> {
            // SAFETY: every IOSurface here is a `Surface`, and the caller's is live.
            unsafe { Retained::retain(surface.cast::<Surface>()) }.map(Self::new)
        }
    }
);

impl SurfaceObject {
    fn new(surface: Retained<Surface>) -> Retained<Self> {
        let this: Allocated<Self> = Self::alloc();
        let this = this.set_ivars(Ivars { surface, _counted: Counted::new() });
        // SAFETY: NSObject's designated initialiser.
        unsafe { msg_send![super(this), init] }
    }

    pub fn surface(&self) -> &Surface {
        &self.ivars().surface
    }
}
