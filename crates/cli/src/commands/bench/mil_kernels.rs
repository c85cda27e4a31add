//! The MIL programs of a model on the virtual Neural Engine, beside their matrix products alone.

use std::process::ExitCode;

use backend_ane::{Dims, Plan};
use bench::results::{Case, Quantity};
use engine::RunConfig;
use serde_json::json;

use super::kernels::Args;

/// Measures.
pub fn run(args: &Args, config: &RunConfig) -> anyhow::Result<ExitCode> {
    let block = Dims::new(&config.model, args.seq);
    let limits = args.device.virtual_chip().limits();
    let plan = Plan::new(args.seq, 1).fit(&block, &limits)?;
    let make = |kernel: backend_ane::kernels::Kernel| {
        let (dims, choices) = (plan.dims(&block, kernel), plan.choices);
        (kernel.name(), move || kernel.program(&dims, &choices))
    };
    let programs: Vec<_> = plan.kernels().into_iter().map(make).collect();
    let programs: Vec<(&str, &dyn Fn() -> mil::Program)> =
        programs.iter().map(|(name, f)| (*name, f as &dyn Fn() -> mil::Program)).collect();
    let mut measurement =
        args.output.begin("MIL programs beside their matrix products alone", &args.device)?;
    measurement.protocol(
        "the program and its products in turn; predicted_ms is the analytic clock's, and no chip's",
    );
    let report = bench::mil_kernels(&programs, args.device.virtual_ane_settings(), args.runs)?;
    measurement.details(json!({ "compile_ms": report.compile_ms, "preset": args.preset, "seq": args.seq }));
    for k in &report.kernels {
        let name = format!("kernels/{}/seq{}/{}", args.preset, args.seq, k.kernel);
        let mut run = Case::new(&*name, &*report.device, Quantity::ms("program run"), k.runs_ms.clone());
        // One more than were timed: the first writes down the products.
        run.dispatches = Some([(report.device.clone(), k.runs_ms.len() as u64 + 1)].into());
        run.details = json!({ "overhead_percent": k.overhead_percent, "gflop": k.gflop, "predicted_ms": k.predicted_ms });
        let alone = Quantity::ms("its products alone");
        let products = Case::new(&*name, &*args.device.label(), alone, k.products_runs_ms.clone());
        measurement.add([run, products])?;
    }
    if args.output.json {
        measurement.finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "{}: {} tokens, {}, {} programs compiled in {:.1} ms",
        args.preset,
        args.seq,
        report.device,
        report.kernels.len(),
        report.compile_ms
    );
    println!("  program          median ms   products   overhead    fastest   overhead   GFLOP/s   chip ms");
    for k in &report.kernels {
        println!(
            "  {:<16} {:>9.2}  {:>9.2}  {:>7.0} %  {:>9.2}  {:>7.0} %  {:>8.1}  {:>8.3}",
            k.kernel,
            k.ms,
            k.products_ms,
            k.overhead_percent,
            k.best_ms,
            k.best_overhead_percent,
            k.gflop / k.ms * 1e3,
            k.predicted_ms
        );
    }
    println!(
        "chip ms: what {} would take by the analytic clock; no chip ran this",
        args.device.virtual_chip().name
    );
    Ok(ExitCode::SUCCESS)
}
