//! Curves as an SVG picture.

use std::ops::Range;

use anyhow::anyhow;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Size of the picture. Coordinates in it are whole, so it is drawn large; viewers scale it.
const SIZE: (u32, u32) = (1600, 960);
/// Columns into which a curve with more points is thinned.
const COLUMNS: usize = 1200;
/// Colours that stay apart for colour-blind eyes. Source: Okabe and Ito 2008, Color Universal Design.
const COLORS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(60, 60, 60),
];
const INK: RGBColor = RGBColor(51, 51, 51);
const GRID: RGBColor = RGBColor(226, 226, 226);
const FONT: &str = "sans-serif";

/// What is in the picture.
#[derive(Debug)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// Below the horizontal axis.
    pub x_label: String,
    /// Beside the vertical axis.
    pub y_label: String,
    /// Whether the vertical axis is logarithmic; values that are not above 0 are left out then.
    pub log: bool,
    /// The curves.
    pub series: Vec<Series>,
    /// Words beside points.
    pub notes: Vec<Note>,
}

/// A few words beside a point.
#[derive(Debug)]
pub struct Note {
    /// The point.
    pub at: (f64, f64),
    /// The words.
    pub text: String,
}

/// One curve.
#[derive(Debug)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
    /// How they are joined.
    pub line: Line,
}

/// How points are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// A faint line through all points, and their mean over this many to either side on top.
    Noisy(usize),
    /// One line with a dot on each point.
    Exact,
    /// Dots that nothing joins.
    Dots,
}

/// Draws the picture. Fails when no curve has a point that can be shown.
pub fn svg(chart: &Chart) -> anyhow::Result<String> {
    let curves: Vec<Curve> = chart.series.iter().map(|series| Curve::new(series, chart.log)).collect();
    let (Some(x), Some(y)) = (x_axis(&curves), y_axis(&curves, chart.log)) else {
        return Err(anyhow!("no values to plot"));
    };
    let mut text = String::new();
    draw(chart, &curves, x, y, &mut text).map_err(|e| anyhow!("cannot draw: {e}"))?;
    Ok(text)
}

type DrawResult = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn draw(chart: &Chart, curves: &[Curve], x: Axis, y: Axis, text: &mut String) -> DrawResult {
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let left = Pos::new(HPos::Left, VPos::Center);
    let heading = (FONT, 34).into_font().color(&INK).pos(left);
    root.draw_text(&chart.title, &heading, (32, 38))?;
    let legend_end = legend(&root, chart)?;

    let (low, high) = (y.range.start, y.range.end);
    let mut area = ChartBuilder::on(&root)
        .margin_top(legend_end + 16)
        .margin_right(40)
        .margin_bottom(16)
        .margin_left(16)
        .x_label_area_size(76)
        .y_label_area_size(124)
        .build_cartesian_2d(x, y)?;
    area.configure_mesh()
        .x_desc(&chart.x_label)
        .y_desc(&chart.y_label)
        .axis_desc_style((FONT, 27).into_font().color(&INK))
        .label_style((FONT, 24).into_font().color(&INK))
        .axis_style(INK.stroke_width(2))
        .bold_line_style(GRID.stroke_width(2))
        .light_line_style(TRANSPARENT)
        .draw()?;
    let inside = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
        points.iter().map(|&(x, y)| (x, y.clamp(low, high))).collect()
    };
    // All faint lines first: none may cover a bold one.
    for (curve, color) in curves.iter().zip(COLORS.iter().cycle()) {
        if curve.smooth.is_some() {
            area.draw_series(LineSeries::new(inside(&curve.thinned), color.mix(0.22).stroke_width(2)))?;
        }
    }
    for ((curve, series), color) in curves.iter().zip(&chart.series).zip(COLORS.iter().cycle()) {
        let points = inside(curve.smooth.as_deref().unwrap_or(&curve.thinned));
        if matches!(series.line, Line::Exact | Line::Dots) || points.len() == 1 {
            area.draw_series(points.iter().map(|&point| Circle::new(point, 6, color.filled())))?;
        }
        if series.line != Line::Dots {
            area.draw_series(LineSeries::new(points, color.stroke_width(4)))?;
        }
    }
    let mut placed = Labels::new(area.plotting_area().get_pixel_range(), SIZE.0 as i32);
    for Note { at, text } in &chart.notes {
        let point = area.backend_coord(&(at.0, at.1.clamp(low, high)));
        let label = placed.place(point, text);
        if let Some(end) = label.leader(point) {
            root.draw(&PathElement::new(vec![point, end], INK.mix(0.35).stroke_width(1)))?;
        }
        let style = (FONT, Labels::FONT_SIZE).into_font().color(&INK);
        root.draw_text(text, &style.pos(Pos::new(HPos::Left, VPos::Top)), (label.x, label.y))?;
    }
    root.present()
}

/// Names with a stroke of their colour, in rows below the title. Returns where they end.
fn legend(
    root: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    chart: &Chart,
) -> Result<i32, DrawingAreaErrorKind<std::io::Error>> {
    const ROW: i32 = 38;
    const STROKE: i32 = 44;
    const LONGEST: usize = 60;
    let style = (FONT, 26).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
    let (mut x, mut y) = (32, 84);
    for (series, color) in chart.series.iter().zip(COLORS.iter().cycle()) {
        let mut name: String = series.name.chars().take(LONGEST).collect();
        if name.len() < series.name.len() {
            name.push('…');
        }
        // No font is at hand to measure with; letters of a sans-serif are about this wide.
        let width = STROKE + 14 + 15 * name.chars().count() as i32;
        if x > 32 && x + width > SIZE.0 as i32 - 32 {
            (x, y) = (32, y + ROW);
        }
        root.draw(&PathElement::new(vec![(x, y), (x + STROKE, y)], color.stroke_width(5)))?;
        root.draw_text(&name, &style, (x + STROKE + 14, y))?;
        x += width + 32;
    }
    Ok(y + ROW / 2)
}

/// The place of a label: its upper left corner, and its extent. Pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Label {
    x: i32,
    y: i32,
    width: i32,
}

impl Label {
    fn meets(&self, other: &Label) -> bool {
        let apart = |a: i32, len_a: i32, b: i32, len_b: i32| a + len_a <= b || b + len_b <= a;
        !apart(self.x, self.width, other.x, other.width)
            && !apart(self.y, Labels::HEIGHT, other.y, Labels::HEIGHT)
    }

    /// Where a line from the point to the label ends, when that is not beside the point.
    fn leader(&self, (x, y): (i32, i32)) -> Option<(i32, i32)> {
        let (top, bottom) = (self.y, self.y + Labels::HEIGHT);
        let end = (x.clamp(self.x, self.x + self.width), y.clamp(top, bottom));
        ((end.1 - y).abs() > Labels::HEIGHT).then_some(end)
    }
}

/// Labels that do not cover one another.
struct Labels {
    /// Upper end of the curves' area, and the right and lower ends.
    bounds: (i32, i32, i32),
    placed: Vec<Label>,
}

impl Labels {
    const FONT_SIZE: i32 = 20;
    const HEIGHT: i32 = 24;

    fn new((_, rows): (Range<i32>, Range<i32>), right: i32) -> Self {
        Self { bounds: (rows.start, right - 8, rows.end), placed: Vec::new() }
    }

    /// The nearest free place beside, above or below a point; beside it when there is none.
    fn place(&mut self, (x, y): (i32, i32), text: &str) -> Label {
        // No font is at hand to measure with; letters of a sans-serif are about this wide.
        let width = 11 * text.chars().count() as i32;
        let (top, right, bottom) = self.bounds;
        let beside =
            |y: i32| [x + 8, x - 8 - width].map(|x| Label { x: x.min(right - width).max(0), y, width });
        // Never on the height of the point, where its curve goes on.
        let above = |row: i32| y - 8 - Self::HEIGHT - row * Self::HEIGHT;
        let below = |row: i32| y + 8 + row * Self::HEIGHT;
        let rows = (0..40).flat_map(|row| [above(row), below(row)]).flat_map(beside);
        let inside = |l: &Label| l.y >= top && l.y + Self::HEIGHT <= bottom;
        let free = |l: &Label| inside(l) && self.placed.iter().all(|other| !l.meets(other));
        let label = rows.clone().find(free).unwrap_or(beside(above(0))[0]);
        self.placed.push(label);
        label
    }
}

/// A series, ready to draw.
struct Curve {
    thinned: Vec<(f64, f64)>,
    smooth: Option<Vec<(f64, f64)>>,
    /// Lowest and highest value worth showing: a few stray points may leave the picture.
    span: Option<(f64, f64)>,
}

impl Curve {
    fn new(series: &Series, log: bool) -> Self {
        let shown = |y: f64| y.is_finite() && (!log || y > 0.0);
        let points: Vec<(f64, f64)> =
            series.points.iter().copied().filter(|&(x, y)| x.is_finite() && shown(y)).collect();
        let smooth = match series.line {
            Line::Noisy(reach) if reach > 0 => Some(smooth(&smooth(&points, reach), reach)),
            _ => None,
        };
        let mut values: Vec<f64> = points.iter().map(|p| p.1).collect();
        values.sort_by(f64::total_cmp);
        let stray = if smooth.is_some() { values.len() / 200 } else { 0 };
        let mut span = (!values.is_empty()).then(|| (values[stray], values[values.len() - 1 - stray]));
        if let (Some(span), Some(smooth)) = (&mut span, &smooth) {
            for (_, y) in smooth {
                *span = (span.0.min(*y), span.1.max(*y));
            }
        }
        Self { thinned: thin(&points), smooth: smooth.map(|s| thin(&s)), span }
    }
}

/// The mean of each point and up to `reach` points to either side. Near the start both sides are
/// equally short, so that a curve that falls steeply there stays where it is.
fn smooth(points: &[(f64, f64)], reach: usize) -> Vec<(f64, f64)> {
    let mut sums = vec![0.0];
    for (_, y) in points {
        sums.push(sums[sums.len() - 1] + y);
    }
    let mean = |(i, &(x, _)): (usize, &(f64, f64))| {
        let reach = reach.min(i);
        let (from, to) = (i - reach, (i + reach + 1).min(points.len()));
        (x, (sums[to] - sums[from]) / (to - from) as f64)
    };
    points.iter().enumerate().map(mean).collect()
}

/// The lowest and the highest point of each of [`COLUMNS`] stretches, in their order.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let stretch = points.len().div_ceil(COLUMNS).max(1);
    if stretch <= 2 {
        return points.to_vec();
    }
    let mut out = Vec::with_capacity(2 * COLUMNS + 2);
    for part in points.chunks(stretch) {
        let by_y = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let low = part.iter().min_by(by_y).expect("a chunk is not empty");
        let high = part.iter().max_by(by_y).expect("a chunk is not empty");
        let (first, second) = if low.0 <= high.0 { (low, high) } else { (high, low) };
        out.push(*first);
        if first != second {
            out.push(*second);
        }
    }
    out.extend(points.last().filter(|last| out.last() != Some(last)));
    out
}

/// A range of values with ticks at round numbers.
#[derive(Clone, Debug)]
struct Axis {
    range: Range<f64>,
    log: bool,
    ticks: Vec<f64>,
    /// Digits behind the point; `None`: as many as each number needs.
    digits: Option<usize>,
}

fn x_axis(curves: &[Curve]) -> Option<Axis> {
    let values = || curves.iter().flat_map(|c| &c.thinned).map(|p| p.0);
    let (low, high) = (values().reduce(f64::min)?, values().reduce(f64::max)?);
    // Runs begin at nothing, and so does the axis when they nearly fill it.
    let low = if low > 0.0 && low < 0.2 * high { 0.0 } else { low };
    let room = if high > low { 0.0 } else { 0.5 };
    Some(Axis::linear(low - room, high + room))
}

fn y_axis(curves: &[Curve], log: bool) -> Option<Axis> {
    let spans = || curves.iter().filter_map(|c| c.span);
    let low = spans().map(|s| s.0).reduce(f64::min)?;
    let high = spans().map(|s| s.1).reduce(f64::max)?;
    if log {
        let room = (high / low).powf(0.04).max(1.05);
        return Some(Axis::logarithmic(low / room, high * room));
    }
    let room = match 0.04 * (high - low) {
        0.0 => high.abs().max(1.0) * 0.1,
        room => room,
    };
    // What is never negative does not look as if it were.
    let bottom = if low >= 0.0 { (low - room).max(0.0) } else { low - room };
    Some(Axis::linear(bottom, high + room))
}

impl Axis {
    fn linear(low: f64, high: f64) -> Self {
        let step = round_step((high - low) / 8.0);
        let digits = Some((-step.log10().floor()).clamp(0.0, 12.0) as usize);
        Self { range: low..high, log: false, ticks: multiples(step, low, high), digits }
    }

    fn logarithmic(low: f64, high: f64) -> Self {
        let decades = (high / low).log10();
        if decades < 0.8 {
            return Self { log: true, ..Self::linear(low, high) };
        }
        let factors: &[f64] = if decades < 4.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let exponents = low.log10().floor() as i32..=high.log10().ceil() as i32;
        let every = (decades / 10.0).ceil().max(1.0) as usize;
        let ticks = exponents
            .step_by(every)
            .flat_map(|e| factors.iter().map(move |f| f * 10f64.powi(e)))
            .filter(|t| (low..=high).contains(t))
            .collect();
        Self { range: low..high, log: true, ticks, digits: None }
    }

    fn place(&self, value: f64) -> f64 {
        let scale = |v: f64| if self.log { v.log10() } else { v };
        let (low, high) = (scale(self.range.start), scale(self.range.end));
        (scale(value) - low) / (high - low)
    }
}

/// The least of 1, 2, 5, 10, 20 … × 10ⁿ that is not under `least`.
fn round_step(least: f64) -> f64 {
    let decade = 10f64.powf(least.log10().floor());
    // A hair of room: 0.5 / 0.1 may be over 5.
    let round = [1.0, 2.0, 5.0].into_iter().find(|f| least <= f * decade * (1.0 + 1e-9));
    round.unwrap_or(10.0) * decade
}

fn multiples(step: f64, low: f64, high: f64) -> Vec<f64> {
    let first = (low / step - 1e-9).ceil();
    (0..).map(|i| (first + f64::from(i)) * step).take_while(|t| *t <= high + 1e-9 * step).take(100).collect()
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        from + (self.place(*value) * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        match self.digits {
            Some(digits) => format!("{value:.digits$}"),
            None if (1e-3..1e6).contains(value) => format!("{}", (value * 1e6).round() / 1e6),
            None => format!("{value:.0e}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(series: Vec<Series>) -> Chart {
        Chart {
            title: "t".into(),
            x_label: "x".into(),
            y_label: "y".into(),
            log: false,
            series,
            notes: Vec::new(),
        }
    }

    fn series(name: &str, points: Vec<(f64, f64)>, line: Line) -> Series {
        Series { name: name.into(), points, line }
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(Axis::linear(0.0, 1000.0).ticks, [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]);
        let axis = Axis::linear(1.13, 1.87);
        assert_eq!(
            axis.ticks.iter().map(|t| axis.format_ext(t)).collect::<Vec<_>>(),
            ["1.2", "1.3", "1.4", "1.5", "1.6", "1.7", "1.8"]
        );
        let axis = Axis::logarithmic(0.8, 120.0);
        assert_eq!(axis.ticks, [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        assert_eq!(axis.map(&0.8, (500, 0)), 500);
        assert_eq!(axis.map(&120.0, (500, 0)), 0);
        assert_eq!(axis.map(&(0.8f64 * 120.0).sqrt(), (500, 0)), 250);
        assert!(Axis::logarithmic(1.5, 2.5).ticks.len() >= 4);
        assert!(Axis::logarithmic(1e-30, 1e30).ticks.len() < 20);
    }

    #[test]
    fn smoothing_keeps_straight_lines_and_their_start() {
        let line: Vec<(f64, f64)> = (0..50).map(|i| (f64::from(i), 3.0 - f64::from(i))).collect();
        let smooth = smooth(&line, 5);
        for (got, wanted) in smooth[..45].iter().zip(&line) {
            assert!((got.1 - wanted.1).abs() < 1e-9, "{got:?} {wanted:?}");
        }
    }

    #[test]
    fn thinning_keeps_the_extremes() {
        let mut points: Vec<(f64, f64)> = (0..100_000).map(|i| (f64::from(i), 1.0)).collect();
        points[777].1 = 9.0;
        points[60_001].1 = -9.0;
        let thin = thin(&points);
        assert!(thin.len() <= 2 * COLUMNS + 2);
        assert!(thin.contains(&(777.0, 9.0)) && thin.contains(&(60_001.0, -9.0)));
        assert!(thin.is_sorted_by_key(|p| p.0));
    }

    #[test]
    fn every_curve_has_its_line_and_name() {
        let curve = |k: f64| (0..300).map(|i| (f64::from(i), k / (1.0 + f64::from(i)))).collect();
        let text = svg(&chart(vec![
            series("a < b & \"c\"", curve(1.0), Line::Noisy(5)),
            series("second", curve(2.0), Line::Exact),
        ]))
        .unwrap();
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
        assert!(text.contains("a &lt; b &amp;") && !text.contains("a < b"), "names are escaped");
        assert!(text.contains("second"));
        // Legend and bold line of each, and the faint one of the first.
        assert_eq!(text.matches("#0072B2").count(), 3);
        assert!(text.matches("<circle").count() == 300);
        assert!(!text.contains("NaN") && !text.contains("inf"));
    }

    #[test]
    fn labels_of_neighbours_do_not_cover_one_another() {
        let mut labels = Labels::new((0..1500, 100..800), 1600);
        let text = "a label of about forty letters, as usual";
        let points: Vec<(i32, i32)> = (0..20).map(|i| (80 * i, 400 + 15 * (i % 7))).collect();
        let placed: Vec<Label> = points.iter().map(|&point| labels.place(point, text)).collect();
        for (i, label) in placed.iter().enumerate() {
            assert!(placed[..i].iter().all(|other| !label.meets(other)), "{placed:?}");
            assert!(label.y >= 100 && label.y + Labels::HEIGHT <= 800 && label.x + label.width <= 1600);
        }
        assert_eq!((placed[0].x, placed[0].leader(points[0])), (8, None), "the first has its place");
        assert!(placed.iter().zip(&points).any(|(label, &point)| label.leader(point).is_some()));
    }

    #[test]
    fn hostile_values_neither_panic_nor_hang() {
        let strange = [f64::NAN, f64::INFINITY, -1.0, 0.0, 1e300, 1e-300, 5.0];
        for log in [false, true] {
            for line in [Line::Exact, Line::Noisy(3)] {
                let points = strange.iter().enumerate().map(|(i, v)| (i as f64, *v)).collect();
                svg(&Chart { log, ..chart(vec![series("x", points, line)]) }).unwrap();
            }
            svg(&Chart { log, ..chart(vec![series("one", vec![(1.0, 2.0)], Line::Noisy(0))]) }).unwrap();
        }
        let none = chart(vec![series("x", vec![(1.0, f64::NAN)], Line::Exact)]);
        assert_eq!(svg(&none).unwrap_err().to_string(), "no values to plot");
    }
}
