//! The published protocol, through the binary.

use model::quant::Format;
use serde_json::Value;

use crate::lab::Lab;

/// Losses before each of ten steps and after the last, and gradient norms, as PyTorch has them in fp32:
/// `tests/interop/torch_published.py --dim 128 --hidden 256 --layers 2 --seq 64`.
const PYTORCH: [f64; 11] = [
    9.012517, 9.010823, 9.007426, 9.002312, 8.995460, 8.986839, 8.976412, 8.964129, 8.949933, 8.933754,
    8.915504,
];
const NORMS: [f64; 10] = [1.8633, 1.8716, 1.8899, 1.9215, 1.9713, 2.0463, 2.1548, 2.3065, 2.5116, 2.7801];

fn report(lab: &Lab, args: &[&str]) -> Value {
    let ran = lab.run(&[&["bench"], args, &["--json"]].concat());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}");
    let results: Value = serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {}", ran.out));
    results["cases"][0].clone()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number")).collect()
}

#[test]
fn ten_steps_are_those_of_pytorch_on_both_devices() {
    let lab = Lab::new();
    for (device, loss, norm) in [("cpu", 2e-5, 2e-4), ("ane", 2e-4, 2e-3)] {
        let args = ["sweep", "--shape", "128,256,2,64", "--timed", "0", "--device", device];
        let case = report(&lab, &args);
        let report = &case["details"];
        let mut losses = numbers(&report["losses"]);
        losses.push(report["loss_after"].as_f64().unwrap());
        for (got, wanted) in losses.iter().zip(PYTORCH) {
            assert!((got - wanted).abs() <= loss, "{device}: {losses:?}");
        }
        let norms = numbers(&report["gradient_norms"]);
        for (got, wanted) in norms.iter().zip(NORMS) {
            assert!((got / wanted - 1.0).abs() <= norm, "{device}: {norms:?}");
        }
        assert_eq!((losses.len(), norms.len()), (11, 10));
        // What ran is proven by the ledger: ten dispatches per layer and step, three per forward pass.
        let dispatches =
            case["dispatches"].as_object().map(|d| d.values().map(|n| n.as_u64().unwrap()).sum::<u64>());
        assert_eq!(dispatches, (device == "ane").then_some(2 * (10 * 10 + 2 * 3)), "{case}");
        assert!(case["device"].as_str().unwrap().starts_with(if device == "ane" {
            "virtual ANE"
        } else {
            "cpu"
        }));
    }
}

#[test]
fn the_first_loss_is_the_published_one() {
    let lab = Lab::new();
    // Fresh blocks add nothing, so one of the twenty layers tells the loss of all.
    let case =
        report(&lab, &["forward", "--config", "600m-A", "--layers", "1", "--warmup", "0", "--timed", "1"]);
    let report = &case["details"];
    assert_eq!(format!("{:.4}", report["loss"].as_f64().unwrap()), "9.0108");
    assert_eq!((&report["layers"], &report["layers_of_model"]), (&1.into(), &20.into()));
    assert!(case["published"].is_null(), "a slice stands beside the published whole: {case}");
}

/// One layer's weights in a format, and its loss beside that in f32. Fresh blocks pass on what they are given, so the
/// distance is that of the rounded embedding; `backend_cpu::OneBlock` is tested with blocks that do something.
#[test]
fn forward_passes_hold_weights_in_few_bits() {
    let lab = Lab::new();
    let of = |format: &str| {
        let shape = [
            "forward",
            "--shape",
            "512,2048,3,64",
            "--warmup",
            "0",
            "--timed",
            "1",
            "--device",
            "cpu",
            "--threads",
            "2",
        ];
        report(&lab, &[&shape[..], &["--weights", format]].concat())
    };
    let number = |case: &Value, key: &str| case["details"][key].as_f64().unwrap();
    let plain = of("f32");
    assert_eq!(plain["name"], "forward/512,2048,3,64");
    // One layer and the embedding, 8.39 million weights; the rest is activations and the program.
    let weights = (4.0 * 512.0 * 512.0 + 3.0 * 512.0 * 2048.0) + 8192.0 * 512.0;
    for (format, name, bits, distance) in
        [("bf16", "bf16", 16.0, 1e-3), ("int8", "q8_0", 8.5, 1e-3), ("int4", "q4_0", 4.5, 1e-2)]
    {
        let case = of(format);
        assert_eq!(case["name"], format!("forward/512,2048,3,64/{name}"));
        let peak = backend_cpu::probe::peak_of_weights(Format::find(name), 1).unwrap().0;
        assert_eq!(case["details"]["peak_of"], format!("{peak:?}").to_lowercase(), "{format}");
        let (loss, wanted) = (number(&case, "loss"), number(&plain, "loss"));
        assert!((loss - wanted).abs() < distance, "{format}: {loss}, in f32 {wanted}");
        let predicted = number(&case, "memory_predicted_bytes");
        let held = weights * bits / 8.0;
        assert!(held < predicted && predicted < held + 64e6, "{format}: {predicted}, weights {held}");
        assert!(predicted < number(&plain, "memory_predicted_bytes") - 2e6, "{format}: {predicted}");
    }
    for (args, code, wanted) in [
        (
            &["--weights", "f16"][..],
            2,
            "the CPU does not hold weights as f16; wanted f32, bf16, int8 or int4",
        ),
        (&["--weights", "int3"], 2, "wanted f32, bf16, int8 or int4"),
        (
            &["--weights", "int8", "--device", "virtual-ane"],
            2,
            "weights as q8_0 are of the CPU, not of the virtual ANE",
        ),
    ] {
        let ran = lab.run(&[&["bench", "forward", "--config", "tiny"], args].concat());
        assert_eq!(ran.code, code, "{args:?}: {}", ran.err);
        assert!(ran.err.contains(wanted), "{args:?}: {}", ran.err);
    }
}

#[test]
fn the_printed_blocks_say_what_ran() {
    let lab = Lab::new();
    let args = ["bench", "sweep", "--config", "tiny", "--layers", "2", "--steps", "2", "--timed", "1"];
    let ran = lab.run(&args);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    for part in
        ["tiny — 192d/512h/2 of 6 layers/seq256", "[1/4]", "[2/4] Forward pass... loss=7.6", "[3/4]", "[4/4]"]
    {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    assert!(!ran.out.contains("published:"), "nothing was published of it: {}", ran.out);
    let ran = lab.run(&["bench", "forward", "--config", "tiny", "--timed", "1"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    for part in ["6L/seq256", "one layer in memory at a time", "[1/3]", "[2/3]", "[3/3]", "GFLOP/s peak"] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
}

#[test]
fn what_cannot_run_is_refused() {
    let lab = Lab::new();
    for (args, wanted) in [
        (&["sweep", "--config", "600m-Z"][..], "there is no preset `600m-z`; did you mean `600m-"),
        (&["sweep", "--shape", "100,200,3,64"], "DIM a multiple of 128"),
        (&["sweep", "--config", "tiny", "--layers", "0"], "wanted a number above 0, or `fit`"),
        (&["sweep", "--config", "tiny", "--steps", "0", "--timed", "0"], "wanted at least 1 of either"),
        (&["forward", "--config", "tiny", "--timed", "0"], "--timed is 0, wanted at least 1"),
        (&["sweep", "--config", "tiny", "--device", "metal"], "does not train yet"),
    ] {
        let ran = lab.run(&[&["bench"], args].concat());
        assert!(ran.code != 0 && ran.err.contains(wanted), "{args:?}: {} {}", ran.code, ran.err);
    }
}
