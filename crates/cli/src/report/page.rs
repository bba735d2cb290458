//! The page around the sections.

use std::fmt::Write;

use super::data::ReportData;
use super::html::escape;
use super::sections;

const STYLE: &str = include_str!("style.css");

pub(super) fn render(report: &ReportData) -> String {
    let curves: String = report.stages.iter().map(sections::stage).collect();
    // Anchor, title, and what is under it.
    let parts = [
        ("numbers", "Bits per byte", sections::compression(&report.compression)),
        ("benchmarks", "Benchmarks", sections::evaluations(&report.evaluations)),
        ("identity", "Does it know who it is?", sections::exams(&report.exams)),
        ("samples", "Samples", sections::samples(&report.samples)),
        ("curves", "Training", curves),
        ("events", "What happened on the way", sections::events(&report.events)),
        ("data", "Data", sections::data(&report.sources, &report.cleaning)),
        ("model", "Model", sections::facts(&report.model)),
        ("hardware", "Hardware", sections::facts(&report.hardware)),
        ("recipe", "Recipe", sections::recipe(&report.recipe, &report.recipe_hash)),
    ];
    document(
        &Head {
            kicker: "Training report",
            title: &format!("{}: training report", report.name),
            name: &report.name,
            lead: &report.description,
            made: &report.made,
        },
        &sections::headline(&report.headline),
        &parts,
    )
}

/// What stands above and below a page's sections, not escaped yet.
pub(super) struct Head<'a> {
    /// What kind of page it is.
    pub(super) kicker: &'a str,
    /// Title of the window.
    pub(super) title: &'a str,
    /// Title of the page.
    pub(super) name: &'a str,
    /// A sentence under it.
    pub(super) lead: &'a str,
    /// When and by which version.
    pub(super) made: &'a str,
}

/// A page of sections: anchor, title, and the HTML under it; those without any are left out.
pub(super) fn document(head: &Head<'_>, headline: &str, parts: &[(&str, &str, String)]) -> String {
    let parts: Vec<_> = parts.iter().filter(|(_, _, html)| !html.is_empty()).collect();

    let (kicker, title, name) = (escape(head.kicker), escape(head.title), escape(head.name));
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<link rel=\"icon\" href=\"data:,\">\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header>\n<p class=\"kicker\">{kicker}</p>\n<h1>{name}</h1>\n<p class=\"lead\">{}</p>\n{}",
        escape(head.lead),
        headline
    );
    if parts.len() > 1 {
        out.push_str("<nav aria-label=\"Sections\"><ul>");
        for (anchor, title, _) in &parts {
            let _ = write!(out, "<li><a href=\"#{anchor}\">{title}</a></li>");
        }
        out.push_str("</ul></nav>\n");
    }
    out.push_str("</header>\n<main>\n");
    for (anchor, title, html) in &parts {
        let _ = write!(
            out,
            "<section id=\"{anchor}\" aria-labelledby=\"{anchor}-title\">\n<h2 id=\"{anchor}-title\">{title}</h2>\n{html}</section>\n"
        );
    }
    let _ = write!(out, "</main>\n<footer><p>{}</p></footer>\n</body>\n</html>\n", escape(head.made));
    out
}
