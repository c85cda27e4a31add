//! Metal, as far as the bridge shares memory with it: a device, and buffers over memory of others.

use std::cell::Cell;
use std::ffi::c_void;

use block2::{Block, RcBlock};
use objc2::rc::{Allocated, Retained};
use objc2::runtime::{AnyObject, NSObject};
use objc2::{AnyThread, DefinedClass, define_class, msg_send};
use objc2_foundation::NSObjectProtocol;

use crate::live::Counted;

/// What shall go wrong with the next buffer of this thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetalFault {
    /// None is made.
    Refuses,
    /// It has memory of its own.
    Copies,
}

thread_local! {
    static NEXT: Cell<Option<MetalFault>> = const { Cell::new(None) };
}

/// Asks for a fault of the next buffer that this thread makes.
pub fn metal_fails_next(fault: MetalFault) {
    NEXT.set(Some(fault));
}

/// Bytes that the fake machine's GPU may keep.
pub const WORKING_SET: u64 = 96 << 30;
/// Bytes of a page. Metal asserts whole ones.
const PAGE: usize = 16 << 10;

type Deallocator = Block<dyn Fn(*mut c_void, usize)>;

define_class!(
    // SAFETY: NSObject asks nothing of subclasses.
    #[unsafe(super(NSObject))]
    #[name = "FakeMTLDevice"]
    struct Device;

    // SAFETY: NSObject's methods are inherited.
    unsafe impl NSObjectProtocol for Device {}

    // SAFETY of the methods: the types are those of the table of the bridge.
    impl Device {
        #[unsafe(method(recommendedMaxWorkingSetSize))]
        fn working_set(&self) -> u64 {
            WORKING_SET
        }

        #[unsafe(method_id(newBufferWithBytesNoCopy:length:options:deallocator:))]
        fn no_copy(
            &self,
            base: *mut c_void,
            bytes: usize,
            options: usize,
            deallocator: *mut Deallocator,
        ) -> Option<Retained<Buffer>> {
            Buffer::without_copy((base, bytes), options, deallocator)
        }
    }
);

struct Ivars {
    base: *mut c_void,
    bytes: usize,
    deallocator: Option<RcBlock<dyn Fn(*mut c_void, usize)>>,
    own: Option<Box<[u8]>>,
    _counted: Counted,
}

impl Drop for Ivars {
    fn drop(&mut self) {
        if let Some(deallocator) = self.deallocator.take() {
            deallocator.call((self.base, self.bytes));
        }
    }
}

define_class!(
    // SAFETY: NSObject asks nothing of subclasses; `Drop` is on the instance variables.
    #[unsafe(super(NSObject))]
    #[name = "FakeMTLBuffer"]
    #[ivars = Ivars]
    struct Buffer;

    // SAFETY: NSObject's methods are inherited.
    unsafe impl NSObjectProtocol for Buffer {}

    // SAFETY of the methods: the types are those of the table of the bridge.
    impl Buffer {
        #[unsafe(method(contents))]
        fn contents(&self) -> *mut c_void {
            match &self.ivars().own {
                Some(own) => own.as_ptr().cast_mut().cast(),
                None => self.ivars().base,
            }
        }

        #[unsafe(method(length))]
        fn length(&self) -> usize {
            self.ivars().bytes
        }
    }
);

impl Buffer {
    fn without_copy(
        (base, bytes): (*mut c_void, usize),
        options: usize,
        deallocator: *mut Deallocator,
    ) -> Option<Retained<Self>> {
        let whole = (base as usize).is_multiple_of(PAGE) && bytes.is_multiple_of(PAGE) && bytes > 0;
        let fault = NEXT.take();
        if !whole || options != 0 || fault == Some(MetalFault::Refuses) {
            return None;
        }
        // SAFETY: the caller gives a block, which is copied as Metal does.
        let deallocator = unsafe { RcBlock::copy(deallocator) };
        Some(Self::new(base, bytes, deallocator, fault == Some(MetalFault::Copies)))
    }

    fn new(
        base: *mut c_void,
        bytes: usize,
        deallocator: Option<RcBlock<dyn Fn(*mut c_void, usize)>>,
        copies: bool,
    ) -> Retained<Self> {
        let own = copies.then(|| vec![0; bytes].into());
        let this: Allocated<Self> = Self::alloc();
        let this = this.set_ivars(Ivars { base, bytes, deallocator, own, _counted: Counted::new() });
        // SAFETY: NSObject's designated initialiser.
        unsafe { msg_send![super(this), init] }
    }
}

#[unsafe(no_mangle)]
extern "C" fn MTLCreateSystemDefaultDevice() -> *mut AnyObject {
    let this: Allocated<Device> = Device::alloc();
    let this = this.set_ivars(());
    // SAFETY: NSObject's designated initialiser.
    let device: Retained<Device> = unsafe { msg_send![super(this), init] };
    Retained::into_raw(device).cast()
}
