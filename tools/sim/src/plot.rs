//! Figures as SVG and as CSV: series of means with their confidence, and the paper's figures beside them. Text is left to the
//! viewer's fonts, so none is needed here.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, anyhow};
use plotters::prelude::*;

use crate::replicate::Mean;

const SIZE: (u32, u32) = (760, 420);
const PAPER: RGBColor = RGBColor(120, 120, 120);
const COLORS: [RGBColor; 6] = [
    RGBColor(200, 80, 20),
    RGBColor(40, 100, 180),
    RGBColor(60, 140, 60),
    RGBColor(140, 60, 150),
    RGBColor(180, 150, 20),
    RGBColor(20, 20, 20),
];

/// A line with a name.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Its points, by x.
    pub points: Vec<(f64, Mean)>,
}

/// One figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// File name without its ending.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// Of the horizontal axis.
    pub x: String,
    /// Of the vertical axis.
    pub y: String,
    /// The lines.
    pub series: Vec<Series>,
    /// What the paper has there, by x.
    pub paper: Vec<(f64, f64)>,
    /// Horizontal places by their logarithm.
    pub is_log: bool,
}

impl Figure {
    /// Writes both files into a directory.
    ///
    /// # Errors
    /// One cannot be written.
    pub fn write(&self, directory: &Path) -> anyhow::Result<()> {
        let csv = directory.join(format!("{}.csv", self.name));
        std::fs::write(&csv, self.csv()).with_context(|| format!("{} cannot be written", csv.display()))?;
        let svg = directory.join(format!("{}.svg", self.name));
        self.draw(&svg).map_err(|error| anyhow!("{} cannot be drawn: {error}", svg.display()))
    }

    /// A line a point: series, x, mean, half the width of both intervals.
    fn csv(&self) -> String {
        let mut text = format!("series,{},{},half_90,half_95\n", plain(&self.x), plain(&self.y));
        // Writing to a String cannot fail.
        for Series { name, points } in &self.series {
            for (x, Mean { value, half_90, half_95 }) in points {
                let _ = writeln!(text, "{name},{x},{value:.5},{half_90:.5},{half_95:.5}");
            }
        }
        for (x, value) in &self.paper {
            let _ = writeln!(text, "paper,{x},{value},,");
        }
        text
    }

    fn draw(&self, file: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let place = |x: f64| if self.is_log { x.max(1e-9).log10() } else { x };
        let xs = || {
            let own = self.series.iter().flat_map(|series| series.points.iter().map(|point| point.0));
            own.chain(self.paper.iter().map(|point| point.0)).map(place)
        };
        let ys = || {
            let own =
                self.series.iter().flat_map(|it| it.points.iter().map(|(_, mean)| mean.value + mean.half_90));
            own.chain(self.paper.iter().map(|point| point.1)).filter(|y| y.is_finite())
        };
        let (from, to) = (xs().fold(f64::INFINITY, f64::min), xs().fold(f64::NEG_INFINITY, f64::max));
        let aside = ((to - from) * 0.03).max(0.01);
        let top = ys().fold(0.0, f64::max).max(1e-9) * 1.08;
        let root = SVGBackend::new(file, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(&self.title, ("sans-serif", 16))
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(from - aside..to + aside, 0.0..top)?;
        let is_log = self.is_log;
        chart
            .configure_mesh()
            // Fine lines would be half of the file.
            .max_light_lines(0)
            .x_desc(&self.x)
            .y_desc(&self.y)
            .x_label_formatter(&|x| if is_log { short(10f64.powf(*x)) } else { short(*x) })
            .y_label_formatter(&|y| short(*y))
            .draw()?;
        for (series, color) in self.series.iter().zip(COLORS.iter().cycle()) {
            let color = *color;
            let line: Vec<_> = series.points.iter().map(|(x, mean)| (place(*x), mean.value)).collect();
            chart
                .draw_series([PathElement::new(line, color.stroke_width(2))])?
                .label(&series.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
            chart.draw_series(series.points.iter().map(|(x, mean)| {
                let (low, high) = ((mean.value - mean.half_90).max(0.0), mean.value + mean.half_90);
                ErrorBar::new_vertical(place(*x), low, mean.value, high, color.filled(), 5)
            }))?;
        }
        if !self.paper.is_empty() {
            chart
                .draw_series(
                    self.paper.iter().map(|(x, y)| Cross::new((place(*x), *y), 6, PAPER.stroke_width(2))),
                )?
                .label("the paper")
                .legend(|(x, y)| Cross::new((x + 8, y), 5, PAPER.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(PAPER)
            .position(SeriesLabelPosition::UpperRight)
            .draw()?;
        root.present()?;
        Ok(())
    }
}

/// Shares of a whole: a column for each name, of the same parts.
#[derive(Clone, Debug)]
pub struct Bars {
    /// File name without its ending.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// The parts, from below.
    pub parts: Vec<String>,
    /// The columns, and the share of each part.
    pub columns: Vec<(String, Vec<Mean>)>,
}

impl Bars {
    /// Writes both files into a directory.
    ///
    /// # Errors
    /// One cannot be written.
    pub fn write(&self, directory: &Path) -> anyhow::Result<()> {
        let mut text = String::from("column,part,share,half_90,half_95\n");
        for (column, shares) in &self.columns {
            for (part, Mean { value, half_90, half_95 }) in self.parts.iter().zip(shares) {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{column},{part},{value:.5},{half_90:.5},{half_95:.5}");
            }
        }
        let csv = directory.join(format!("{}.csv", self.name));
        std::fs::write(&csv, text).with_context(|| format!("{} cannot be written", csv.display()))?;
        let svg = directory.join(format!("{}.svg", self.name));
        self.draw(&svg).map_err(|error| anyhow!("{} cannot be drawn: {error}", svg.display()))
    }

    fn draw(&self, file: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::new(file, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        // Room for the names of the parts beside the columns.
        let right = self.columns.len() as f64 + 1.0;
        let mut chart = ChartBuilder::on(&root)
            .caption(&self.title, ("sans-serif", 16))
            .margin(10)
            .x_label_area_size(10)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..right, -0.08..1.0)?;
        chart
            .configure_mesh()
            .max_light_lines(0)
            .disable_x_mesh()
            .disable_x_axis()
            .y_label_formatter(&|y| short(*y))
            .draw()?;
        for (number, part) in self.parts.iter().enumerate() {
            let color = Palette99::pick(number).to_rgba();
            let boxes = self.columns.iter().enumerate().map(|(at, (_, shares))| {
                let below: f64 = shares[..number].iter().map(|share| share.value).sum();
                let corners = [(at as f64 + 0.15, below), (at as f64 + 0.85, below + shares[number].value)];
                Rectangle::new(corners, color.filled())
            });
            chart
                .draw_series(boxes.collect::<Vec<_>>())?
                .label(part)
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], color.filled()));
        }
        chart.draw_series(self.columns.iter().enumerate().map(|(at, (name, _))| {
            Text::new(name.clone(), (at as f64 + 0.4, -0.03), ("sans-serif", 14).into_font())
        }))?;
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(PAPER)
            .position(SeriesLabelPosition::UpperRight)
            .draw()?;
        root.present()?;
        Ok(())
    }
}

/// As few digits as tell it.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1e6 => format!("{}M", (value / 1e4).round() / 1e2),
        v if v >= 1e4 => format!("{}k", (value / 1e2).round() / 1e1),
        v if v >= 10.0 => format!("{}", value.round()),
        _ => format!("{}", (value * 100.0).round() / 100.0),
    }
}

/// A column's name.
fn plain(text: &str) -> String {
    text.replace([',', '\n'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure() -> Figure {
        let points = vec![(1.0, Mean::of(&[1.0, 1.2])), (10.0, Mean::of(&[0.5, 0.6]))];
        Figure {
            name: "test".to_owned(),
            title: "a title".to_owned(),
            x: "lifetime, times".to_owned(),
            y: "ratio".to_owned(),
            series: vec![Series { name: "bf".to_owned(), points }],
            paper: vec![(8.0, 0.45)],
            is_log: true,
        }
    }

    fn bars() -> Bars {
        let columns = vec![("rr".to_owned(), vec![Mean::of(&[0.6]), Mean::of(&[0.4])])];
        let parts = vec!["tcp".to_owned(), "application".to_owned()];
        Bars { name: "bars".to_owned(), title: "shares".to_owned(), parts, columns }
    }

    #[test]
    fn a_figure_is_two_files() {
        let directory = std::env::temp_dir().join(format!("keyferry-sim-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        figure().write(&directory).unwrap();
        let csv = std::fs::read_to_string(directory.join("test.csv")).unwrap();
        assert_eq!(csv.lines().next(), Some("series,lifetime  times,ratio,half_90,half_95"));
        assert!(csv.contains("\nbf,10,0.55000,") && csv.ends_with("\npaper,8,0.45,,\n"));
        let svg = std::fs::read_to_string(directory.join("test.svg")).unwrap();
        assert!(svg.contains("a title") && svg.contains("the paper") && svg.contains("polyline"));
        bars().write(&directory).unwrap();
        let csv = std::fs::read_to_string(directory.join("bars.csv")).unwrap();
        assert!(csv.ends_with("\nrr,application,0.40000,0.00000,0.00000\n"), "{csv}");
        let svg = std::fs::read_to_string(directory.join("bars.svg")).unwrap();
        assert!(svg.contains("application") && svg.matches("<rect").count() >= 3);
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_figure_that_cannot_be_written_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name);
        for name in ["test.svg", "bars.svg"] {
            std::fs::create_dir(place(name)).unwrap();
        }
        let drawn = [figure().write(directory.path()), bars().write(directory.path())];
        for (done, name) in drawn.into_iter().zip(["test.svg", "bars.svg"]) {
            let told = done.unwrap_err().to_string();
            assert!(told.starts_with(&format!("{} cannot be drawn: ", place(name).display())), "{told}");
        }
    }
}
