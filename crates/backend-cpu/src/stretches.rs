//! Which thread takes which task.
//!
//! Neighbouring tasks touch neighbouring memory, and a thread reads memory fastest in one long stretch. So each
//! thread has a stretch of tasks of its own, and whoever is done with it takes the later half of what is left of
//! the longest, so that threads end within one task of each other. Source: Hendler & Shavit 2002, "Non-blocking
//! steal-half work queues".

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is left of a thread's stretch: its first task in the high half, the one behind its last in the low half.
/// Alone in the two lines that a core fetches at once.
///
/// A task never comes back, so two equal values mean the same tasks, whatever happened in between.
#[derive(Default)]
#[repr(align(128))]
struct Left(AtomicU64);

impl Left {
    fn get(&self) -> Range<usize> {
        unpacked(self.0.load(Ordering::Relaxed))
    }

    fn set(&self, tasks: &Range<usize>) {
        self.0.store(packed(tasks), Ordering::Relaxed);
    }

    /// Leaves `after` when `before` is there.
    fn replace(&self, before: &Range<usize>, after: &Range<usize>) -> bool {
        let (before, after) = (packed(before), packed(after));
        self.0.compare_exchange_weak(before, after, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

fn packed(tasks: &Range<usize>) -> u64 {
    (tasks.start as u64) << 32 | tasks.end as u64
}

fn unpacked(tasks: u64) -> Range<usize> {
    (tasks >> 32) as usize..tasks as u32 as usize
}

/// The tasks of a thread, which it takes one by one.
pub trait Share: Iterator<Item = usize> {
    /// How many are left of its own stretch. Others may take some meanwhile, and more may come from theirs.
    fn own(&self) -> usize;
}

impl Share for Range<usize> {
    fn own(&self) -> usize {
        self.len()
    }
}

/// What a thread gets of [`Stretches`].
struct Turns<'a> {
    all: &'a Stretches,
    thread: usize,
}

impl Iterator for Turns<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.all.next(self.thread)
    }
}

impl Share for Turns<'_> {
    fn own(&self) -> usize {
        self.all.0[self.thread].get().len()
    }
}

/// The tasks of a job that nobody has taken yet. Who takes one learns nothing of what others wrote: the
/// beginning and the end of a job see to that.
pub struct Stretches(Box<[Left]>);

impl Stretches {
    /// For so many threads; no tasks.
    pub fn new(threads: usize) -> Self {
        Self((0..threads).map(|_| Left::default()).collect())
    }

    /// Gives each thread its stretch of `tasks` tasks. Nobody may be taking any at the moment.
    pub fn fill(&self, tasks: usize) {
        assert!(u32::try_from(tasks).is_ok(), "{tasks} tasks in one job");
        let start = |thread| thread * tasks / self.0.len();
        self.0.iter().enumerate().for_each(|(thread, left)| left.set(&(start(thread)..start(thread + 1))));
    }

    /// Drops what is left, but for what is being stolen right now.
    pub fn clear(&self) {
        self.0.iter().for_each(|left| left.set(&(0..0)));
    }

    /// The tasks of a thread, as long as there are any.
    pub fn share(&self, thread: usize) -> impl Share {
        Turns { all: self, thread }
    }

    /// The next task for a thread; `None` when all are taken.
    fn next(&self, thread: usize) -> Option<usize> {
        let own = &self.0[thread];
        loop {
            let left = own.get();
            if left.is_empty() {
                // Nobody else writes to an empty stretch.
                own.set(&self.steal()?);
            } else if own.replace(&left, &(left.start + 1..left.end)) {
                return Some(left.start);
            }
        }
    }

    /// The later half of what is left of the longest stretch.
    fn steal(&self) -> Option<Range<usize>> {
        loop {
            let (longest, left) = self.0.iter().map(|l| (l, l.get())).max_by_key(|(_, left)| left.len())?;
            if left.is_empty() {
                return None;
            }
            let middle = left.start + left.len() / 2;
            if longest.replace(&left, &(left.start..middle)) {
                return Some(middle..left.end);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn a_thread_takes_its_own_tasks_in_order_and_then_later_halves() {
        let stretches = Stretches::new(2);
        stretches.fill(16);
        assert_eq!((stretches.share(0).own(), stretches.share(1).own()), (8, 8));
        let order: Vec<_> = stretches.share(1).collect();
        assert_eq!(order, [8, 9, 10, 11, 12, 13, 14, 15, 4, 5, 6, 7, 2, 3, 1, 0]);
        assert_eq!((stretches.share(0).own(), stretches.share(0).next()), (0, None));
    }

    #[test]
    fn threads_take_every_task_once() {
        for threads in [1, 2, 3, 8] {
            let stretches = Stretches::new(threads);
            for tasks in [0, 1, 2, 7, 100, 10_000] {
                let counts: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                stretches.fill(tasks);
                std::thread::scope(|scope| {
                    for thread in 0..threads {
                        let (stretches, counts) = (&stretches, &counts);
                        scope.spawn(move || {
                            for task in stretches.share(thread) {
                                counts[task].fetch_add(1, Ordering::Relaxed);
                            }
                        });
                    }
                });
                let counts: Vec<_> = counts.into_iter().map(AtomicUsize::into_inner).collect();
                assert!(
                    counts.iter().all(|&count| count == 1),
                    "{threads} threads, {tasks} tasks: {counts:?}"
                );
            }
        }
    }

    #[test]
    fn nothing_is_left_after_clearing() {
        let stretches = Stretches::new(3);
        stretches.fill(100);
        stretches.clear();
        assert!((0..3).all(|thread| stretches.share(thread).next().is_none()));
    }
}
