//! The report of a run: one HTML file that needs nothing else, neither scripts nor the network.
//!
//! [`render`] is a pure function of [`ReportData`]: same data, same bytes. Called at the end of `quickstart` and of
//! each training stage. Text from models and files is escaped on its way in (`html`); a content security policy in
//! the page forbids the rest.

mod chart;
mod data;
mod format;
mod html;
mod overlay;
mod page;
mod sections;
#[cfg(test)]
mod tests;

pub use chart::Scale;
pub use data::{
    Answer, CleaningSummary, Compression, Exam, Fact, Point, ReportData, Sample, SourceSummary, StageReport,
    TrainingPoint, ValidationSeries,
};
pub use overlay::{SweepData, TrialCurve};

/// The whole page, as UTF-8 text to be written to one file.
pub fn render(report: &ReportData) -> String {
    page::render(report)
}

/// The page of a sweep, as [`render`] gives that of a run.
pub fn render_sweep(sweep: &SweepData) -> String {
    overlay::render(sweep)
}
