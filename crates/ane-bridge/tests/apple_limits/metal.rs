//! Surfaces shared with the GPU, against the fake Metal: the same memory, kept as long as Metal wants it.

use ane_bridge::apple::{Gpu, ShareError};
use ane_bridge::{Access, Device, Layout, Surface, SurfaceError};
use fake_ane::MetalFault;
use half::f16;
use objc2::rc::Retained;

use crate::alone;
use crate::support::{contents, device, fill};

#[test]
fn a_buffer_is_the_surfaces_own_memory() {
    let _alone = alone();
    let device = device();
    let gpu = Gpu::system().unwrap();
    assert_eq!(gpu.working_set(), Some(fake_ane::WORKING_SET));
    // Less than a page, and pages and a bit: surfaces have whole ones.
    for (layout, bytes) in [(Layout::fp16(3, 32), 16 << 10), (Layout::fp16(70, 256), 48 << 10)] {
        let surface = device.surface(layout).unwrap();
        fill(&surface, 1);
        let wanted = contents(&surface);
        {
            let buffer = gpu.share(&surface, Access::Write).unwrap();
            assert_eq!(buffer.bytes(), bytes);
            let first = buffer.base().cast::<f16>();
            // SAFETY: nobody else has the surface, whose first bytes these are.
            unsafe {
                assert_eq!(first.read().to_f32(), f16::from_f32(wanted[0]).to_f32());
                first.write(f16::from_f32(7.0));
            }
        }
        let found = contents(&surface);
        assert_eq!((found[0], &found[1..]), (7.0, &wanted[1..]));
    }
}

#[test]
fn nobody_else_has_the_access_of_a_buffer() {
    let _alone = alone();
    let surface = device().surface(Layout::fp16(8, 32)).unwrap();
    let gpu = Gpu::system().unwrap();
    let busy = |result: Result<_, ShareError>| {
        assert!(matches!(result, Err(ShareError::Surface(SurfaceError::Busy { .. }))));
    };
    {
        let _reads = gpu.share(&surface, Access::Read).unwrap();
        contents(&surface);
        gpu.share(&surface, Access::Read).unwrap();
        busy(gpu.share(&surface, Access::Write).map(drop));
        assert!(matches!(surface.write().map(drop), Err(SurfaceError::Busy { .. })));
    }
    {
        let _writes = gpu.share(&surface, Access::Write).unwrap();
        busy(gpu.share(&surface, Access::Read).map(drop));
        assert!(matches!(surface.read().map(drop), Err(SurfaceError::Busy { .. })));
        assert!(matches!(surface.hold(Access::Read).map(drop), Err(SurfaceError::Busy { .. })));
    }
    fill(&surface, 2);
}

#[test]
fn the_memory_outlives_every_buffer() {
    let _alone = alone();
    let device = device();
    let gpu = Gpu::system().unwrap();
    let before = fake_ane::live();
    let surface = device.surface(Layout::fp16(8, 32)).unwrap();
    let buffer = gpu.share(&surface, Access::Read).unwrap();
    // What a command buffer of Metal does.
    // SAFETY: the object lives; nothing is read or written by it.
    let kept = unsafe { Retained::retain(buffer.raw().as_ptr()) }.unwrap();
    let base = buffer.base().cast::<u16>();
    drop(buffer);
    drop(surface);
    assert_eq!(fake_ane::live(), before + 2, "a surface, and a buffer over it");
    // SAFETY: the buffer lives, and so do its bytes.
    assert_eq!(unsafe { base.read() }, 0);
    drop(kept);
    assert_eq!(fake_ane::live(), before);
}

#[test]
fn what_cannot_be_shared_is_refused() {
    let _alone = alone();
    let device = device();
    let gpu = Gpu::system().unwrap();
    let before = fake_ane::live();
    let layout = Layout::fp16(8, 32);
    let heap = Surface::on_heap(layout).unwrap();
    assert_eq!(gpu.share(&heap, Access::Read).map(drop), Err(ShareError::Foreign { layout }));
    let surface = device.surface(layout).unwrap();
    let bytes = 16 << 10;
    for (fault, wanted) in [
        (MetalFault::Refuses, ShareError::Refused { bytes }),
        (MetalFault::Copies, ShareError::Copied { bytes, length: bytes }),
    ] {
        fake_ane::metal_fails_next(fault);
        assert_eq!(gpu.share(&surface, Access::Write).map(drop), Err(wanted));
        // It is free again.
        fill(&surface, 3);
    }
    drop(surface);
    assert_eq!(fake_ane::live(), before);
}
