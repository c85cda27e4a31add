//! The threads.
//!
//! One job at a time: `tasks` calls of one closure, of which each thread has a stretch of neighbours and
//! takes over from others when it is done, see [`Stretches`]. The caller takes part and waits only for
//! threads that took part, so that a thread which the system keeps from running holds nobody up. Threads
//! spin for a moment between jobs and sleep when none comes.

use std::any::Any;
use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::stretches::{Share, Stretches};
use crate::{Buffer, CpuError, footprint};

/// Turns of an empty loop before a thread without work sleeps: some tens of microseconds.
const SPINS: usize = 2_000;

/// Threads that run the tasks of a job, each with scratch memory of its own.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Held while a job runs.
    job: Mutex<()>,
    scratch: Vec<UnsafeCell<Buffer>>,
}

// SAFETY: each scratch buffer is touched by one thread of one job at a time, and `job` is held
// while a job runs; the rest is Sync.
unsafe impl Sync for Pool {}

/// What a thread does in a job: it gets its tasks, and its number.
type Job<'a> = dyn Fn(&mut dyn Share, usize) + Sync + 'a;

struct Shared {
    /// Number of the job in the high half, [`OPEN`], and how many threads are in it.
    state: AtomicU64,
    /// The job; written while nobody is in.
    work: UnsafeCell<Option<*const Job<'static>>>,
    /// Its tasks; filled while nobody is in.
    left: Stretches,
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

const OPEN: u64 = 1 << 31;
const JOB: u64 = 1 << 32;

// SAFETY: `work` is written only when the state is not OPEN and no thread is in the job, and read
// only by threads in it; the rest is Sync.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `work` is used only while the caller of `run` keeps its target alive.
unsafe impl Send for Shared {}

impl Pool {
    /// Starts `threads - 1` threads; the caller of [`Pool::run`] is the last one.
    pub fn new(threads: usize) -> Result<Self, CpuError> {
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            work: UnsafeCell::new(None),
            left: Stretches::new(threads),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let scratch = (0..threads).map(|_| UnsafeCell::default()).collect();
        let mut pool = Self { shared, threads: Vec::new(), job: Mutex::new(()), scratch };
        for worker in 1..if footprint::counting() { 1 } else { threads } {
            let shared = pool.shared.clone();
            let thread = std::thread::Builder::new()
                .name(format!("cpu-{worker}"))
                .spawn(move || shared.work(worker))
                .map_err(|source| CpuError::Thread { number: worker, wanted: threads, source })?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Threads, the caller among them.
    pub fn threads(&self) -> usize {
        self.scratch.len()
    }

    /// Bytes of the scratch memory of all threads.
    pub(crate) fn scratch_bytes(&mut self) -> usize {
        self.scratch.iter_mut().map(|scratch| scratch.get_mut().bytes()).sum()
    }

    /// Makes each thread's scratch memory at least `len` numbers.
    pub fn reserve_scratch(&mut self, len: usize) -> Result<(), CpuError> {
        for scratch in &mut self.scratch {
            if scratch.get_mut().len() < len {
                *scratch.get_mut() = Buffer::zeros("scratch of threads", len)?;
            }
        }
        Ok(())
    }

    /// Calls `f(task)` for every task below `tasks`, once and in no particular order, and waits.
    ///
    /// A panic in a task comes out here. A task must not call this pool.
    pub fn run(&self, tasks: usize, f: impl Fn(usize) + Sync) {
        self.start(tasks, &|tasks, _| tasks.for_each(&f));
    }

    /// [`Pool::run`] with the scratch memory of the thread; what is in it is left over from before.
    pub fn run_with_scratch(&self, tasks: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
        self.run_threads(tasks, |tasks, scratch| tasks.for_each(|task| f(task, scratch)));
    }

    /// Calls `f` at most once in each thread, with the tasks that this thread takes one by one and its scratch
    /// memory: a thread that asks for a task before it is done with another knows what comes next. Every task
    /// below `tasks` goes to one thread, as long as each asks until there are none.
    pub fn run_threads(&self, tasks: usize, f: impl Fn(&mut dyn Share, &mut [f32]) + Sync) {
        let scratch = Scratch(&self.scratch);
        self.start(tasks, &|tasks, worker| {
            // SAFETY: worker numbers of the threads in a job differ, and `start` lets one job run
            // at a time, so this thread alone uses this buffer.
            let scratch = unsafe { &mut *scratch.of(worker) };
            f(tasks, scratch);
        });
    }

    /// [`Pool::run_threads`], with something else that threads take from: every second one before it takes a task, all
    /// when there are no tasks any more. So what waits for memory and what computes run beside each other.
    pub fn run_threads_beside(
        &self,
        beside: &Beside<'_>,
        tasks: usize,
        f: impl Fn(&mut dyn Share, &mut [f32]) + Sync,
    ) {
        let scratch = Scratch(&self.scratch);
        self.start(tasks, &|tasks, worker| {
            // SAFETY: as in `run_threads`.
            let scratch = unsafe { &mut *scratch.of(worker) };
            if worker % 2 == 1 {
                beside.work(scratch);
            }
            f(tasks, scratch);
            beside.work(scratch);
        });
    }

    /// Does a chore at once.
    pub fn run_chore(&self, chore: Chore<'_>) {
        self.run_with_scratch(chore.tasks, |task, scratch| (chore.run)(task, scratch));
    }

    /// Does what is left of something, on all threads.
    pub fn finish(&self, beside: &Beside<'_>) {
        self.run_threads(beside.left(), |_, scratch| beside.work(scratch));
    }

    /// Calls `f(index, part)` for every part, in no particular order, and waits.
    pub fn each<S: Split>(&self, parts: S, f: impl Fn(usize, S::Part) + Sync) {
        self.run(parts.count(), |index| {
            // SAFETY: `run` calls each index below `count` once, and `parts` is ours.
            f(index, unsafe { parts.part(index) });
        });
    }

    /// [`Pool::each`] with the scratch memory of the thread.
    pub fn each_with_scratch<S: Split>(&self, parts: S, f: impl Fn(usize, S::Part, &mut [f32]) + Sync) {
        self.run_with_scratch(parts.count(), |index, scratch| {
            // SAFETY: each index below `count` comes once, and `parts` is ours.
            f(index, unsafe { parts.part(index) }, scratch);
        });
    }

    fn start(&self, tasks: usize, f: &Job<'_>) {
        let one_job = lock(&self.job);
        if tasks <= 1 || self.threads.is_empty() {
            return f(&mut (0..tasks), 0);
        }
        let shared = &*self.shared;
        // SAFETY: the pointer is used only by threads in the job, and this function does not end
        // before all have left it: `f` outlives every use.
        let f: *const Job<'static> = unsafe { std::mem::transmute(std::ptr::from_ref(f)) };
        // SAFETY: no job is open and no thread is in one: the last `start` waited for that.
        unsafe { *shared.work.get() = Some(f) };
        shared.left.fill(tasks);
        let job = (shared.state.load(Ordering::Relaxed) & !(JOB - 1)).wrapping_add(JOB);
        shared.state.store(job | OPEN, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            let _guard = lock(&shared.lock);
            shared.wake.notify_all();
        }
        shared.take_part(f, 0);
        shared.state.fetch_and(!OPEN, Ordering::SeqCst);
        let mut spins = 0;
        while shared.state.load(Ordering::Acquire) & (OPEN - 1) != 0 {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        if let Some(panic) = lock(&shared.panic).take() {
            drop(one_job);
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        {
            let _guard = lock(&self.shared.lock);
            self.shared.wake.notify_all();
        }
        for thread in self.threads.drain(..) {
            // It cannot have panicked: tasks are caught.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn work(&self, worker: usize) {
        let mut seen = 0;
        let mut spins = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let state = self.state.load(Ordering::Acquire);
            if state & OPEN != 0 && state / JOB != seen {
                let enter =
                    self.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed);
                if enter.is_ok() {
                    seen = state / JOB;
                    // SAFETY: this thread is in the job, so nobody writes.
                    if let Some(f) = unsafe { *self.work.get() } {
                        self.take_part(f, worker);
                    }
                    self.state.fetch_sub(1, Ordering::Release);
                    spins = 0;
                }
            } else if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                self.sleep(seen);
                spins = 0;
            }
        }
    }

    fn sleep(&self, seen: u64) {
        let guard = lock(&self.lock);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let state = self.state.load(Ordering::SeqCst);
        let idle = state & OPEN == 0 || state / JOB == seen;
        if idle && !self.stop.load(Ordering::SeqCst) {
            drop(self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner));
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    fn take_part(&self, f: *const Job<'static>, worker: usize) {
        // SAFETY: the caller of `run` keeps the closure until every thread has left the job.
        let f = unsafe { &*f };
        let result = catch_unwind(AssertUnwindSafe(|| {
            f(&mut self.left.share(worker), worker);
        }));
        if let Err(panic) = result {
            self.left.clear();
            *lock(&self.panic) = Some(panic);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Parts of something and what to do with each, to be done once.
pub struct Chore<'a> {
    tasks: usize,
    run: Box<Task<'a>>,
}

/// What a task does: it gets its number, and scratch memory.
type Task<'a> = dyn Fn(usize, &mut [f32]) + Sync + 'a;

impl<'a> Chore<'a> {
    /// Calls `f(index, part, scratch)` for every part when it is done.
    pub fn new<S: Split + 'a>(parts: S, f: impl Fn(usize, S::Part, &mut [f32]) + Sync + 'a) -> Self {
        let tasks = parts.count();
        // SAFETY: `Pool::run_chore` takes it away and `Beside` counts, so each index below `tasks` comes once; `parts` is ours.
        Self { tasks, run: Box::new(move |task, scratch| f(task, unsafe { parts.part(task) }, scratch)) }
    }
}

/// Chores whose tasks threads take beside those of a job.
#[must_use = "chores are to be done: `Pool::finish`"]
pub struct Beside<'a> {
    chores: Vec<Chore<'a>>,
    /// Tasks that were taken.
    taken: AtomicUsize,
}

impl<'a> Beside<'a> {
    /// No chores.
    pub const fn nothing() -> Self {
        Self { chores: Vec::new(), taken: AtomicUsize::new(0) }
    }

    /// These chores.
    pub fn new(chores: Vec<Chore<'a>>) -> Self {
        Self { chores, taken: AtomicUsize::new(0) }
    }

    /// How many tasks nobody has taken.
    fn left(&self) -> usize {
        let all: usize = self.chores.iter().map(|chore| chore.tasks).sum();
        all.saturating_sub(self.taken.load(Ordering::Relaxed))
    }

    /// Takes tasks as long as there are any.
    fn work(&self, scratch: &mut [f32]) {
        while self.left() > 0 {
            let mut task = self.taken.fetch_add(1, Ordering::Relaxed);
            for chore in &self.chores {
                if task < chore.tasks {
                    (chore.run)(task, scratch);
                    break;
                }
                task -= chore.tasks;
            }
        }
    }
}

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        debug_assert!(self.left() == 0 || std::thread::panicking(), "chores that nobody did");
    }
}

struct Scratch<'a>(&'a [UnsafeCell<Buffer>]);

// SAFETY: `of` gives pointers only; whoever uses one says why no other thread does.
unsafe impl Sync for Scratch<'_> {}

impl Scratch<'_> {
    fn of(&self, worker: usize) -> *mut Buffer {
        self.0[worker].get()
    }
}

/// Something that falls into parts, which different threads may hold at once.
///
/// # Safety
///
/// Parts of different indices must not overlap, unless they cannot be written.
pub unsafe trait Split: Sync {
    /// One of them.
    type Part;

    /// How many there are.
    fn count(&self) -> usize;

    /// The part of an index.
    ///
    /// # Safety
    ///
    /// `index` is below [`Split::count`], and each index is asked for at most once.
    unsafe fn part(&self, index: usize) -> Self::Part;
}

/// Parts to read, of equal length but for the last.
#[derive(Clone, Copy)]
pub struct Rows<'a, T = f32>(&'a [T], usize);

impl<'a, T> Rows<'a, T> {
    /// Parts of `len` values.
    pub fn new(data: &'a [T], len: usize) -> Self {
        Self(data, len.max(1))
    }
}

// SAFETY: shared slices are not written.
unsafe impl<'a, T: Sync> Split for Rows<'a, T> {
    type Part = &'a [T];

    fn count(&self) -> usize {
        self.0.len().div_ceil(self.1)
    }

    unsafe fn part(&self, index: usize) -> &'a [T] {
        &self.0[index * self.1..self.0.len().min((index + 1) * self.1)]
    }
}

/// Parts to write, of equal length but for the last.
pub struct RowsMut<'a, T = f32> {
    start: *mut T,
    total: usize,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a mutable slice; its parts go to other threads, so the values must be Send.
unsafe impl<T: Send> Sync for RowsMut<'_, T> {}

impl<'a, T> RowsMut<'a, T> {
    /// Parts of `len` values.
    pub fn new(data: &'a mut [T], len: usize) -> Self {
        Self { start: data.as_mut_ptr(), total: data.len(), len: len.max(1), borrow: PhantomData }
    }
}

// SAFETY: parts are disjoint pieces of one mutable slice.
unsafe impl<'a, T: Send> Split for RowsMut<'a, T> {
    type Part = &'a mut [T];

    fn count(&self) -> usize {
        self.total.div_ceil(self.len)
    }

    unsafe fn part(&self, index: usize) -> &'a mut [T] {
        let from = index * self.len;
        assert!(from < self.total);
        let len = self.len.min(self.total - from);
        // SAFETY: inside the slice that `new` borrowed for 'a; the caller asks for each once.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }
}

/// The parts of something, or as many times nothing.
pub struct Maybe<S>(Option<S>, usize);

impl<S: Split> Maybe<S> {
    /// `count` times nothing when there is nothing.
    pub fn new(parts: Option<S>, count: usize) -> Self {
        Self(parts, count)
    }
}

// SAFETY: parts are those of the member.
unsafe impl<S: Split> Split for Maybe<S> {
    type Part = Option<S::Part>;

    fn count(&self) -> usize {
        self.0.as_ref().map_or(self.1, Split::count)
    }

    unsafe fn part(&self, index: usize) -> Option<S::Part> {
        // SAFETY: the caller's promise is passed on.
        self.0.as_ref().map(|parts| unsafe { parts.part(index) })
    }
}

macro_rules! split_tuple {
    ($($name:ident $index:tt),*) => {
        // SAFETY: each member keeps its own parts apart.
        unsafe impl<$($name: Split),*> Split for ($($name,)*) {
            type Part = ($($name::Part,)*);

            fn count(&self) -> usize {
                let count = self.0.count();
                $(assert_eq!(self.$index.count(), count, "parts that go together are as many");)*
                count
            }

            unsafe fn part(&self, index: usize) -> Self::Part {
                // SAFETY: the caller's promise is passed on.
                unsafe { ($(self.$index.part(index),)*) }
            }
        }
    };
}
split_tuple!(A 0, B 1);
split_tuple!(A 0, B 1, C 2);
split_tuple!(A 0, B 1, C 2, D 3);
split_tuple!(A 0, B 1, C 2, D 3, E 4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_every_task_once() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads).unwrap();
            for tasks in [0, 1, 2, 7, 100] {
                for _ in 0..50 {
                    let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                    pool.run(tasks, |task| {
                        counts[task].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
                }
            }
        }
    }

    #[test]
    fn chores_beside_chores_are_done_once() {
        for threads in [1, 2, 3, 8] {
            let mut pool = Pool::new(threads).unwrap();
            pool.reserve_scratch(1).unwrap();
            for (tasks, beside) in [(0, 5), (1, 5), (2, 0), (7, 100), (100, 7)] {
                let counts: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                let (mut one, mut two) = (vec![0; beside], vec![0; 3]);
                let add = |_, part: &mut [i32], _: &mut [f32]| part[0] += 1;
                let chores = [&mut one, &mut two].map(|part| Chore::new(RowsMut::new(part, 1), add));
                let chores = Beside::new(chores.into());
                pool.run_threads_beside(&chores, tasks, |tasks, _| {
                    tasks.for_each(|task| {
                        counts[task].fetch_add(1, Ordering::Relaxed);
                    });
                });
                pool.finish(&chores);
                drop(chores);
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{threads} {tasks}");
                assert!(one.into_iter().chain(two).all(|c| c == 1), "{threads} {beside}");
            }
        }
    }

    #[test]
    fn a_thread_may_ask_for_its_next_task_before_it_is_done_with_one() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads).unwrap();
            for tasks in [0, 1, 3, 200] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run_threads(tasks, |tasks, _| {
                    let mut now = tasks.next();
                    while let Some(task) = now {
                        now = tasks.next();
                        counts[task].fetch_add(1, Ordering::Relaxed);
                    }
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{threads} threads");
            }
        }
    }

    #[test]
    fn wakes_threads_that_sleep() {
        let pool = Pool::new(3).unwrap();
        for _ in 0..5 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            let sum = AtomicUsize::new(0);
            pool.run(20, |task| {
                sum.fetch_add(task, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 190);
        }
    }

    #[test]
    fn hands_out_disjoint_parts() {
        let pool = Pool::new(4).unwrap();
        let from: Vec<f32> = (0..103).map(|i| i as f32).collect();
        let mut to = vec![0.0; 103];
        pool.each((Rows::new(&from, 10), RowsMut::new(&mut to, 10)), |index, (from, to)| {
            assert_eq!(from[0], index as f32 * 10.0);
            to.copy_from_slice(from);
        });
        assert_eq!(from, to);
    }

    #[test]
    fn a_panic_in_a_task_comes_out_and_leaves_the_pool_usable() {
        for threads in [1, 3] {
            let pool = Pool::new(threads).unwrap();
            let run = || pool.run(10, |task| assert_ne!(task, 7, "task seven"));
            assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
            let sum = AtomicUsize::new(0);
            pool.run(10, |task| {
                sum.fetch_add(task, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 45);
        }
    }

    #[test]
    fn scratch_belongs_to_one_thread_at_a_time() {
        let mut pool = Pool::new(4).unwrap();
        pool.reserve_scratch(64).unwrap();
        pool.run_with_scratch(200, |task, scratch| {
            scratch.fill(task as f32);
            std::hint::spin_loop();
            assert!(scratch.iter().all(|&v| v == task as f32));
        });
    }
}
