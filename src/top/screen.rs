//! A report as text, and as a terminal's screen.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Paragraph, Row as Cells, Table, TableState};

use super::rates::{Report, Row, Sort, Summary};

const HEADINGS: [&str; 8] = [
    "NODE", "REQ/S", "MEAN", "ERR/S", "FAIL/S", "TMPFS", "SIZE", "INODES",
];

/// A number in at most six characters, with a letter for its thousands.
fn short(n: f64) -> String {
    let mut n = n;
    for unit in ["", "k", "M", "G", "T"] {
        let digits = usize::from(n < 99.95 && n.fract() != 0.0);
        if n < 999.5 {
            return format!("{n:.digits$}{unit}");
        }
        n /= 1000.0;
    }
    format!("{n:.0}P")
}

fn bytes(n: f64) -> String {
    let mut n = n;
    for unit in ["B", "K", "M", "G"] {
        let digits = usize::from(n < 99.95 && n.fract() != 0.0);
        if n < 1023.5 {
            return format!("{n:.digits$}{unit}");
        }
        n /= 1024.0;
    }
    format!("{n:.1}T")
}

fn seconds(n: f64) -> String {
    match n {
        n if n < 1e-3 => format!("{:.1}us", n * 1e6),
        n if n < 1.0 => format!("{:.1}ms", n * 1e3),
        n => format!("{n:.2}s"),
    }
}

fn or_dash(n: Option<f64>, text: fn(f64) -> String) -> String {
    n.map_or_else(|| "-".to_owned(), text)
}

/// A node's name is whatever the tables say: nothing in it may move the cursor.
fn printable(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

fn cells(row: &Row) -> [String; 8] {
    [
        printable(&row.node),
        short(row.requests_per_second),
        or_dash(row.mean_seconds, seconds),
        short(row.errors_per_second),
        short(row.failures_per_second),
        or_dash(row.tmpfs_used_bytes, bytes),
        or_dash(row.tmpfs_size_bytes, bytes),
        or_dash(row.inodes, short),
    ]
}

fn summary(all: &Summary) -> [String; 2] {
    [
        format!(
            "{} nodes, {} requests/s, mean {}, p50 {}, p99 {}",
            all.nodes,
            short(all.requests_per_second),
            or_dash(all.mean_seconds, seconds),
            or_dash(all.p50_seconds, seconds),
            or_dash(all.p99_seconds, seconds),
        ),
        format!(
            "read {}/s, written {}/s, copy-ups {}/s, panics {}",
            bytes(all.read_bytes_per_second),
            bytes(all.written_bytes_per_second),
            short(all.copy_ups_per_second),
            short(all.panics),
        ),
    ]
}

/// The report as lines of text.
pub fn print(report: &Report) -> String {
    let mut text = summary(&report.all).join("\n");
    text.push('\n');
    let rows: Vec<[String; 8]> = report.nodes.iter().map(cells).collect();
    let headings = HEADINGS.map(str::to_owned);
    let width = |column: usize| {
        let all = rows.iter().chain([&headings]);
        all.map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
    for row in [&headings].into_iter().chain(&rows) {
        let mut line = format!("{:<1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            line += &format!("  {cell:>width$}");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// What the screen shows.
#[derive(Debug, Default)]
pub(super) struct Screen {
    pub(super) report: Option<Report>,
    pub(super) sort: Sort,
    /// Why there is nothing newer.
    pub(super) trouble: Option<String>,
    pub(super) place: TableState,
}

impl Screen {
    /// Takes what is newest, ordered as wished.
    pub(super) fn take(&mut self, mut report: Report) {
        report.sort(self.sort);
        self.report = Some(report);
        self.trouble = None;
    }

    pub(super) fn sort_next(&mut self) {
        self.sort = self.sort.next();
        if let Some(report) = &mut self.report {
            report.sort(self.sort);
        }
    }

    /// Moves the selected line by so many.
    pub(super) fn step(&mut self, by: isize) {
        let count = self.report.as_ref().map_or(0, |report| report.nodes.len());
        let Some(last) = count.checked_sub(1) else {
            return;
        };
        let at = match self.place.selected() {
            None if by > 0 => 0,
            None => last,
            Some(at) => at.saturating_add_signed(by).min(last),
        };
        self.place.select(Some(at));
    }

    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let areas = [
            Constraint::Length(2),
            Constraint::Min(2),
            Constraint::Length(1),
        ];
        let [top, middle, bottom] = Layout::vertical(areas).areas(frame.area());
        let waiting = ["waiting for the second scrape".to_owned(), String::new()];
        let head = self.report.as_ref().map_or(waiting, |r| summary(&r.all));
        frame.render_widget(Paragraph::new(head.map(Line::from).to_vec()), top);

        let nodes = self.report.as_ref().map_or(&[][..], |r| &r.nodes);
        let right = |text: String| Line::from(text).alignment(Alignment::Right);
        let rows = nodes.iter().map(|row| {
            let [name, rest @ ..] = cells(row);
            let cells = Cells::new(
                [Cell::from(name)]
                    .into_iter()
                    .chain(rest.map(|text| right(text).into())),
            );
            match row.failures_per_second > 0.0 {
                true => cells.style(Style::new().fg(Color::Red)),
                false => cells,
            }
        });
        let sorted = match self.sort {
            Sort::Requests => 1,
            Sort::Latency => 2,
            Sort::Errors => 4,
            Sort::Tmpfs => 5,
        };
        let heading = |(at, text): (usize, &&'static str)| {
            let line = match at {
                0 => Line::from(*text),
                _ => right((*text).to_owned()),
            };
            let style = match at == sorted {
                true => Style::new().add_modifier(Modifier::UNDERLINED | Modifier::BOLD),
                false => Style::new().add_modifier(Modifier::BOLD),
            };
            Cell::from(line).style(style)
        };
        let widths = [Constraint::Min(8)]
            .into_iter()
            .chain([Constraint::Length(8); HEADINGS.len() - 1]);
        let table = Table::new(rows, widths)
            .header(Cells::new(HEADINGS.iter().enumerate().map(heading)))
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        frame.render_stateful_widget(table, middle, &mut self.place);

        let keys = format!("q quit   s sort: {}   arrows select", self.sort.word());
        let foot = match &self.trouble {
            Some(why) => Paragraph::new(why.as_str()).style(Style::new().fg(Color::Red)),
            None => Paragraph::new(keys),
        };
        frame.render_widget(foot, bottom);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::top::Scrape;

    fn report() -> Report {
        let text = |n: u32| {
            format!(
                "statelite_requests_total{{node=\"cn1\",op=\"read\"}} {}\n\
                 statelite_node_request_seconds_total{{node=\"cn1\"}} {n}\n\
                 statelite_node_tmpfs_used_bytes{{node=\"cn1\"}} 1572864\n\
                 statelite_node_tmpfs_size_bytes{{node=\"cn1\"}} 1073741824\n\
                 statelite_requests_total{{node=\"cn\\n2\",op=\"read\"}} 5\n\
                 statelite_node_failures_total{{node=\"cn\\n2\"}} {n}\n",
                n * 2000
            )
        };
        let [before, now] = [1, 2].map(|n| Scrape::parse(&text(n)).unwrap());
        Report::new(&before, &now, Duration::from_secs(1), Sort::Requests)
    }

    #[test]
    fn a_report_as_text() {
        let text = print(&report());
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("2 nodes, 2k requests/s"), "{text}");
        let expected = [
            "NODE  REQ/S     MEAN  ERR/S  FAIL/S  TMPFS  SIZE  INODES",
            "cn1      2k  500.0us      0       0   1.5M    1G       -",
            "cn?2      0        -      0       1      -     -       -",
        ];
        assert_eq!(lines[2..], expected);
    }

    #[test]
    fn the_screen_at_any_size() {
        let mut screen = Screen::default();
        screen.step(1);
        assert_eq!(screen.place.selected(), None);
        screen.take(report());
        screen.sort_next();
        screen.step(-1);
        assert_eq!(screen.place.selected(), Some(1));
        screen.step(-5);
        assert_eq!(screen.place.selected(), Some(0));
        for (width, height) in [(1, 1), (20, 3), (80, 24), (300, 100)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| screen.draw(frame)).unwrap();
            if width < 80 {
                continue;
            }
            let shown = terminal.backend().to_string();
            for word in ["2 nodes", "cn1", "500.0us", "s sort: latency", "FAIL/S"] {
                assert!(shown.contains(word), "{word} is not on\n{shown}");
            }
        }
        screen.trouble = Some("nothing answers".into());
        let mut terminal = Terminal::new(TestBackend::new(40, 5)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        assert!(terminal.backend().to_string().contains("nothing answers"));
    }

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.0, "0"),
            (0.25, "0.2"),
            (99.94, "99.9"),
            (999.0, "999"),
            (1500.0, "1.5k"),
            (2e6, "2M"),
        ];
        for (n, text) in cases {
            assert_eq!(short(n), text);
        }
        assert_eq!(bytes(1536.0), "1.5K");
        assert_eq!(bytes(5.0 * 1024.0 * 1024.0 * 1024.0 * 1024.0), "5.0T");
        assert_eq!(seconds(0.000_002), "2.0us");
        assert_eq!(seconds(2.5), "2.50s");
    }
}
