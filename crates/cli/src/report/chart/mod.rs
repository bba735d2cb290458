//! Line charts as SVG: axes with ticks and titles, a legend, gaps where nothing was measured.
//!
//! Colours are classes, so that the page's style sheet has them for light and dark; series differ in dash and marker
//! too, for those who do not see the colours. Each chart is drawn twice, for wide and for narrow screens, because the
//! letters of a scaled drawing would be too small; the style sheet shows one of them.

mod curve;
mod scale;

use std::fmt::Write;

pub(super) use curve::smoothed;
use scale::Axis;
pub use scale::Scale;

use super::data::Point;
use super::format;
use super::html::escape;

/// Colours that the style sheet defines for series.
pub(super) const COLOURS: usize = 6;

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// Thin and pale: noise behind its mean.
    Faint,
    /// A plain line in the colour of training.
    Line,
    /// A line with a marker on each point, in colour and dash number n.
    Marked(usize),
    /// The same without markers, for many points.
    Coloured(usize),
}

/// A named curve.
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<Point>,
    pub(super) mark: Mark,
}

/// A line chart.
#[derive(Debug, Clone)]
pub(super) struct Chart {
    /// What it shows, for those who hear it.
    pub(super) label: String,
    pub(super) x_title: String,
    pub(super) y_title: String,
    pub(super) x_scale: Scale,
    pub(super) y_scale: Scale,
    pub(super) series: Vec<Series>,
    /// Height in pixels of the wide drawing.
    pub(super) height: f64,
}

/// The measures of one drawing, in pixels.
struct Frame {
    class: &'static str,
    width: f64,
    height: f64,
    left: f64,
    right: f64,
    x_ticks: usize,
    y_ticks: usize,
}

const TOP: f64 = 12.0;
/// At least.
const RIGHT: f64 = 14.0;
const BOTTOM: f64 = 46.0;
/// Pixels of height for a tick, at least; of width for a letter of its label, at most; and for the title beside them.
const TICK_HEIGHT: f64 = 36.0;
const LETTER_WIDTH: f64 = 7.2;
const TITLE_WIDTH: f64 = 32.0;

impl Frame {
    /// Its margins have room for the labels: those of `y` beside it, and half of the last of `x` past its end.
    fn new(class: &'static str, width: f64, height: f64, x_ticks: usize, x: &Axis, y: &Axis) -> Self {
        let y_ticks = ((height - TOP - BOTTOM) / TICK_HEIGHT) as usize;
        let longest = |axis: &Axis, ticks| {
            axis.ticks(ticks).into_iter().map(|t| format::tick(t).chars().count()).max().unwrap_or(0) as f64
        };
        let left = TITLE_WIDTH + LETTER_WIDTH * longest(y, y_ticks).max(3.0);
        let right = RIGHT.max(LETTER_WIDTH * longest(x, x_ticks) / 2.0);
        Frame { class, width, height, left, right, x_ticks, y_ticks }
    }

    fn across(&self, share: f64) -> f64 {
        self.left + share * (self.width - self.left - self.right)
    }

    fn up(&self, share: f64) -> f64 {
        let floor = self.height - BOTTOM;
        floor - share * (floor - TOP)
    }
}

impl Chart {
    /// Both drawings and the legend, or a sentence where there is nothing to draw.
    pub(super) fn render(&self) -> String {
        let values = |coordinate: fn(&Point) -> f64| {
            let shown = |p: &&Point| self.shown(p);
            self.series.iter().flat_map(move |series| series.points.iter().filter(shown)).map(coordinate)
        };
        let axes = Axis::over(self.x_scale, values(|p| p.x), 0.0).zip(Axis::over(self.y_scale, values(|p| p.y), 0.04));
        let Some((x, y)) = axes else {
            return format!("<p class=\"empty\">{}: nothing was measured.</p>\n", escape(&self.label));
        };
        let mut out = String::from("<figure class=\"chart\">\n");
        for frame in [
            Frame::new("wide", 860.0, self.height, 8, &x, &y),
            Frame::new("narrow", 380.0, self.height.min(280.0), 4, &x, &y),
        ] {
            self.draw(&mut out, &frame, &x, &y);
        }
        self.legend(&mut out);
        out.push_str("</figure>\n");
        out
    }

    fn shown(&self, point: &Point) -> bool {
        let shows = |scale: Scale, v: f64| v.is_finite() && (scale == Scale::Linear || v > 0.0);
        shows(self.x_scale, point.x) && shows(self.y_scale, point.y)
    }

    fn draw(&self, out: &mut String, frame: &Frame, x: &Axis, y: &Axis) {
        let _ = writeln!(
            out,
            "<svg class=\"{}\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">",
            frame.class,
            frame.width,
            frame.height,
            escape(&self.label)
        );
        let (left, right, floor) = (frame.across(0.0), frame.across(1.0), frame.up(0.0));
        for tick in y.ticks(frame.y_ticks) {
            let at = frame.up(y.position(tick));
            let _ = writeln!(
                out,
                "<line class=\"grid\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 7.0,
                at + 4.0,
                format::tick(tick)
            );
        }
        for tick in x.ticks(frame.x_ticks) {
            let at = frame.across(x.position(tick));
            let _ = writeln!(
                out,
                "<line class=\"axis\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{floor:.1}\" y2=\"{:.1}\"/>\
                 <text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                floor + 5.0,
                floor + 19.0,
                format::tick(tick)
            );
        }
        let _ = writeln!(
            out,
            "<line class=\"axis\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{floor:.1}\" y2=\"{floor:.1}\"/>\
             <text class=\"title\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text class=\"title\" transform=\"translate(13 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            (left + right) / 2.0,
            frame.height - 8.0,
            escape(&self.x_title),
            (TOP + floor) / 2.0,
            escape(&self.y_title)
        );
        for series in &self.series {
            draw_series(out, series, frame, x, y);
        }
        out.push_str("</svg>\n");
    }

    fn legend(&self, out: &mut String) {
        if self.series.len() < 2 {
            return;
        }
        out.push_str("<figcaption class=\"legend\">");
        for series in &self.series {
            let class = series.mark.class();
            let _ = write!(
                out,
                "<span><svg viewBox=\"0 0 30 12\" width=\"30\" height=\"12\" aria-hidden=\"true\">\
                 <path class=\"{class}\" d=\"M1 6H29\"/>"
            );
            if let Mark::Marked(number) = series.mark {
                marker(out, number, 15.0, 6.0, "");
            }
            let _ = write!(out, "</svg>{}</span>", escape(&series.name));
        }
        out.push_str("</figcaption>\n");
    }
}

impl Mark {
    fn class(self) -> String {
        match self {
            Self::Faint => "series faint".to_owned(),
            Self::Line => "series line".to_owned(),
            // Beyond the colours the dashes go on.
            Self::Marked(number) | Self::Coloured(number) => {
                format!("series c{} d{}", number % COLOURS, number / COLOURS % 3)
            }
        }
    }
}

fn draw_series(out: &mut String, series: &Series, frame: &Frame, x: &Axis, y: &Axis) {
    let columns = (frame.width - frame.left - frame.right) as usize;
    let points = match series.mark {
        Mark::Marked(_) => series.points.clone(),
        _ => curve::thinned(&series.points, columns, |value| x.position(value)),
    };
    let at = |p: &Point| (frame.across(x.position(p.x)), frame.up(y.position(p.y)));
    let shown = |p: &Point| x.shows(p.x) && y.shows(p.y);
    let mut path = String::new();
    let mut dots = String::new();
    for run in points.chunk_by(|a, b| shown(a) && shown(b)).filter(|run| shown(&run[0])) {
        for (index, point) in run.iter().enumerate() {
            let (px, py) = at(point);
            let _ = write!(path, "{}{px:.1} {py:.1}", if index == 0 { 'M' } else { 'L' });
            match series.mark {
                Mark::Marked(number) => {
                    let tip =
                        format!("{}: {} at {}", series.name, format::decimals(point.y, 4), format::short(point.x));
                    marker(&mut dots, number, px, py, &tip);
                }
                // A line of one point has no length.
                _ if run.len() == 1 => {
                    let _ = write!(
                        dots,
                        "<circle class=\"{} dot\" cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"2.5\"/>",
                        series.mark.class()
                    );
                }
                _ => {}
            }
        }
    }
    let _ = writeln!(out, "<path class=\"{}\" d=\"{path}\"/>{dots}", series.mark.class());
}

/// A small shape, a different one for each number, with a tip that browsers show on hovering.
fn marker(out: &mut String, number: usize, x: f64, y: f64, tip: &str) {
    let class = format!("marker c{}", number % COLOURS);
    let shape = match number % 4 {
        0 => format!("M{:.1} {y:.1}a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0 -6.4 0Z", x - 3.2),
        1 => format!("M{:.1} {:.1}h5.6v5.6h-5.6Z", x - 2.8, y - 2.8),
        2 => format!("M{x:.1} {:.1}l3.7 6.4h-7.4Z", y - 4.0),
        _ => format!("M{x:.1} {:.1}l4 4l-4 4l-4 -4Z", y - 4.0),
    };
    let title = if tip.is_empty() { String::new() } else { format!("<title>{}</title>", escape(tip)) };
    let _ = write!(out, "<path class=\"{class}\" d=\"{shape}\">{title}</path>");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last tick may stand at the very end of its axis.
    #[test]
    fn the_labels_of_x_end_inside() {
        for last in [9.0, 200.0, 1_000.0, 200_704.0, 200e3, 3.2e9] {
            let x = Axis::over(Scale::Linear, [0.0, last].into_iter(), 0.0).unwrap();
            let y = Axis::over(Scale::Linear, [1.0, 2.0].into_iter(), 0.04).unwrap();
            for (width, ticks) in [(860.0, 8), (380.0, 4)] {
                let frame = Frame::new("", width, 280.0, ticks, &x, &y);
                for tick in x.ticks(ticks) {
                    let half = LETTER_WIDTH * format::tick(tick).chars().count() as f64 / 2.0;
                    let at = frame.across(x.position(tick));
                    assert!(at - half >= 0.0 && at + half <= width, "{tick} of {last} at {at} of {width}");
                }
            }
        }
    }
}
