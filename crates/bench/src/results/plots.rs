//! Bars as SVG, drawn into a page: text in the page's colour, so that it reads on light and dark.

use std::fmt::Write;

use super::{Case, Origin};

/// Width of a picture; heights follow from the rows.
const WIDTH: f64 = 960.0;
const ROW: f64 = 26.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 52.0;
/// Width of a letter of 13 pixels: no font is at hand to measure with.
const LETTER: f64 = 7.0;
/// Colours that stay apart for colour-blind eyes. Source: Okabe and Ito 2008, Color Universal Design.
const COLORS: [&str; 6] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
/// Figures of others.
const GREY: &str = "#8A8A8A";

/// A bar.
pub struct Bar<'a> {
    /// At its left.
    pub label: String,
    /// Decides its colour, and stands in the legend.
    pub group: String,
    /// What it shows.
    pub case: &'a Case,
    /// Whether the figure is ours.
    pub origin: Origin,
}

/// Bars from 0 with their medians, a stroke from the least to the greatest sample, and a diamond at what others
/// published of the same work.
pub fn bars(title: &str, axis: &str, bars: &[Bar<'_>]) -> String {
    let longest = bars.iter().map(|bar| bar.label.chars().count()).max().unwrap_or(0) as f64;
    let left = (longest * LETTER + 16.0).clamp(80.0, 430.0);
    let right = WIDTH - 110.0;
    let bottom = TOP + ROW * bars.len() as f64;
    let height = bottom + BOTTOM;
    let published = |case: &Case| case.published.as_ref().map_or(0.0, |p| p.value);
    let largest = bars.iter().map(|bar| bar.case.summary.max.max(published(bar.case))).fold(0.0, f64::max);
    let step = round_step(largest / 6.0);
    let end = (largest / step).ceil().max(1.0) * step;
    let x = |value: f64| left + (value / end).clamp(0.0, 1.0) * (right - left);

    let mut groups: Vec<&str> = Vec::new();
    for bar in bars.iter().filter(|bar| bar.origin == Origin::Measured) {
        if !groups.contains(&bar.group.as_str()) {
            groups.push(&bar.group);
        }
    }
    let color = |bar: &Bar<'_>| match bar.origin {
        Origin::Published => GREY,
        Origin::Measured => {
            let place = groups.iter().position(|group| *group == bar.group).unwrap_or(0);
            COLORS[place % COLORS.len()]
        }
    };

    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\" font-size=\"13\" fill=\"currentColor\">\n",
        escape(title)
    );
    let text = |svg: &mut String, x: f64, y: f64, anchor: &str, text: &str| {
        let _ =
            writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escape(text));
    };
    legend(&mut svg, left, &groups, bars, &text);
    for tick in (0..).map(|i| f64::from(i) * step).take_while(|t| *t <= end * (1.0 + 1e-9)) {
        let at = x(tick);
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"currentColor\" stroke-opacity=\"0.18\"/>"
        );
        text(&mut svg, at, bottom + 18.0, "middle", &number(tick));
    }
    text(&mut svg, (left + right) / 2.0, bottom + 40.0, "middle", axis);
    for (i, bar) in bars.iter().enumerate() {
        let (middle, s) = (TOP + ROW * (i as f64 + 0.5), &bar.case.summary);
        text(&mut svg, left - 8.0, middle + 4.5, "end", &shorten(&bar.label, (left / LETTER) as usize - 1));
        let fill = color(bar);
        let _ = writeln!(
            svg,
            "<rect x=\"{left:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"16\" fill=\"{fill}\"/>",
            middle - 8.0,
            (x(s.median) - left).max(0.5)
        );
        let mut after = x(s.median);
        if s.max > s.min {
            let (low, high) = (x(s.min), x(s.max));
            after = after.max(high);
            let _ = writeln!(
                svg,
                "<path d=\"M{low:.1} {middle:.1}H{high:.1}M{low:.1} {a:.1}V{b:.1}M{high:.1} {a:.1}V{b:.1}\" stroke=\"currentColor\" fill=\"none\"/>",
                a = middle - 4.0,
                b = middle + 4.0
            );
        }
        if let Some(theirs) = &bar.case.published {
            let at = x(theirs.value);
            after = after.max(at + 6.0);
            let _ = writeln!(
                svg,
                "<path d=\"M{at:.1} {:.1}l6 6l-6 6l-6 -6z\" fill=\"{GREY}\" stroke=\"currentColor\"/>",
                middle - 6.0
            );
        }
        text(&mut svg, after + 6.0, middle + 4.5, "start", &number(s.median));
    }
    svg += "</svg>\n";
    svg
}

fn legend(
    svg: &mut String,
    left: f64,
    groups: &[&str],
    bars: &[Bar<'_>],
    text: &dyn Fn(&mut String, f64, f64, &str, &str),
) {
    let mut entries: Vec<(String, &str)> =
        groups.iter().enumerate().map(|(i, g)| ((*g).to_owned(), COLORS[i % COLORS.len()])).collect();
    if bars.iter().any(|bar| bar.origin == Origin::Published) {
        entries.push(("published by others".into(), GREY));
    }
    if bars.iter().any(|bar| bar.case.published.is_some()) {
        entries.push(("◆ published by others, same work".into(), GREY));
    }
    if bars.iter().any(|bar| bar.case.summary.max > bar.case.summary.min) {
        entries.push(("├─┤ least to greatest sample".into(), "none"));
    }
    let mut x = left.min(220.0);
    for (name, color) in entries {
        if color != "none" {
            let _ =
                writeln!(svg, "<rect x=\"{x:.1}\" y=\"12\" width=\"12\" height=\"12\" fill=\"{color}\"/>");
            x += 18.0;
        }
        text(svg, x, 23.0, "start", &name);
        x += name.chars().count() as f64 * LETTER + 24.0;
    }
}

/// The least of 1, 2, 5, 10 … × 10ⁿ that is not under `least`.
fn round_step(least: f64) -> f64 {
    if least.is_nan() || least <= 0.0 {
        return 1.0;
    }
    let decade = 10f64.powf(least.log10().floor());
    let round = [1.0, 2.0, 5.0].into_iter().find(|f| least <= f * decade * (1.0 + 1e-9));
    round.unwrap_or(10.0) * decade
}

/// A number with about four digits.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 1000.0 || v == 0.0 => 0,
        v if v >= 100.0 => 1,
        v if v >= 10.0 => 2,
        v if v >= 0.01 => 3,
        _ => 5,
    };
    let text = format!("{value:.digits$}");
    if !text.contains('.') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Text inside of HTML and SVG.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            c => out.push(c),
        }
    }
    out
}

fn shorten(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Published, Quantity};

    #[test]
    fn a_bar_has_its_length_its_number_and_its_label() {
        let mut case = Case::new("a<b", "cpu", Quantity::ms("step"), vec![40.0, 50.0, 60.0]);
        case.published = Some(Published { value: 100.0, source: "them".into() });
        let bar = |origin| Bar { label: "a<b".into(), group: "rustane".into(), case: &case, origin };
        let svg = bars("steps", "ms", &[bar(Origin::Measured), bar(Origin::Published)]);
        assert!(svg.contains("a&lt;b") && !svg.contains("a<b"), "{svg}");
        // From 80 to 850 pixels for 0 to 100 ms: 50 ms are 385.
        assert!(svg.contains("width=\"385.0\" height=\"16\" fill=\"#0072B2\""), "{svg}");
        assert!(svg.contains("width=\"385.0\" height=\"16\" fill=\"#8A8A8A\""), "{svg}");
        assert!(svg.contains(">50</text>") && svg.contains("published by others") && svg.contains("◆"));
        assert!(!svg.contains("NaN"));
        let zero = Case::new("z", "cpu", Quantity::ms("step"), vec![0.0]);
        let bar = Bar { label: "z".into(), group: "r".into(), case: &zero, origin: Origin::Measured };
        assert!(!bars("t", "ms", &[bar]).contains("NaN"));
    }

    #[test]
    fn numbers_are_short() {
        let cases = [(0.0, "0"), (1234.56, "1235"), (961.0, "961"), (9.0108, "9.011"), (0.00123, "0.00123")];
        for (value, wanted) in cases {
            assert_eq!(number(value), wanted);
        }
    }
}
