//! `--optimizer-device`: gradients from one device, updates on a GPU; and what `--device auto` says.

use metal_decode::{Api, Gpu};
use serde_json::Value;

use crate::lab::Lab;

// A warm-up that fits in half of the shortest run is the same for all lengths.
const RUN: [&str; 8] =
    ["--eval-every", "0", "--sample-every", "0", "--schedule", "constant", "--warmup", "2"];
const GPU: [&str; 2] = ["--optimizer-device", "vulkan"];

fn losses(lab: &Lab, run: &str) -> Vec<f64> {
    let records = lab.metrics(run);
    records.iter().filter(|r| r["kind"] == "step").map(|r| r["loss"].as_f64().unwrap()).collect()
}

#[test]
fn updates_on_a_gpu_follow_those_on_the_cpu_and_resume_exactly() {
    let lab = Lab::new();
    let steps = |n| [&RUN[..], &["--steps", n]].concat();
    let Ok(gpu) = Gpu::open(Api::Vulkan) else {
        // Nothing to run on: then it is said before anything is written.
        let ran = lab.train("run", &[&steps("4")[..], &GPU].concat());
        assert!(ran.code == 5 && ran.err.contains("--optimizer-device cpu"), "{}", ran.err);
        assert!(!lab.path("run").exists());
        return;
    };
    lab.trained("cpu", &steps("12"));
    for device in ["cpu", "virtual-ane"] {
        let on = |n| [&steps(n)[..], &GPU, &["--device", device]].concat();
        let (whole, parts) = (format!("{device}-whole"), format!("{device}-parts"));
        let said = lab.trained(&whole, &on("12"));
        assert!(said.contains(&format!("updates on {}", gpu.label())), "{said}");
        for (step, (got, wanted)) in losses(&lab, &whole).iter().zip(losses(&lab, "cpu")).enumerate() {
            assert!((got - wanted).abs() <= 0.01 * wanted, "{device}, step {}: {got}, {wanted}", step + 1);
        }
        // The length of a run is a setting like the others.
        lab.trained(&parts, &on("5"));
        lab.trained(&parts, &[&on("12")[..], &["--allow-drift"]].concat());
        assert_eq!(losses(&lab, &parts), losses(&lab, &whole));
        let tensors = |run: &str| {
            let files = ["model.safetensors", "training/optimizer.safetensors"];
            files.map(|file| std::fs::read(lab.newest(run).1.join(file)).unwrap())
        };
        assert!(tensors(&parts) == tensors(&whole), "{device}: weights or moments differ after a resume");
        let state = std::fs::read(lab.newest(&parts).1.join("training/state.json")).unwrap();
        let state: Value = serde_json::from_slice(&state).unwrap();
        assert!(state["device"].as_str().unwrap().ends_with(&format!(", updates on {}", gpu.label())));
    }
    let other = lab.train("cpu-whole", &steps("12"));
    let drift = "optimizer.device: \"vulkan\" in the run, \"cpu\" now";
    assert!(other.code == 2 && other.err.contains(drift), "{}", other.err);
}

#[test]
fn updates_on_what_is_not_there_are_refused() {
    let lab = Lab::new();
    let narrow = lab.train("run", &[&GPU[..], &["--optimizer-state", "q8"]].concat());
    let why = "a GPU keeps the moments as f32: leave --optimizer-state out, or use --optimizer-device cpu";
    assert!(narrow.code == 2 && narrow.err.contains(why), "{}", narrow.err);
    if std::env::consts::OS != "macos" {
        let metal = lab.train("run", &["--optimizer-device", "metal"]);
        assert!(metal.code == 5 && metal.err.contains("no Metal GPU"), "{}", metal.err);
    }
    assert!(!lab.path("run").exists());
}

#[test]
fn auto_says_where_it_writes_and_passes_a_software_driver_over() {
    let lab = Lab::new();
    lab.trained("run", &["--steps", "4"]);
    let ran = lab.run(&["generate", "run", "--prompt", "The", "-n", "4", "--device", "auto"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let said = ran.err.lines().filter(|line| line.starts_with("writing on ")).collect::<Vec<_>>();
    assert_eq!(said.len(), 1, "{}", ran.err);
    if Gpu::open(Api::Any).is_err() {
        assert!(
            said[0].starts_with("writing on cpu, ") && said[0].contains("no Metal or Vulkan GPU"),
            "{}",
            said[0]
        );
    }
    let named = lab.run(&["generate", "run", "--prompt", "The", "-n", "4"]);
    assert_eq!((named.code, named.err.as_str()), (0, ""), "who names the device knows it: the lab does");
}

#[test]
fn prompts_are_read_on_one_device_and_texts_written_on_another() {
    let lab = Lab::new();
    lab.trained("run", &["--steps", "60"]);
    let write = |more: &[&str]| {
        let ran = lab.run(&[&["generate", "run", "-p", "The cat", "-t", "0", "-n", "20"], more].concat());
        assert_eq!(ran.code, 0, "{}", ran.err);
        (ran.out, ran.err)
    };
    let (text, _) = write(&["--device", "cpu"]);
    // The rounding of the virtual Neural Engine moves no choice of a greedy text so short.
    let (handed, said) = write(&["--device", "cpu", "--prompts", "virtual-ane", "--stats"]);
    assert_eq!(handed, text);
    assert!(said.contains("f32; prompts on virtual ANE (M4 Max), "), "{said}");
    let window = lab.run(&["generate", "run", "-p", "The", "--device", "cpu", "--window", "8"]);
    let why = "--window 8 is for GPUs: --device metal or vulkan";
    assert!(window.code == 2 && window.err.contains(why), "{}", window.err);
    let Ok(gpu) = Gpu::open(Api::Vulkan) else { return };
    for prompts in ["cpu", "virtual-ane"] {
        let (handed, said) = write(&["--device", "vulkan", "--prompts", prompts, "--stats"]);
        assert_eq!(handed, text, "{prompts}");
        assert!(said.contains(&format!("on {}, f16; prompts on ", gpu.label())), "{said}");
    }
    // A window that holds the whole text changes nothing.
    assert_eq!(write(&["--device", "vulkan", "--window", "60"]).0, text);
}

#[test]
fn tuning_is_kept_and_used() {
    let lab = Lab::new();
    let tune = |more: &[&str]| {
        let args = [&["tune", "--device", "vulkan", "--shape", "tiny"], more].concat();
        crate::support::run(lab.command(&args).env("RUSTANE_CACHE", lab.path("cache")))
    };
    let Ok(gpu) = Gpu::open(Api::Vulkan) else {
        assert_eq!(tune(&[]).code, 5);
        return;
    };
    let ran = tune(&["--format", "q8_0"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.starts_with(&gpu.label()) && ran.out.contains("kept in "), "{}", ran.out);
    let kept = || {
        let file = std::fs::read_dir(lab.path("cache/tuning")).unwrap().next().unwrap().unwrap().path();
        serde_json::from_slice::<metal_decode::Tuning>(&std::fs::read(file).unwrap()).unwrap().entries
    };
    let first = kept();
    // One for each product of a block and the head; the tiny model has some of equal shape.
    assert!((3..=5).contains(&first.len()) && first.iter().all(|e| e.format == "q8_0"), "{first:?}");
    // Another format joins them, and the same one again replaces its own.
    assert_eq!((tune(&["--format", "f16"]).code, tune(&["--format", "f16"]).code), (0, 0));
    let both = kept();
    assert!(both.len() == 2 * first.len() && both[..first.len()] == first[..], "{both:?}");
}
