//! The Metal text of every kernel, as naga writes it on a Mac: reviewed as a diff, since no Mac runs here.

use metal_decode::kernels::gemv::{Gemv, Tiling};
use metal_decode::kernels::rope_append::Heads;
use metal_decode::kernels::{
    Epilogue, adamw, argmax, attention, embed, gemm, muon, rms_norm, rope_append, rows, sample, stream,
};
use model::quant::Format;
use naga::back::msl;
use naga::valid::{Capabilities, ValidationFlags, Validator};

/// Lanes of a subgroup on Apple's GPUs.
const LANES: u32 = 32;
/// A block's shape: 8 heads, 2 key heads.
const HEADS: Heads = Heads { heads: 8, kv_heads: 2, head_dim: 64, capacity: 1024, window: 0 };

/// The same with a window.
const RING: Heads = Heads { window: 512, ..HEADS };

/// WGSL to MSL as wgpu does it: no run-time checks, workgroup memory not zeroed, overrides made literals.
fn metal(text: &str) -> String {
    let module = naga::front::wgsl::parse_str(text).unwrap_or_else(|e| panic!("{}", e.emit_to_string(text)));
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all())
        .validate(&module)
        .unwrap_or_else(|e| panic!("{}", e.emit_to_string(text)));
    // Any extent will do; small floats are epsilons and scales.
    let constants = module.overrides.iter().map(|(_, over)| {
        let float = matches!(module.types[over.ty].inner, naga::TypeInner::Scalar(s) if s.kind == naga::ScalarKind::Float);
        (over.name.clone().expect("overrides have names"), if float { 0.5 } else { 64.0 })
    });
    let constants = constants.collect();
    let (module, info) =
        naga::back::pipeline_constants::process_overrides(&module, &info, None, &constants).unwrap();
    let options = msl::Options {
        lang_version: (3, 1),
        fake_missing_bindings: true,
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: false,
        ..msl::Options::default()
    };
    let (text, _) = msl::write_string(&module, &info, &options, &msl::PipelineOptions::default()).unwrap();
    text
}

/// No Mac takes this way by itself; the text is kept legal there.
fn in_dots(format: Format, norm: bool, epilogue: Epilogue) -> String {
    let tiling = Tiling { rows: 2, threads: 64, split: 2, dots: 8 };
    Gemv { format, tiling, columns: 1, norm, epilogue }.text(LANES)
}

fn gemv(format: Format, columns: u32, norm: bool, epilogue: Epilogue) -> String {
    let tiling = Tiling { rows: 2, threads: 64, split: 1, dots: 0 };
    Gemv { format, tiling, columns, norm, epilogue }.text(LANES)
}

#[test]
fn metal_text() {
    let kernels = [
        ("embed_q4_0", embed::text(Format::Q4_0, LANES)),
        ("gemv_f16", gemv(Format::F16, 1, false, Epilogue::Store)),
        ("gemv_bf16_bias", gemv(Format::Bf16, 1, true, Epilogue::Bias)),
        ("gemv_q8_0_norm_swiglu", gemv(Format::Q8_0, 1, true, Epilogue::Swiglu)),
        ("gemv_q4_0_residual", gemv(Format::Q4_0, 1, false, Epilogue::Residual)),
        ("gemv_f16_norm_largest", gemv(Format::F16, 1, true, Epilogue::Largest)),
        ("gemv_q8_0_columns", gemv(Format::Q8_0, 2, true, Epilogue::Store)),
        ("dots_q8_0_norm_swiglu", in_dots(Format::Q8_0, true, Epilogue::Swiglu)),
        ("dots_q4_0_residual", in_dots(Format::Q4_0, false, Epilogue::Residual)),
        ("gemm_q8_0", gemm::text(Format::Q8_0, LANES, Epilogue::Store)),
        ("rope_append", rope_append::text(HEADS, true)),
        ("attention", attention::text(HEADS, LANES, 4, None)),
        ("attention_turn", attention::text(HEADS, LANES, 1, Some(attention::Turn { norm: true }))),
        ("attention_turn_ring", attention::text(RING, LANES, 1, Some(attention::Turn { norm: false }))),
        ("attention_combine", attention::combine(HEADS, LANES, 4)),
        ("rms_norm", rms_norm::text(LANES)),
        ("rows", rows::text()),
        ("rows_last", rows::last().to_owned()),
        ("argmax", argmax::text()),
        ("sample", sample::text()),
        ("sample_greedy", sample::greedy()),
        ("stream_read", stream::READ.to_owned()),
        ("stream_fill", stream::FILL.to_owned()),
        ("adamw", adamw::text()),
        ("adamw_squares", adamw::squares(LANES)),
        ("muon_momentum", muon::momentum()),
        ("muon_normalise", muon::normalise()),
        ("muon_product", muon::product()),
        ("muon_step", muon::step()),
    ];
    for (name, text) in kernels {
        let text = metal(&text);
        // What run-time checks would leave behind.
        assert!(
            !text.contains("min(unsigned(") && !text.contains("loop_bound"),
            "{name} is checked at run time"
        );
        insta::assert_snapshot!(name, text);
    }
}
