//! The report of a run: one HTML file that needs nothing else, neither scripts nor the network.
//!
//! [`render`] is a pure function of [`ReportData`]: same data, same bytes. Made by `report` and at the end of `quickstart` and
//! of each training stage, beside `model-card.md`. Text from models and files is escaped on its way in (`html`); a content security policy in
//! the page forbids the rest.

mod card;
mod chart;
mod command;
mod data;
pub mod flags;
mod folder;
pub(crate) mod format;
pub(crate) mod gather;
mod html;
mod overlay;
mod page;
mod sections;
#[cfg(test)]
mod tests;

pub use chart::Scale;
pub(crate) use command::{MODEL_CARD, REPORT, after_stage, run};
pub use data::{
    Answer, CleaningSummary, Compression, Evaluation, Exam, Fact, Judgement, Point, ReportData, Sample, SourceSummary,
    StageReport, TrainingPoint, ValidationSeries,
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
