//! `--device ane`: the virtual Neural Engine trains what the CPU trains, and a run survives its limits.

use serde_json::Value;

use crate::lab::Lab;

const ANE: [&str; 2] = ["--device", "ane"];

fn losses(lab: &Lab, run: &str) -> Vec<f64> {
    let records = lab.metrics(run);
    let steps = records.iter().filter(|r| r["kind"] == "step");
    steps.map(|r| r["loss"].as_f64().unwrap()).collect()
}

#[test]
fn learns_real_text_within_a_percent_of_the_cpu_at_every_step() {
    let lab = Lab::new();
    let run = ["--steps", "100", "--eval-every", "0", "--sample-every", "0", "--plain"];
    let said = lab.trained("ane", &[&run[..], &ANE].concat());
    assert!(said.contains(" on virtual ANE (M4 Max), "), "{said}");
    lab.trained("cpu", &run);
    let (ane, cpu) = (losses(&lab, "ane"), losses(&lab, "cpu"));
    assert_eq!((ane.len(), cpu.len()), (100, 100));
    for (step, (ane, cpu)) in ane.iter().zip(&cpu).enumerate() {
        assert!((ane - cpu).abs() <= 0.01 * cpu, "step {}: loss {ane} instead of {cpu}", step + 1);
    }
    assert!(ane[99] < 0.75 * ane[0], "nothing was learned: {} after {}", ane[99], ane[0]);
    assert_ne!(ane, cpu, "the same device ran twice");
}

#[test]
fn the_classifier_runs_on_the_device_when_asked() {
    let lab = Lab::new();
    let run = ["--steps", "20", "--eval-every", "10", "--sample-every", "0", "--plain"];
    let compiles = |said: &str| -> u32 {
        let line = said.lines().find(|line| line.contains(" dispatches of ")).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "compiles").unwrap();
        words[at - 1].parse().unwrap()
    };
    lab.trained("cpu", &run);
    let host = lab.trained("ane", &[&run[..], &ANE].concat());
    let device = [&run[..], &ANE, &["--classifier", "device"]].concat();
    let device = lab.trained("device", &device);
    // Two programs more: `head_fwd` and `head_bwd`.
    assert_eq!(compiles(&device), compiles(&host) + 2);
    let (device, host, cpu) = (losses(&lab, "device"), losses(&lab, "ane"), losses(&lab, "cpu"));
    assert_eq!((device.len(), cpu.len()), (20, 20));
    for (step, (device, cpu)) in device.iter().zip(&cpu).enumerate() {
        assert!((device - cpu).abs() <= 0.01 * cpu, "step {}: loss {device} instead of {cpu}", step + 1);
    }
    assert_ne!(device, host, "the logits were computed in f32 both times");

    let settings = std::fs::read_to_string(lab.path("device/config.toml")).unwrap();
    assert!(settings.contains("classifier = \"device\""), "{settings}");
    let other = lab.train("device", &[&run[..], &ANE].concat());
    let drift = "train.classifier: \"device\" in the run, \"cpu\" now";
    assert!(other.code == 2 && other.err.contains(drift), "{}", other.err);
    let refused = lab.train("refused", &["--classifier", "device"]);
    let wanted = "error: `train.classifier` is device, and cpu computes every part of the model; use --device \
                  ane, or --classifier cpu\n";
    assert_eq!((refused.code, refused.err.as_str()), (2, wanted));
}

#[test]
fn a_run_says_that_it_goes_on_on_another_device() {
    let lab = Lab::new();
    let steps = |n| ["--steps", n, "--schedule", "constant", "--allow-drift", "--eval-every", "0"];
    lab.trained("run", &steps("4"));
    let said = lab.trained("run", &[&steps("6")[..], &ANE].concat());
    let note = "note: the run was trained on cpu so far and goes on on virtual ANE (M4 Max); its curve";
    assert!(said.contains(note), "{said}");
    let said = lab.trained("run", &[&steps("8")[..], &ANE].concat());
    assert!(said.contains("resuming at step 6") && !said.contains("note: "), "{said}");
    let state = std::fs::read(lab.newest("run").1.join("training/state.json")).unwrap();
    let state: Value = serde_json::from_slice(&state).unwrap();
    assert_eq!(state["device"], "virtual ANE (M4 Max)");
}

#[cfg(feature = "failpoints")]
mod restarts {
    use super::*;
    use crate::support::{self, Ran};

    /// Ten programs and four compiles to spare; three of them for the writer of samples.
    const RUN: [&str; 10] = [
        "--steps",
        "60",
        "--sample-every",
        "0",
        "--eval-every",
        "25",
        "--save-every",
        "0",
        "--device",
        "ane",
    ];

    fn run(lab: &Lab, out: &str, faults: &str, more: &[&str]) -> Ran {
        let mut command = lab.training(out, &[&RUN[..], more].concat());
        support::run(command.env("FAILPOINTS", format!("device::faults=return({faults})")))
    }

    fn restarted(ran: &Ran) -> Vec<&str> {
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran.err.lines().filter(|line| line.starts_with("restarting the process after ")).collect()
    }

    #[test]
    fn a_run_that_became_slow_goes_on_in_a_fresh_process_bit_for_bit() {
        let lab = Lab::new();
        lab.trained("whole", &RUN);
        // Eight dispatches of a program per step; `care_factor` keeps a busy machine out of it.
        let faults = "budget=14 slow_after=160 care_factor=8.0";
        let ran = run(&lab, "run", faults, &["--fresh"]);
        let lines = restarted(&ran);
        assert!(!lines.is_empty(), "{}", ran.err);
        assert!(
            lines[0].ends_with(
                ": dispatches became slow, and too few compiles are left to make the programs anew"
            )
        );
        assert!(ran.err.contains("resuming at step 2"), "{}", ran.err);
        lab.same("whole", "run");
    }

    #[test]
    fn a_dispatch_that_fails_without_compiles_left_costs_one_step() {
        let lab = Lab::new();
        lab.trained("whole", &RUN);
        // In the middle of a step, with no checkpoint written so far.
        let ran = run(&lab, "run", "budget=10 fail_at=2500 care_factor=1e9", &[]);
        let lines = restarted(&ran);
        assert!(lines[0].contains("failed, and no compile is left"), "{lines:?}");
        // The writer of the last sample needs compiles too, with nothing left to train.
        assert!(lines.last().unwrap().contains("would be compile 11 of this process"), "{lines:?}");
        lab.same("whole", "run");
    }

    #[test]
    fn restarts_that_lead_nowhere_end() {
        let lab = Lab::new();
        let ran = run(&lab, "run", "budget=5", &[]);
        assert_eq!(ran.code, 1, "{}", ran.err);
        let restarts = ran.err.matches("restarting the process after 0 steps: ").count();
        assert_eq!(restarts, 2, "{}", ran.err);
        let last = ran.err.lines().last().unwrap();
        assert!(last.starts_with("error: 3 processes in a row made less than 10 steps each"), "{last}");
        assert!(last.contains("would be compile 6 of this process, and the ANE takes 5"), "{last}");
    }
}
