//! A report as pictures: one chart an operation, latency over the share of operations that took no
//! longer, both on logarithmic scales, so that the tail is as wide as the middle. Text stays text, no
//! font of the system is asked for.

use plotters::prelude::*;

use super::BenchError;
use super::report::{Figures, HEAD, Report};

/// One chart.
const WIDTH: u32 = 560;
const HEIGHT: u32 = 340;
/// The title, and a row of the legend.
const TITLE: u32 = 34;
const ROW: u32 = 22;
/// How many points a curve has.
const POINTS: usize = 200;
const FONT: &str = "sans-serif";
/// Told apart also by who does not see all colours (Okabe and Ito).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
    RGBColor(148, 132, 20),
];

/// The picture as SVG.
///
/// # Errors
/// [`BenchError::Plot`].
pub fn svg(report: &Report) -> Result<String, BenchError> {
    let mut text = String::new();
    draw(report, &mut text).map_err(|error| BenchError::Plot(error.to_string()))?;
    Ok(text)
}

/// A page with the picture and the table.
///
/// # Errors
/// [`BenchError::Plot`].
pub fn html(report: &Report) -> Result<String, BenchError> {
    let headings: String = HEAD.iter().map(|head| format!("<th>{head}</th>")).collect();
    let mut rows = String::new();
    for figures in &report.operations {
        let what = escape(&format!("{}: {}", figures.operation, figures.what));
        rows += &format!(
            "<tr><th colspan=\"{}\" class=\"operation\">{what}</th></tr>\n",
            1 + HEAD.len()
        );
        for line in &figures.mounts {
            let cells: String = line
                .cells()
                .iter()
                .map(|cell| format!("<td>{cell}</td>"))
                .collect();
            rows += &format!("<tr><th>{}</th>{cells}</tr>\n", escape(&line.name));
        }
    }
    let notes: String = report
        .notes()
        .iter()
        .map(|note| format!("<p>{}</p>\n", escape(note)))
        .collect();
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><title>statelite bench</title>\n\
         <style>body {{ font-family: sans-serif; margin: 2em }} svg {{ max-width: 100%; height: auto }}\n\
         td, th {{ padding: .1em .7em; text-align: right }} tr th:first-child {{ text-align: left }}\n\
         .operation {{ padding-top: .8em }}</style></head>\n\
         <body><h1>statelite bench</h1>\n<p>{}</p>\n{}\n\
         <p>ns an operation, medians of the rounds; ratios to {}</p>\n\
         <table><thead><tr><th></th>{headings}</tr></thead><tbody>\n{rows}</tbody></table>\n{notes}</body></html>\n",
        escape(&report.headline()),
        svg(report)?,
        escape(&report.base),
    ))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

type Drawing<T> = Result<T, Box<dyn std::error::Error>>;

fn draw(report: &Report, text: &mut String) -> Drawing<()> {
    let columns = report.operations.len().clamp(1, 2) as u32;
    let rows = (report.operations.len() as u32).div_ceil(columns);
    let places = legend(report, columns * WIDTH);
    let top = TITLE + ROW * places.last().map_or(0, |(_, row)| row + 1);
    let size = (columns * WIDTH, top + rows * HEIGHT);
    let area = SVGBackend::with_string(text, size).into_drawing_area();
    area.fill(&WHITE)?;
    let title = "Latency by the share of operations that took no longer";
    area.draw(&Text::new(title, (14, 10), (FONT, 18)))?;
    for (at, (mount, (x, row))) in report.mounts.iter().zip(&places).enumerate() {
        let (x, y) = (*x as i32, (TITLE + row * ROW) as i32);
        let line = [(x, y + 8), (x + 24, y + 8)];
        area.draw(&PathElement::new(line, colour(at).stroke_width(3)))?;
        area.draw(&Text::new(mount.name.clone(), (x + 30, y), (FONT, 15)))?;
    }
    let (_, charts) = area.split_vertically(top);
    let cells = charts.split_evenly((rows as usize, columns as usize));
    for (figures, cell) in report.operations.iter().zip(&cells) {
        chart(figures, cell)?;
    }
    area.present()?;
    Ok(())
}

/// Where each mount's name stands: from the left, and in which row.
fn legend(report: &Report, width: u32) -> Vec<(u32, u32)> {
    let (mut x, mut row) = (14, 0);
    let mut places = Vec::new();
    for mount in &report.mounts {
        let wide = 50 + 9 * mount.name.chars().count() as u32;
        if x > 14 && x + wide > width {
            (x, row) = (14, row + 1);
        }
        places.push((x, row));
        x += wide;
    }
    places
}

fn colour(at: usize) -> RGBColor {
    match COLOURS.get(at) {
        Some(colour) => *colour,
        None => {
            let (r, g, b) = HSLColor(at as f64 * 0.618 % 1.0, 0.6, 0.4).rgb();
            RGBColor(r, g, b)
        }
    }
}

fn chart(
    figures: &Figures,
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
) -> Drawing<()> {
    let lines = || figures.mounts.iter().map(|line| &line.all);
    let most = lines().map(|all| all.len()).max().unwrap_or(1).max(10) as f64;
    let low = lines().map(|all| all.min()).min().unwrap_or(1).max(1) as f64;
    let high = lines().map(|all| all.max()).max().unwrap_or(1) as f64;
    let (low, high) = (low / 1.2, (high * 1.2).max(low * 10.0));
    let mut chart = ChartBuilder::on(area)
        .caption(figures.operation.name(), (FONT, 16))
        .margin(12)
        .x_label_area_size(28)
        .y_label_area_size(62)
        .build_cartesian_2d(
            (1.0..most).log_scale().with_key_points(shares(most)),
            (low..high).log_scale().with_key_points(ticks(low, high)),
        )?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.15))
        .label_style((FONT, 12))
        .x_label_formatter(&|x| share(*x))
        .y_label_formatter(&|y| time(*y))
        .draw()?;
    for (at, all) in lines().enumerate() {
        let end = (all.len() as f64).log10();
        let points = (0..=POINTS).map(|point| {
            let x = 10f64.powf(end * point as f64 / POINTS as f64);
            (x, all.value_at_quantile(1.0 - 1.0 / x).max(1) as f64)
        });
        chart.draw_series(LineSeries::new(points, colour(at).stroke_width(2)))?;
    }
    Ok(())
}

/// On the horizontal axis stands 1 / (1 - share): 50 %, 90 %, 99 % and so on, as far as there are operations.
fn shares(most: f64) -> Vec<f64> {
    let tens = (0..).map(|exponent| 10f64.powi(exponent));
    let tens = tens.take_while(|x| *x <= most);
    tens.flat_map(|x| if x == 1.0 { vec![1.0, 2.0] } else { vec![x] })
        .collect()
}

/// 1, 2 and 5 times each power of ten; the powers alone where that would be too many.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let steps: &[f64] = if high / low > 3000.0 {
        &[1.0]
    } else {
        &[1.0, 2.0, 5.0]
    };
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let all = (first..=last).flat_map(|e| steps.iter().map(move |step| step * 10f64.powi(e)));
    all.filter(|tick| (low..=high).contains(tick)).collect()
}

fn share(x: f64) -> String {
    let nines = (x.log10().round() as usize).saturating_sub(2);
    format!("{:.nines$}%", 100.0 * (1.0 - 1.0 / x))
}

fn time(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns} ns"),
        ns if ns < 1e6 => format!("{} µs", ns / 1e3),
        ns if ns < 1e9 => format!("{} ms", ns / 1e6),
        ns => format!("{} s", ns / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::testing::report;
    use super::*;

    fn texts(xml: &str) -> Vec<String> {
        let options = roxmltree::ParsingOptions {
            allow_dtd: true,
            ..Default::default()
        };
        let tree = roxmltree::Document::parse_with_options(xml, options).unwrap();
        let texts = tree.descendants().filter(|node| node.is_text());
        texts
            .map(|node| node.text().unwrap().trim().to_owned())
            .collect()
    }

    #[test]
    fn every_mount_and_operation_is_named_whatever_its_name() {
        let names = [
            "ext4",
            "a < b & \"c\"",
            "Größe",
            "4",
            "5",
            "6",
            "7",
            "8",
            "9",
            "10",
        ];
        let report = report(&names, 0);
        for xml in [svg(&report).unwrap(), html(&report).unwrap()] {
            let texts = texts(&xml);
            for name in names.into_iter().chain(["cold-stat", "open"]) {
                assert!(texts.iter().any(|text| text == name), "{name}: {texts:?}");
            }
        }
    }

    #[test]
    fn each_mount_has_a_curve_in_each_chart() {
        let svg = svg(&report(&["a", "b", "c"], 0)).unwrap();
        let tree = roxmltree::Document::parse(&svg).unwrap();
        let curves = |colour: RGBColor| {
            let hex = format!("#{:02X}{:02X}{:02X}", colour.0, colour.1, colour.2);
            let drawn = tree.descendants().filter(move |node| {
                node.has_tag_name(("http://www.w3.org/2000/svg", "polyline"))
                    && node.attribute("stroke") == Some(&hex)
                    && node
                        .attribute("points")
                        .is_some_and(|p| p.split(' ').count() > POINTS)
            });
            drawn.count()
        };
        assert_eq!(
            [curves(COLOURS[0]), curves(COLOURS[1]), curves(COLOURS[2])],
            [2, 2, 2]
        );
    }

    #[test]
    fn many_names_take_several_rows() {
        let long = "a name of some length";
        let report = report(&[long; 12], 0);
        let places = legend(&report, 2 * WIDTH);
        assert!(places.iter().all(|(x, _)| x + 50 < 2 * WIDTH));
        assert!(places.last().unwrap().1 > 0);
        assert!(places.is_sorted_by_key(|(x, row)| (*row, *x)));
    }

    #[test]
    fn labels() {
        assert_eq!(
            [1.0, 2.0, 10.0, 100.0, 1e3, 1e4].map(share),
            ["0%", "50%", "90%", "99%", "99.9%", "99.99%"]
        );
        assert_eq!(
            [500.0, 2e3, 5e6, 1e9].map(time),
            ["500 ns", "2 µs", "5 ms", "1 s"]
        );
        assert_eq!(shares(150.0), [1.0, 2.0, 10.0, 100.0]);
        assert_eq!(ticks(80.0, 1500.0), [100.0, 200.0, 500.0, 1000.0]);
        assert_eq!(ticks(80.0, 1e6), [100.0, 1e3, 1e4, 1e5, 1e6]);
    }
}
