use metal_decode::{Api, Gpu};

/// The device of the tests.
pub fn gpu() -> Gpu {
    Gpu::open(Api::Vulkan).expect("a Vulkan device: `tests/need vulkan` installs one in software")
}
