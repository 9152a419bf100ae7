//! The figures as a picture: for each path what Linux carried and what we did, median and spread.

use std::error::Error;

use plotters::prelude::*;

use crate::{Figure, Spread};

const LINUX: RGBColor = RGBColor(120, 120, 120);
const OURS: RGBColor = RGBColor(200, 80, 20);
const SIZE: (u32, u32) = (900, 640);
/// Half the way between the two stacks' bars of one path.
const ASIDE: f64 = 0.14;

fn name(figure: &Figure) -> String {
    match (figure.loss_permille, figure.reorder_percent) {
        (0, 0) => format!("{} ms", figure.rtt_ms),
        (0, reordered) => format!("{} ms, {reordered} % late", figure.rtt_ms),
        (lost, _) => format!("{} ms, {} % lost", figure.rtt_ms, lost as f64 / 10.0),
    }
}

/// Writes the picture.
pub fn draw(file: &str, figures: &[Figure]) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let panels = root.split_evenly((2, 1));
    for (panel, (algorithm, title)) in panels.iter().zip([("cubic", "CUBIC"), ("bbr", "BBR")]) {
        let of: Vec<&Figure> = figures.iter().filter(|figure| figure.algorithm == algorithm).collect();
        if of.is_empty() {
            continue;
        }
        let end = of.len() as f64 - 0.5;
        let mut chart = ChartBuilder::on(panel)
            .caption(format!("{title}: goodput over a bottleneck of 100 Mbit/s"), ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(48)
            .build_cartesian_2d(-0.5..end, (0.5f64..130.0).log_scale())?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(of.len() + 1)
            .x_label_formatter(&|at| {
                let whole = (at - at.round()).abs() < 0.01;
                of.get(at.round() as usize).filter(|_| whole).map_or(String::new(), |figure| name(figure))
            })
            .x_label_style(("sans-serif", 10))
            .y_desc("Mbit/s")
            .y_label_formatter(&|megabits| format!("{megabits}"))
            .draw()?;
        for (label, color, aside) in [("Linux", LINUX, -ASIDE), ("keyferry", OURS, ASIDE)] {
            let spread = |figure: &Figure| if aside < 0.0 { figure.linux } else { figure.ours };
            let bars = of.iter().zip(0u32..).map(|(figure, at)| {
                let Spread { median, least, most } = spread(figure);
                ErrorBar::new_vertical(f64::from(at) + aside, least, median, most, color.filled(), 9)
            });
            chart
                .draw_series(bars)?
                .label(label)
                .legend(move |(x, y)| Circle::new((x + 8, y), 4, color.filled()));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerLeft)
            .border_style(LINUX)
            .draw()?;
    }
    root.present()?;
    Ok(())
}
