//! How the panels of a product are shared out.
//!
//! A thread reads memory fastest in one long stretch, and threads end together when the last tasks are small.
//! So each thread's share comes in four tasks, of a half, a quarter and two eighths of it: whoever is late
//! leaves some of its small ones to the others.

use std::ops::Range;

/// Bytes that are worth handing out.
const WORTH: usize = 32 << 10;
/// Units of the share of a thread.
const UNITS: usize = 8;

/// Groups of panels in tasks.
pub(super) struct Cut {
    groups: usize,
    /// Equal parts of the groups: [`UNITS`] for each thread, or as few as are worth handing out.
    units: usize,
    threads: usize,
}

impl Cut {
    /// Of so many groups, each of which is worth reading so many bytes.
    pub fn new(groups: usize, bytes: usize, threads: usize) -> Self {
        let units = groups.min(groups * bytes / WORTH).clamp(1, UNITS * threads);
        Self { groups, units, threads }
    }

    /// How many tasks there are. They are handed out in order.
    pub fn tasks(&self) -> usize {
        if self.units == UNITS * self.threads { 4 * self.threads } else { self.units }
    }

    /// The groups of a task.
    pub fn task(&self, task: usize) -> Range<usize> {
        let threads = self.threads;
        let (first, len) = match task / threads {
            _ if self.units < UNITS * threads => (task, 1),
            0 => (4 * task, 4),
            1 => (2 * (task + threads), 2),
            _ => (task + 4 * threads, 1),
        };
        let start = |unit| unit * self.groups / self.units;
        start(first)..start(first + len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_is_in_one_task() {
        for threads in [1, 2, 3, 16] {
            for groups in [1, 2, 7, 16, 100, 1001] {
                for bytes in [64, 4096, 100_000] {
                    let cut = Cut::new(groups, bytes, threads);
                    let all: Vec<usize> = (0..cut.tasks()).flat_map(|task| cut.task(task)).collect();
                    assert_eq!(all, (0..groups).collect::<Vec<_>>(), "{threads} threads, {bytes} bytes");
                }
            }
        }
    }

    #[test]
    fn first_tasks_are_half_of_a_share_and_small_products_stay_whole() {
        let cut = Cut::new(160, 40_000, 2);
        let len = |task| cut.task(task).len();
        assert_eq!((0..cut.tasks()).map(len).collect::<Vec<_>>(), [40, 40, 20, 20, 10, 10, 10, 10]);
        assert_eq!(Cut::new(160, 100, 2).tasks(), 1);
    }
}
