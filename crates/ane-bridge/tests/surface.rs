//! Surfaces: pitch, conversion, regions, guards.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use ane_bridge::{Access, Element, Layout, Memory, Region, Surface, SurfaceError};
use half::f16;
use mil::eval::{Slice, SliceMut};
use mil::{DType, TensorType};
use proptest::prelude::*;

fn fp16(channels: usize, width: usize) -> Surface {
    Surface::on_heap(Layout::fp16(channels, width)).unwrap()
}

#[test]
fn rows_start_at_multiples_of_64_bytes() {
    for (width, pitch) in [(1, 64), (4, 64), (31, 64), (32, 64), (33, 128), (77, 192), (512, 1024)] {
        let layout = Layout::fp16(3, width);
        assert_eq!((layout.row_pitch(), layout.bytes()), (pitch, 3 * pitch), "{width}");
        assert_eq!(layout.is_flat(), width % 32 == 0, "{width}");
        let surface = Surface::on_heap(layout).unwrap();
        let row: Vec<f32> = (0..width).map(|i| i as f32).collect();
        surface.write().unwrap().write(&Region::new(1..2, 0..width), &row).unwrap();
        let guard = surface.read().unwrap();
        let Slice::F16(all) = guard.slice() else { panic!("the surface is fp16") };
        let set: Vec<usize> = (0..all.len()).filter(|&i| all[i] != f16::ZERO).collect();
        let want: Vec<usize> = (1..width).map(|i| pitch / 2 + i).collect();
        assert_eq!(set, want, "width {width}");
    }
}

#[test]
fn layouts_are_those_of_the_programs_types() {
    for (dtype, shape) in [
        (DType::Fp16, vec![1, 200, 1, 1]),
        (DType::Fp16, vec![1, 12, 77, 33]),
        (DType::Fp32, vec![1, 64, 1, 20]),
        (DType::Fp16, vec![64]),
        (DType::Fp16, vec![3, 5]),
    ] {
        let ty = TensorType::new(dtype, shape);
        let layout = Layout::of(&ty).unwrap();
        assert_eq!((layout.bytes(), layout.row_pitch()), (ty.surface_bytes(), ty.row_pitch()), "{ty}");
    }
    assert_eq!(Layout::of(&TensorType::new(DType::Int8, [1, 1, 1, 64])), None);
}

#[test]
fn every_fp16_value_survives_a_round_trip() {
    let all: Vec<f32> = (0..=u16::MAX).map(|bits| f16::from_bits(bits).to_f32()).collect();
    let region = Region::new(0..256, 0..256);
    let surface = fp16(256, 256);
    surface.write().unwrap().write(&region, &all).unwrap();
    let mut back = vec![0.0; all.len()];
    surface.read().unwrap().read(&region, &mut back).unwrap();
    for (a, b) in all.iter().zip(&back) {
        assert!(a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()), "{a} {b}");
    }
}

#[test]
fn f32_rounds_to_the_nearest_fp16_ties_to_even() {
    let cases = [
        (1.0 + 1.0 / 2048.0, 1.0),
        (1.0 + 3.0 / 2048.0, 1.0 + 4.0 / 2048.0),
        (1.0 + 1.0 / 2048.0 + 1e-6, 1.0 + 2.0 / 2048.0),
        (2049.0, 2048.0),
        (2051.0, 2052.0),
        (65504.0, 65504.0),
        (65519.99, 65504.0),
        (65520.0, f32::INFINITY),
        (-65520.0, f32::NEG_INFINITY),
        (1e30, f32::INFINITY),
        // The smallest subnormal, half of it (a tie, to zero), and a little more.
        (2f32.powi(-24), 2f32.powi(-24)),
        (2f32.powi(-25), 0.0),
        (2f32.powi(-25) * 1.001, 2f32.powi(-24)),
        (-0.0, -0.0),
    ];
    let from: Vec<f32> = cases.iter().map(|c| c.0).collect();
    let region = Region::new(0..1, 0..from.len());
    let surface = fp16(1, 40);
    surface.write().unwrap().write(&region, &from).unwrap();
    let mut back = vec![0.0; from.len()];
    surface.read().unwrap().read(&region, &mut back).unwrap();
    for ((from, want), got) in cases.iter().zip(back) {
        assert_eq!(got.to_bits(), want.to_bits(), "{from}");
    }
}

#[test]
fn fp32_surfaces_keep_every_bit() {
    let layout = Layout { element: Element::Fp32, channels: 2, height: 1, width: 5 };
    assert_eq!(layout.bytes(), 128);
    let surface = Surface::on_heap(layout).unwrap();
    let from = [1e-30, 1e30, 0.1, -7.0, 65520.0];
    surface.write().unwrap().write(&Region::new(1..2, 0..5), &from).unwrap();
    let mut back = [0.0; 5];
    surface.read().unwrap().read(&Region::new(1..2, 0..5), &mut back).unwrap();
    assert_eq!(back, from);
    let wrong = surface.read().unwrap().row(0).err();
    assert!(matches!(wrong, Some(SurfaceError::Element { wanted: Element::Fp16, .. })));
}

#[test]
fn wrong_regions_and_lengths_are_refused() {
    let surface = fp16(4, 40);
    let mut guard = surface.write().unwrap();
    for region in [
        Region::new(0..5, 0..1),
        Region::new(0..1, 39..41),
        #[allow(clippy::reversed_empty_ranges)]
        Region::new(3..2, 0..1),
        Region::new(usize::MAX..usize::MAX, 0..1),
    ] {
        let refused = guard.write(&region, &vec![0.0; region.elements()]).err();
        assert!(matches!(refused, Some(SurfaceError::Region { .. })), "{region}");
    }
    let short = guard.write(&Region::new(0..2, 0..3), &[0.0; 5]).unwrap_err();
    assert_eq!(short.to_string(), "rows 0..2, columns 0..3 has 6 elements, but the buffer has 5");
    assert!(guard.row_mut(4).is_err());
    assert!(guard.row_mut(usize::MAX).is_err());
    assert_eq!(guard.row_mut(3).unwrap().len(), 40);
}

#[test]
fn absurd_layouts_are_refused_without_an_abort() {
    assert!(matches!(Surface::on_heap(Layout::fp16(0, 4)), Err(SurfaceError::Empty { .. })));
    for layout in
        [Layout::fp16(usize::MAX, usize::MAX), Layout::fp16(1 << 40, 1 << 20), Layout::fp16(1, usize::MAX)]
    {
        assert!(matches!(Surface::on_heap(layout), Err(SurfaceError::NoMemory { .. })), "{layout}");
    }
}

#[test]
fn guards_exclude_each_other() {
    let surface = fp16(1, 32);
    let other = surface.clone();
    assert!(surface.same(&other) && !surface.same(&fp16(1, 32)));
    {
        let _a = surface.read().unwrap();
        let _b = other.read().unwrap();
        let busy = surface.write().err().unwrap();
        assert!(busy.to_string().contains("in use"), "{busy}");
    }
    {
        let mut a = surface.write().unwrap();
        a.fill(3.0);
        assert!(matches!(other.read(), Err(SurfaceError::Busy { .. })));
        assert!(matches!(other.write(), Err(SurfaceError::Busy { .. })));
    }
    assert_eq!(other.read().unwrap().row(0).unwrap(), [f16::from_f32(3.0); 32]);
}

#[test]
fn a_surface_serves_a_thread_that_panicked_before() {
    let surface = fp16(1, 32);
    let clone = surface.clone();
    let panicked = std::thread::spawn(move || {
        let _guard = clone.write().unwrap();
        panic!("while writing");
    });
    assert!(panicked.join().is_err());
    assert!(surface.write().is_ok() && surface.read().is_ok());
}

/// Memory of a device that wants to be locked; `state` counts the locks held, or refuses with a code.
struct Locked {
    state: Arc<AtomicI32>,
    content: Vec<f16>,
}

impl Memory for Locked {
    fn lock(&self, access: Access) -> Result<(), i32> {
        let code = self.state.load(Ordering::Relaxed);
        if code < 0 {
            return Err(code);
        }
        self.state.fetch_add(if access == Access::Write { 100 } else { 1 }, Ordering::Relaxed);
        Ok(())
    }

    fn unlock(&self, access: Access) {
        self.state.fetch_sub(if access == Access::Write { 100 } else { 1 }, Ordering::Relaxed);
    }

    fn slice(&self) -> Slice<'_> {
        Slice::F16(&self.content)
    }

    fn slice_mut(&mut self) -> SliceMut<'_> {
        SliceMut::F16(&mut self.content)
    }
}

#[test]
fn guards_lock_and_unlock_the_devices_memory() {
    let state = Arc::new(AtomicI32::new(0));
    let memory = Locked { state: state.clone(), content: vec![f16::ONE; 32] };
    let surface = Surface::from_memory(Layout::fp16(1, 32), Box::new(memory));
    let held = || state.load(Ordering::Relaxed);
    {
        let _a = surface.read().unwrap();
        let _b = surface.read().unwrap();
        assert!(surface.write().is_err());
        assert_eq!(held(), 2);
    }
    {
        let _w = surface.write().unwrap();
        assert!(surface.read().is_err());
        assert_eq!(held(), 100);
    }
    assert_eq!(held(), 0);
    state.store(-536_870_206, Ordering::Relaxed);
    let refused = surface.write().err().unwrap();
    assert!(refused.to_string().ends_with("could not be locked for writing: code 0xe00002c2"), "{refused}");
    state.store(0, Ordering::Relaxed);
    assert!(surface.write().is_ok());
    assert_eq!(held(), 0);
}

proptest! {
    #[test]
    fn regions_hold_what_was_written(
        rows in 1usize..70, width in 1usize..100, seed in 0u32..1000,
        cut in (0.0f64..1.0, 0.0f64..1.0, 0.0f64..1.0, 0.0f64..1.0),
    ) {
        let part = |a: f64, b: f64, n: usize| {
            let start = (a * n as f64) as usize;
            start..start + (b * (n - start + 1) as f64) as usize
        };
        let region = Region::new(part(cut.0, cut.1, rows), part(cut.2, cut.3, width));
        let (high, wide) = (region.rows.len(), region.columns.len());
        let value = |i: usize, j: usize| ((seed as usize + 13 * i + 7 * j) % 512) as f32 - 256.0;
        let straight: Vec<f32> = (0..high * wide).map(|k| value(k / wide, k % wide)).collect();
        let turned: Vec<f32> = (0..high * wide).map(|k| value(k % high, k / high)).collect();

        let (a, b) = (fp16(rows, width), fp16(rows, width));
        a.write().unwrap().fill(0.5);
        b.write().unwrap().fill(0.5);
        a.write().unwrap().write(&region, &straight).unwrap();
        b.write().unwrap().write_transposed(&region, &turned).unwrap();
        let (a, b) = (a.read().unwrap(), b.read().unwrap());
        for row in 0..rows {
            let line = a.row(row).unwrap();
            prop_assert_eq!(line, b.row(row).unwrap());
            for (col, got) in line.iter().enumerate() {
                let inside = region.rows.contains(&row) && region.columns.contains(&col);
                let want = if inside { value(row - region.rows.start, col - region.columns.start) } else { 0.5 };
                prop_assert_eq!(got.to_f32(), want);
            }
        }
        let mut back = vec![0.0; high * wide];
        a.read(&region, &mut back).unwrap();
        prop_assert_eq!(&back, &straight);
        a.read_transposed(&region, &mut back).unwrap();
        prop_assert_eq!(&back, &turned);
    }
}
