//! Compiles kernels without the run-time checks that wgpu adds for strangers' code. The only unsafe code
//! of this crate.

#![allow(unsafe_code)]

/// A kernel of ours, unchecked at run time.
pub fn module(device: &wgpu::Device, text: &str) -> wgpu::ShaderModule {
    let descriptor =
        wgpu::ShaderModuleDescriptor { label: None, source: wgpu::ShaderSource::Wgsl(text.into()) };
    // SAFETY: the text comes from `kernels` alone, whose every index is below the length that the host
    // gave the buffer, and whose every loop counts up to a bound.
    unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
}
