//! Line plots as inline SVG: series of points go in, text comes out. Colours are those of the page around it, by class,
//! so that a plot reads on light and on dark ground. Pure.

use std::fmt::Write;

/// Size of a plot, in SVG's units.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
/// Room for labels: left, right, top, bottom.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 28.0;
const BOTTOM: f64 = 44.0;
/// Lines of the grid a scale may have, about.
const LINES: f64 = 5.0;

/// How values are placed along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// From 0.
    Linear,
    /// By their logarithm; values have to be above 0.
    Logarithmic,
}

/// A line with a name.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name in the legend.
    pub name: &'static str,
    /// Its points, in order.
    pub points: Vec<(f64, f64)>,
}

/// A plot to be drawn.
#[derive(Clone, Debug)]
pub struct Plot {
    /// What it shows.
    pub title: &'static str,
    /// Name and unit of the horizontal axis, and its labels: value and text.
    pub x: (&'static str, Vec<(f64, String)>),
    /// Name and unit of the vertical axis, and its scale.
    pub y: (&'static str, Scale),
    /// The lines.
    pub series: Vec<Series>,
}

/// One axis: values to positions.
struct Axis {
    from: f64,
    to: f64,
    start: f64,
    end: f64,
    scale: Scale,
}

impl Axis {
    fn place(&self, value: f64) -> f64 {
        let at = |value: f64| match self.scale {
            Scale::Linear => value,
            Scale::Logarithmic => value.max(self.from).ln(),
        };
        let span = at(self.to) - at(self.from);
        let share = if span > 0.0 { (at(value) - at(self.from)) / span } else { 0.5 };
        self.start + share * (self.end - self.start)
    }

    /// Values at which the grid has lines.
    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let step = round_up((self.to - self.from) / LINES);
                let first = (self.from / step).ceil();
                (0..=2 * LINES as i32)
                    .map(|n| (first + f64::from(n)) * step)
                    .filter(|&tick| tick <= self.to)
                    .collect()
            }
            Scale::Logarithmic => {
                let first = self.from.log10().ceil() as i32;
                (first..=self.to.log10().floor() as i32).map(|power| 10_f64.powi(power)).collect()
            }
        }
    }
}

/// The next number of the form 1, 2 or 5 times a power of ten.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|&step| step >= value)
        .unwrap_or(value)
}

/// A number with as many digits as a label needs.
pub fn label(value: f64) -> String {
    match value.abs() {
        v if v >= 1e6 => format!("{}M", value / 1e6),
        v if v >= 1e4 => format!("{}k", value / 1e3),
        v if v >= 1.0 || v == 0.0 => format!("{}", (value * 100.0).round() / 100.0),
        _ => format!("{value:.3}"),
    }
}

impl Plot {
    /// Draws it.
    pub fn svg(&self) -> String {
        let values = || self.series.iter().flat_map(|series| &series.points);
        let (x_from, x_to) = bounds(values().map(|point| point.0));
        let (low, high) = bounds(values().map(|point| point.1));
        let y_from = match self.y.1 {
            Scale::Linear => 0.0,
            Scale::Logarithmic => 10_f64.powf(low.max(1e-3).log10().floor()),
        };
        let x = Axis { from: x_from, to: x_to, start: LEFT, end: WIDTH - RIGHT, scale: Scale::Linear };
        let y_to = if high > y_from { high * 1.05 } else { y_from + 1.0 };
        let y = Axis { from: y_from, to: y_to, start: HEIGHT - BOTTOM, end: TOP, scale: self.y.1 };

        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ =
            write!(out, "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\"><title>{}</title>", self.title);
        for tick in y.ticks() {
            let at = y.place(tick);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0,
                label(tick)
            );
        }
        let ticks = if self.x.1.is_empty() {
            x.ticks().into_iter().map(|tick| (tick, label(tick))).collect()
        } else {
            self.x.1.clone()
        };
        for (tick, text) in ticks {
            let at = x.place(tick);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{:.1}\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>",
                HEIGHT - BOTTOM,
                HEIGHT - BOTTOM + 16.0
            );
        }
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text><text x=\"4\" y=\"14\">{}</text>",
            WIDTH - RIGHT,
            HEIGHT - 8.0,
            self.x.0,
            self.y.0
        );
        for (number, series) in self.series.iter().enumerate() {
            let points: Vec<_> = series
                .points
                .iter()
                .map(|&(px, py)| format!("{:.1},{:.1}", x.place(px), y.place(py)))
                .collect();
            let legend_x = LEFT + 130.0 * number as f64 + 60.0;
            let _ = write!(
                out,
                "<polyline class=\"s{number}\" points=\"{}\"/><line class=\"s{number}\" x1=\"{:.1}\" y1=\"10\" \
                 x2=\"{:.1}\" y2=\"10\"/><text x=\"{:.1}\" y=\"14\">{}</text>",
                points.join(" "),
                legend_x,
                legend_x + 20.0,
                legend_x + 26.0,
                series.name
            );
        }
        out.push_str("</svg>");
        out
    }
}

/// Least and greatest; 0 and 1 of nothing.
fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low <= high { (low, high) } else { (0.0, 1.0) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn all_points_lie_within(
            points in prop::collection::vec((0.0_f64..1e3, 0.0_f64..1e7), 0..50),
            is_logarithmic: bool,
        ) {
            let scale = if is_logarithmic { Scale::Logarithmic } else { Scale::Linear };
            let series = vec![Series { name: "a", points }];
            let svg = Plot { title: "t", x: ("x", vec![]), y: ("y", scale), series }.svg();
            let list = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
            for point in list.split_whitespace() {
                let (x, y) = point.split_once(',').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                prop_assert!((LEFT - 0.1..=WIDTH - RIGHT + 0.1).contains(&x), "{point}");
                prop_assert!((TOP - 0.1..=HEIGHT - BOTTOM + 0.1).contains(&y), "{point}");
            }
        }
    }

    #[test]
    fn steps_are_round() {
        assert_eq!([0.0, 0.3, 1.0, 1.1, 70.0].map(round_up), [1.0, 0.5, 1.0, 2.0, 100.0]);
        assert_eq!([0.0, 0.25, 12.5, 20_000.0, 3e6].map(label), ["0", "0.250", "12.5", "20k", "3M"]);
    }
}
