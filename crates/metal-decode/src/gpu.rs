//! The device: the one file that calls wgpu to create or submit anything.
//!
//! Everything is created when a model is loaded. A token creates nothing but its command encoder, which
//! WebGPU cannot replay; [`Gpu::created`] and [`Gpu::submitted`] count, and tests hold the counts down.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::{GpuError, GpuResult};

/// Which kind of adapter to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// Apple's.
    Metal,
    /// Everybody else's, software drivers included.
    Vulkan,
    /// Whichever the system has, but no software driver.
    Any,
}

/// A GPU that is open.
pub struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: wgpu::AdapterInfo,
    limits: wgpu::Limits,
    /// Nanoseconds of a timestamp's tick, where the device has timestamps.
    tick: Option<f32>,
    created: Cell<u64>,
    submitted: Cell<u64>,
    encoding: Cell<Duration>,
    /// Kernels by text and constants: what was compiled once is never compiled again.
    kernels: RefCell<HashMap<String, Pipeline>>,
}

/// One dispatch, ready to be encoded any number of times.
pub struct Step {
    pipeline: wgpu::ComputePipeline,
    bind: wgpu::BindGroup,
    grid: [u32; 3],
    /// The axis of the grid that counts rows, and rows of one workgroup along it.
    rows: Option<(usize, u32)>,
    /// Whether the rows of the call are handed over as immediates.
    immediates: bool,
}

/// What a kernel is found by.
fn key(text: &str, constants: &[(&str, f64)]) -> String {
    format!("{constants:?}\n{text}")
}

fn build(device: &wgpu::Device, text: &str, constants: &[(&str, f64)]) -> GpuResult<Pipeline> {
    let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let module = crate::trusted::module(device, text);
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            constants,
            zero_initialize_workgroup_memory: false,
        },
        cache: None,
    });
    match pollster::block_on(scope.pop()) {
        None => Ok(Pipeline { pipeline, immediates: text.contains("var<immediate>") }),
        Some(error) => Err(GpuError::Kernel(error.to_string())),
    }
}

/// A kernel that is compiled.
#[derive(Clone)]
pub struct Pipeline {
    pipeline: wgpu::ComputePipeline,
    immediates: bool,
}

/// What is read back: a buffer of the host, and how much of it is in use.
pub struct Readback {
    buffer: wgpu::Buffer,
}

/// A submission that can be waited for.
pub struct Ticket(wgpu::SubmissionIndex);

/// A buffer on the device.
pub use wgpu::Buffer;

impl Api {
    fn backends(self) -> wgpu::Backends {
        match self {
            Api::Metal => wgpu::Backends::METAL,
            Api::Vulkan => wgpu::Backends::VULKAN,
            Api::Any => wgpu::Backends::METAL | wgpu::Backends::VULKAN,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Api::Metal => "Metal",
            Api::Vulkan => "Vulkan",
            Api::Any => "Metal or Vulkan",
        }
    }
}

impl Gpu {
    /// Opens the fastest adapter of a kind: discrete before integrated before the rest.
    ///
    /// # Errors
    /// When there is none, or it lacks what the kernels need.
    pub fn open(api: Api) -> GpuResult<Self> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends: api.backends(),
            flags: wgpu::InstanceFlags::empty(),
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        });
        let all = pollster::block_on(instance.enumerate_adapters(api.backends()));
        let found: Vec<_> = all.iter().map(|a| a.get_info().name).collect();
        let rank = |a: &wgpu::Adapter| match a.get_info().device_type {
            wgpu::DeviceType::DiscreteGpu => 0,
            wgpu::DeviceType::IntegratedGpu => 1,
            wgpu::DeviceType::VirtualGpu => 2,
            _ => 3,
        };
        let fits = |a: &wgpu::Adapter| api != Api::Any || a.get_info().device_type != wgpu::DeviceType::Cpu;
        let adapter = all.into_iter().filter(fits).min_by_key(rank).ok_or_else(|| GpuError::NoAdapter {
            wanted: api.name(),
            found: if found.is_empty() { "none".into() } else { found.join(", ") },
        })?;
        Self::from_adapter(&adapter)
    }

    fn from_adapter(adapter: &wgpu::Adapter) -> GpuResult<Self> {
        let (info, limits, has) = (adapter.get_info(), adapter.limits(), adapter.features());
        let unsupported = |missing: String| GpuError::Unsupported { adapter: info.name.clone(), missing };
        let needed = wgpu::Features::SUBGROUP | wgpu::Features::IMMEDIATES;
        if !has.contains(needed) {
            return Err(unsupported(format!("{:?}", needed - has)));
        }
        let (least, most) = (info.subgroup_min_size, info.subgroup_max_size);
        if least != most || !least.is_power_of_two() || !(4..=64).contains(&least) {
            return Err(unsupported(format!("one subgroup size of 4 to 64 (it has {least} to {most})")));
        }
        let timestamps = wgpu::Features::TIMESTAMP_QUERY;
        let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            label: None,
            required_features: needed | (has & timestamps),
            required_limits: limits.clone(),
            experimental_features: wgpu::ExperimentalFeatures::disabled(),
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        }))
        .map_err(|e| unsupported(e.to_string()))?;
        let tick = has.contains(timestamps).then(|| queue.get_timestamp_period());
        let (created, submitted, encoding) = (Cell::new(0), Cell::new(0), Cell::default());
        Ok(Self {
            device,
            queue,
            info,
            limits,
            tick,
            created,
            submitted,
            encoding,
            kernels: RefCell::default(),
        })
    }

    /// Its name, as the driver gives it.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// The API and the name: what reports must say. A software driver is called so.
    pub fn label(&self) -> String {
        let api = match self.info.backend {
            wgpu::Backend::Metal => "Metal",
            wgpu::Backend::Vulkan => "Vulkan",
            _ => "GPU",
        };
        format!("{api} ({})", self.info.name)
    }

    /// The driver and its version.
    pub fn driver(&self) -> String {
        format!("{} {}", self.info.driver, self.info.driver_info)
    }

    /// Whether the "GPU" is a program on the processor.
    pub fn is_software(&self) -> bool {
        self.info.device_type == wgpu::DeviceType::Cpu
    }

    /// Lanes of a subgroup.
    pub fn lanes(&self) -> u32 {
        self.info.subgroup_max_size
    }

    /// Most threads of a workgroup.
    pub fn max_threads(&self) -> u32 {
        self.limits.max_compute_invocations_per_workgroup.min(self.limits.max_compute_workgroup_size_x)
    }

    /// Whether it may multiply and add four bytes at once: Apple's GPUs have no such instruction.
    pub fn multiplies_bytes(&self) -> bool {
        self.info.backend == wgpu::Backend::Vulkan && !self.is_software()
    }

    /// Most bytes of one buffer that a kernel can see.
    pub fn max_binding(&self) -> u64 {
        self.limits.max_storage_buffer_binding_size.min(self.limits.max_buffer_size)
    }

    /// Whether passes can be timed on the device.
    pub fn has_timestamps(&self) -> bool {
        self.tick.is_some()
    }

    /// Buffers, kernels and bindings created so far.
    pub fn created(&self) -> u64 {
        self.created.get()
    }

    /// Submissions so far.
    pub fn submitted(&self) -> u64 {
        self.submitted.get()
    }

    /// Time that the host spent on encoding and submitting.
    pub fn encoding(&self) -> Duration {
        self.encoding.get()
    }

    fn count(&self) {
        self.created.set(self.created.get() + 1);
    }

    /// A buffer of zeros on the device.
    ///
    /// # Errors
    /// When it exceeds the device's limits or its memory.
    pub fn buffer(&self, what: &str, bytes: u64) -> GpuResult<Buffer> {
        self.create(what, bytes, wgpu::BufferUsages::STORAGE)
    }

    fn create(&self, what: &str, bytes: u64, usage: wgpu::BufferUsages) -> GpuResult<Buffer> {
        let size = bytes.max(16).next_multiple_of(16);
        let error = |available| GpuError::Memory {
            what: what.to_owned(),
            needed: size,
            available,
            adapter: self.info.name.clone(),
        };
        if size > self.max_binding() {
            return Err(error(self.max_binding()));
        }
        self.count();
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let copies = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let usage = if usage.contains(wgpu::BufferUsages::MAP_READ) { usage } else { usage | copies };
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(what),
            size,
            usage,
            mapped_at_creation: false,
        });
        match pollster::block_on(scope.pop()) {
            None => Ok(buffer),
            Some(_) => Err(error(0)),
        }
    }

    /// A buffer that holds `values`.
    ///
    /// # Errors
    /// As [`Gpu::buffer`].
    pub fn buffer_of<T: bytemuck::NoUninit>(&self, what: &str, values: &[T]) -> GpuResult<Buffer> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let buffer = self.buffer(what, bytes.len() as u64)?;
        self.write(&buffer, 0, values);
        Ok(buffer)
    }

    /// Memory of the host that results are copied to.
    ///
    /// # Errors
    /// As [`Gpu::buffer`].
    pub fn readback(&self, bytes: u64) -> GpuResult<Readback> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        Ok(Readback { buffer: self.create("results", bytes, usage)? })
    }

    /// Writes into a buffer, in pieces that bound the staging memory. Not for the way of a token.
    pub fn write<T: bytemuck::NoUninit>(&self, buffer: &Buffer, offset: u64, values: &[T]) {
        const PIECE: usize = 32 << 20;
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let mut at = offset;
        for piece in bytes.chunks(PIECE) {
            // Writes are of whole words.
            let (words, rest) = piece.split_at(piece.len() / 4 * 4);
            self.queue.write_buffer(buffer, at, words);
            if !rest.is_empty() {
                let mut word = [0; 4];
                word[..rest.len()].copy_from_slice(rest);
                self.queue.write_buffer(buffer, at + words.len() as u64, &word);
            }
            at += piece.len() as u64;
            if bytes.len() > PIECE {
                self.flush();
            }
        }
    }

    /// Compiles a kernel's text; `constants` are its `override`s.
    ///
    /// # Errors
    /// When the text is wrong, which is a fault of ours, or the driver refuses it.
    pub fn compile(&self, text: &str, constants: &[(&str, f64)]) -> GpuResult<Pipeline> {
        let key = key(text, constants);
        if let Some(known) = self.kernels.borrow().get(&key) {
            return Ok(known.clone());
        }
        self.count();
        let kernel = build(&self.device, text, constants)?;
        self.kernels.borrow_mut().insert(key, kernel.clone());
        Ok(kernel)
    }

    /// Compiles many, on all processors, so that [`Gpu::compile`] finds them: a driver takes long for each.
    ///
    /// # Errors
    /// As [`Gpu::compile`].
    pub fn compile_all(&self, kernels: &[(String, Vec<(&str, f64)>)]) -> GpuResult<()> {
        // Only the device goes to the threads, not the counters beside it.
        let (device, next) = (&self.device, AtomicUsize::new(0));
        let work = || {
            let mut built = Vec::new();
            while let Some((text, constants)) = kernels.get(next.fetch_add(1, Ordering::Relaxed)) {
                built.push((key(text, constants), build(device, text, constants)?));
            }
            GpuResult::Ok(built)
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(kernels.len());
        let built = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined.map(|built| built.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        let built: Vec<GpuResult<Vec<(String, Pipeline)>>> = built;
        for built in built {
            for (key, kernel) in built? {
                self.count();
                self.kernels.borrow_mut().insert(key, kernel);
            }
        }
        Ok(())
    }

    /// Binds buffers to a kernel, in the order of its bindings.
    pub fn step(&self, kernel: &Pipeline, buffers: &[&Buffer], grid: [u32; 3]) -> Step {
        self.count();
        let numbered = (0u32..).zip(buffers);
        let entries: Vec<_> = numbered
            .map(|(binding, b)| wgpu::BindGroupEntry { binding, resource: b.as_entire_binding() })
            .collect();
        let bind = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &kernel.pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        let (pipeline, immediates) = (kernel.pipeline.clone(), kernel.immediates);
        Step { pipeline, bind, grid, rows: None, immediates }
    }

    /// Runs steps in one pass and one submission, then copies `copy` (from, bytes, to).
    pub fn submit<'a>(
        &self,
        steps: impl IntoIterator<Item = &'a Step>,
        rows: usize,
        immediates: &[u8],
        copy: Option<(&Buffer, u64, &Readback)>,
    ) -> Ticket {
        let begin = Instant::now();
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None });
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            record(&mut pass, steps, rows, immediates);
        }
        if let Some((from, bytes, to)) = copy {
            encoder.copy_buffer_to_buffer(from, 0, &to.buffer, 0, bytes);
        }
        self.submitted.set(self.submitted.get() + 1);
        let ticket = Ticket(self.queue.submit([encoder.finish()]));
        self.encoding.set(self.encoding.get() + begin.elapsed());
        ticket
    }

    /// Seconds that the steps take on the device, alone in one pass; by the host's clock where the
    /// device has none.
    ///
    /// # Errors
    /// When the device fails.
    pub fn time<'a>(&self, steps: impl IntoIterator<Item = &'a Step>, rows: usize) -> GpuResult<f64> {
        let set = self.tick.map(|tick| {
            let set = self.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: None,
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            });
            (set, tick)
        });
        let ticks = self.create("timestamps", 16, wgpu::BufferUsages::QUERY_RESOLVE)?;
        let begin = Instant::now();
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None });
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: set.as_ref().map(|(set, _)| wgpu::ComputePassTimestampWrites {
                    query_set: set,
                    beginning_of_pass_write_index: Some(0),
                    end_of_pass_write_index: Some(1),
                }),
            });
            record(&mut pass, steps, rows, &[]);
        }
        if let Some((set, _)) = &set {
            encoder.resolve_query_set(set, 0..2, &ticks, 0);
        }
        self.submitted.set(self.submitted.get() + 1);
        self.queue.submit([encoder.finish()]);
        self.wait();
        let Some((_, tick)) = set else { return Ok(begin.elapsed().as_secs_f64()) };
        let ticks: Vec<u64> = self.read(&ticks, 2)?;
        Ok(ticks[1].wrapping_sub(ticks[0]) as f64 * f64::from(tick) * 1e-9)
    }

    /// Hands writes to the device and waits for them, which gives their staging memory back.
    pub fn flush(&self) {
        self.queue.submit([]);
        self.wait();
    }

    /// Copies pieces (from, offset, to, offset, bytes) in one submission.
    pub fn copy<'a>(&self, pieces: impl IntoIterator<Item = (&'a Buffer, u64, &'a Buffer, u64, u64)>) {
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None });
        for (from, from_at, to, to_at, bytes) in pieces {
            encoder.copy_buffer_to_buffer(from, from_at, to, to_at, bytes);
        }
        self.submitted.set(self.submitted.get() + 1);
        self.queue.submit([encoder.finish()]);
    }

    /// Waits for everything that was submitted.
    pub fn wait(&self) {
        // Waiting fails only after a timeout, and there is none.
        let _ = self.device.poll(wgpu::PollType::wait_indefinitely());
    }

    /// Waits for a submission and reads what it copied: `n` numbers.
    ///
    /// # Errors
    /// When the device is lost.
    pub fn collect<T: bytemuck::Pod>(&self, ticket: Ticket, from: &Readback, n: usize) -> GpuResult<Vec<T>> {
        let bytes = (n * size_of::<T>()) as u64;
        let slice = from.buffer.slice(..bytes.next_multiple_of(8).min(from.buffer.size()));
        let (send, receive) = mpsc::channel();
        slice.map_async(wgpu::MapMode::Read, move |result| {
            // The receiver waits below.
            let _ = send.send(result);
        });
        let lost = |reason: String| GpuError::Lost { adapter: self.info.name.clone(), reason };
        let wait = wgpu::PollType::Wait { submission_index: Some(ticket.0), timeout: None };
        self.device.poll(wait).map_err(|e| lost(e.to_string()))?;
        receive.recv().map_err(|e| lost(e.to_string()))?.map_err(|e| lost(e.to_string()))?;
        let values = {
            let view = slice.get_mapped_range().map_err(|e| lost(e.to_string()))?;
            bytemuck::pod_collect_to_vec(&view[..bytes as usize])
        };
        from.buffer.unmap();
        Ok(values)
    }

    /// The first `n` numbers of a buffer. Creates a buffer of the host: not for the way of a token.
    ///
    /// # Errors
    /// When memory is short or the device is lost.
    pub fn read<T: bytemuck::Pod>(&self, buffer: &Buffer, n: usize) -> GpuResult<Vec<T>> {
        let bytes = ((n * size_of::<T>()) as u64).next_multiple_of(4);
        let to = self.readback(bytes)?;
        let ticket = self.submit([], 0, &[], Some((buffer, bytes, &to)));
        self.collect(ticket, &to, n)
    }
}

impl Step {
    /// The same, with an axis of the grid that counts the rows of the call, `per_group` of them in one
    /// workgroup.
    pub fn over_rows(self, axis: usize, per_group: u32) -> Self {
        Self { rows: Some((axis, per_group)), ..self }
    }
}

fn record<'a>(
    pass: &mut wgpu::ComputePass<'_>,
    steps: impl IntoIterator<Item = &'a Step>,
    rows: usize,
    immediates: &[u8],
) {
    for step in steps {
        pass.set_pipeline(&step.pipeline);
        pass.set_bind_group(0, &step.bind, &[]);
        if step.immediates {
            pass.set_immediates(0, immediates);
        }
        let mut grid = step.grid;
        if let Some((axis, per_group)) = step.rows {
            grid[axis] = (rows as u32).div_ceil(per_group);
        }
        pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
    }
}
