//! `flat RESULT.json PICTURE.svg`: draws what `flat.sh` found, on the left over the number of litetrees,
//! on the right over the number of rules.
//!
//! Owns: the picture. May not: measure; draw a curve that lacks a point.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use serde::Deserialize;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// What is drawn: its name in the figures, and its colour (Okabe and Ito).
const OPERATIONS: [(&str, RGBColor); 4] = [
    ("cold-stat", RGBColor(0, 114, 178)),
    ("open", RGBColor(213, 94, 0)),
    ("cold-absent", RGBColor(204, 121, 167)),
    ("warm-stat", RGBColor(0, 158, 115)),
];
const LITETREES: [(f64, &str); 3] = [
    (1.0, "1 litetree"),
    (4.0, "4 litetrees"),
    (16.0, "16 litetrees"),
];
const LAYERS: [(f64, &str); 3] = [
    (1.0, "overlayfs, 1 layer"),
    (4.0, "overlayfs, 4 layers"),
    (16.0, "overlayfs, 16 layers"),
];
const RULES: [(f64, &str); 3] = [
    (10.0, "1 litetree"),
    (1e3, "1000 rules"),
    (1e5, "100000 rules"),
];
const SIZE: (u32, u32) = (1120, 420);
const LEGEND: u32 = 60;
const FONT: &str = "sans-serif";

/// The part of a result that is drawn.
#[derive(Deserialize)]
struct Results {
    tables: Vec<Table>,
}

#[derive(Deserialize)]
struct Table {
    medians: Vec<Median>,
}

#[derive(Deserialize)]
struct Median {
    who: String,
    what: String,
    value: f64,
}

impl Results {
    /// A curve in microseconds.
    fn curve(&self, operation: &str, points: &[(f64, &str)]) -> Outcome<Vec<(f64, f64)>> {
        let medians = || self.tables.iter().flat_map(|table| &table.medians);
        let point = |(x, who): &(f64, &str)| {
            let found = medians().find(|median| median.who == *who && median.what == operation);
            let median = found.ok_or_else(|| format!("no figure of {operation} for {who}"))?;
            Ok((*x, median.value / 1e3))
        };
        points.iter().map(point).collect()
    }
}

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [result, picture] = &args[..] else {
        return Err("usage: flat RESULT.json PICTURE.svg".into());
    };
    let text = std::fs::read_to_string(result).map_err(|error| format!("{result}: {error}"))?;
    let results = serde_json::from_str(&text).map_err(|error| format!("{result}: {error}"))?;
    draw(&results, Path::new(picture)).map_err(|error| format!("{picture}: {error}").into())
}

fn draw(results: &Results, picture: &Path) -> Outcome<()> {
    let area = SVGBackend::new(picture, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let (legend, charts) = area.split_vertically(LEGEND);
    let title = "A lookup as litetrees and rules grow (p50): dots statelite, pale overlayfs";
    legend.draw(&Text::new(title, (14, 8), (FONT, 17)))?;
    for (at, (operation, colour)) in OPERATIONS.iter().enumerate() {
        let x = 14 + 130 * at as i32;
        legend.draw(&PathElement::new(
            [(x, 44), (x + 24, 44)],
            colour.stroke_width(3),
        ))?;
        legend.draw(&Text::new(*operation, (x + 30, 37), (FONT, 14)))?;
    }
    let (left, right) = charts.split_horizontally(SIZE.0 / 2);
    let curves = |points: &[(f64, &str)], opacity| -> Outcome<Vec<Curve>> {
        let drawn = OPERATIONS.into_iter().map(|(operation, colour)| {
            Ok((results.curve(operation, points)?, colour.mix(opacity)))
        });
        drawn.collect()
    };
    let mut levels = curves(&LAYERS, 0.35)?;
    levels.extend(curves(&LITETREES, 1.0)?);
    let rules = curves(&RULES, 1.0)?;
    // One scale for both.
    let values = || {
        levels
            .iter()
            .chain(&rules)
            .flat_map(|(curve, _)| curve)
            .map(|point| point.1)
    };
    let low = values().fold(f64::INFINITY, f64::min) / 1.5;
    let high = values().fold(0.0, f64::max) * 1.5;
    chart(&left, "litetrees", &LITETREES, &levels, low..high)?;
    chart(&right, "litefile rules", &RULES, &rules, low..high)?;
    area.present()?;
    Ok(())
}

/// A curve and its colour; what is pale has no dots.
type Curve = (Vec<(f64, f64)>, RGBAColor);

fn chart(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    what: &str,
    marks: &[(f64, &str)],
    curves: &[Curve],
    scale: std::ops::Range<f64>,
) -> Outcome<()> {
    let ticks: Vec<f64> = marks.iter().map(|mark| mark.0).collect();
    let (Some(first), Some(last)) = (ticks.first(), ticks.last()) else {
        return Err("a chart without marks".into());
    };
    let decades = (-1..=4).flat_map(|tens| [1.0, 2.0, 5.0].map(|step| step * 10f64.powi(tens)));
    let heights = decades.filter(|height| scale.contains(height)).collect();
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .margin_right(34)
        .x_label_area_size(44)
        .y_label_area_size(62)
        .build_cartesian_2d(
            (*first..last * 1.05).log_scale().with_key_points(ticks),
            scale.log_scale().with_key_points(heights),
        )?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.15))
        .label_style((FONT, 12))
        .x_desc(what)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y} µs"))
        .draw()?;
    for (points, colour) in curves {
        chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?;
        if colour.alpha() == 1.0 {
            let dots = points
                .iter()
                .map(|point| Circle::new(*point, 4, colour.filled()));
            chart.draw_series(dots)?;
        }
    }
    Ok(())
}
