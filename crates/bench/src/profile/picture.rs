//! One step as a picture: what was called when, and the least that each call could have taken.

use std::fmt::Write;

use backend::{Phase, Span};

use super::{Profile, work};
use crate::plan::Machine;

/// Width of the picture, and of the time in it, which begins at [`LEFT`].
const WIDTH: f64 = 1200.0;
const LEFT: f64 = 20.0;
const SPAN: f64 = WIDTH - 2.0 * LEFT;
/// Where rows begin, and how high they are: passes, calls, axis.
const PASSES: (f64, f64) = (44.0, 22.0);
const CALLS: (f64, f64) = (70.0, 56.0);
const AXIS: f64 = 132.0;
/// The first line of the legend, and the distance of lines.
const LEGEND: (f64, f64) = (176.0, 20.0);

/// Colours that stay apart for colour-blind eyes, one for each phase: attention and feed-forward have the same
/// on both ways, paler on the way forward. Source: Okabe and Ito 2008, Color Universal Design.
fn color(phase: Phase) -> &'static str {
    match phase {
        Phase::Embed | Phase::EmbedBackward => "#999999",
        Phase::Attention => "#56b4e9",
        Phase::Ffn => "#f0c36d",
        Phase::Loss => "#dba5c4",
        Phase::LossBackward => "#cc79a7",
        Phase::FfnBackward => "#e69f00",
        Phase::AttentionBackward => "#0072b2",
        Phase::Update => "#009e73",
    }
}

/// The pass that a call belongs to.
fn pass(phase: Phase) -> &'static str {
    match phase {
        Phase::Embed | Phase::Attention | Phase::Ffn | Phase::Loss => "forward",
        Phase::Update => "update",
        _ => "backward",
    }
}

impl Profile<'_> {
    /// The last whole step as SVG; `None` without one.
    pub fn picture(&self, machine: &Machine) -> Option<String> {
        let end = self.spans.iter().rposition(|s| s.phase == Phase::Update)?;
        let start = self.spans[..end].iter().rposition(|s| s.phase == Phase::Update).map_or(0, |i| i + 1);
        let step = &self.spans[start..=end];
        let ms = |d: std::time::Duration| d.as_secs_f64() * 1e3;
        let (begin, last) = (ms(step[0].begin), &step[step.len() - 1]);
        let whole = ms(last.begin + last.took) - begin;
        let x = |at: f64| LEFT + (at - begin) / whole * SPAN;
        let lines = self.lines(machine);
        let height = LEGEND.0 + LEGEND.1 * lines.len() as f64 + 10.0;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#333\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n\
             <text x=\"{LEFT}\" y=\"26\" font-size=\"16\">One step of {} tokens: {whole:.1} ms on {}</text>\n",
            self.tokens,
            escaped(self.device)
        );
        for run in step.chunk_by(|a, b| pass(a.phase) == pass(b.phase)) {
            let (from, to) = (ms(run[0].begin), ms(run[run.len() - 1].begin + run[run.len() - 1].took));
            let (y, h) = PASSES;
            let _ = writeln!(
                svg,
                "<rect x=\"{:.2}\" y=\"{y}\" width=\"{:.2}\" height=\"{h}\" fill=\"#eee\" stroke=\"#999\"/>\
                 <text x=\"{:.2}\" y=\"{}\">{} {:.1} ms</text>",
                x(from),
                x(to) - x(from),
                x(from) + 5.0,
                y + 16.0,
                pass(run[0].phase),
                to - from
            );
        }
        for span in step {
            svg += &self.call(span, machine, x(ms(span.begin)), ms(span.took) / whole * SPAN);
        }
        svg += &axis(whole);
        for (i, line) in lines.iter().enumerate() {
            let y = LEGEND.0 + LEGEND.1 * i as f64;
            let by = if line.products { "products" } else { "memory" };
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{}\"/><text x=\"{}\" y=\"{y}\">{}: {:.1} ms in {:.0} calls \
                 a step, at least {:.1} ms ({by})</text>",
                y - 11.0,
                color(line.phase),
                LEFT + 20.0,
                line.phase.name(),
                line.ms,
                line.calls,
                line.bound_ms
            );
        }
        Some(svg + "</svg>\n")
    }

    /// A call, with the part of it that its bound is marked below.
    fn call(&self, span: &Span, machine: &Machine, x: f64, width: f64) -> String {
        let (flops, bytes) = work(self.model, span.phase, self.tokens, self.seq);
        let bound = (flops / machine.gflop_per_s / 1e6).max(bytes / machine.gb_per_s / 1e6);
        let took = span.took.as_secs_f64() * 1e3;
        let layer = span.layer.map_or(String::new(), |layer| format!(" {layer}"));
        let (y, h) = CALLS;
        format!(
            "<g><title>{}{layer}: {took:.2} ms, at least {bound:.2}</title><rect x=\"{x:.2}\" y=\"{y}\" width=\"{width:.2}\" \
             height=\"{h}\" fill=\"{}\" stroke=\"white\" stroke-width=\"0.5\"/><rect x=\"{x:.2}\" y=\"{}\" width=\"{:.2}\" height=\"6\" \
             fill=\"#333\"/></g>\n",
            span.phase.name(),
            color(span.phase),
            y + h - 6.0,
            width * (bound / took).min(1.0)
        )
    }
}

/// Marks at round times, and what the dark strips mean.
fn axis(whole: f64) -> String {
    let rough = whole / 8.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * power).into_iter().find(|s| *s >= rough).unwrap_or(rough);
    let mut svg = String::new();
    for i in 0..=(whole / step) as usize {
        let at = LEFT + i as f64 * step / whole * SPAN;
        let _ = writeln!(
            svg,
            "<path d=\"M{at:.2} {} v5\" stroke=\"#999\"/><text x=\"{at:.2}\" y=\"{}\" text-anchor=\"middle\" font-size=\"11\">{}</text>",
            AXIS - 4.0,
            AXIS + 13.0,
            (i as f64 * step * 1e6).round() / 1e6
        );
    }
    svg + &format!(
        "<text x=\"{LEFT}\" y=\"{}\" font-size=\"11\">milliseconds; dark: the least that the call could take on this machine, by \
         its products or its memory traffic</text>\n",
        AXIS + 28.0
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
