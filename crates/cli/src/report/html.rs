//! From text that anybody may have written to HTML that only this program has.

use std::fmt::Write;

/// Text for the inside of an element or of a quoted attribute. Control characters that HTML forbids become U+FFFD.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            // A carriage return alone is a line break in text, and one before a line feed is none of its own.
            '\r' => {}
            c if c.is_control() => out.push('\u{fffd}'),
            // These turn the direction of what follows, also outside of the text they came in.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A cell of a table.
pub(super) enum Cell {
    /// Text, escaped here.
    Text(String),
    /// A number, aligned to the right; escaped here.
    Number(String),
    /// HTML made by this program.
    Html(String),
}

/// A table that scrolls sideways by itself where the screen is narrow. `caption` is read out, not shown.
pub(super) fn table(caption: &str, head: &[&str], rows: &[Vec<Cell>]) -> String {
    let number = |column: usize| rows.iter().any(|row| matches!(row.get(column), Some(Cell::Number(_))));
    let mut out = String::new();
    let caption = escape(caption);
    let _ = write!(
        out,
        "<div class=\"scroll\" role=\"region\" aria-label=\"{caption}\" tabindex=\"0\"><table><caption>{caption}</caption><thead><tr>"
    );
    for (column, name) in head.iter().enumerate() {
        let class = if number(column) { " class=\"number\"" } else { "" };
        let _ = write!(out, "<th scope=\"col\"{class}>{}</th>", escape(name));
    }
    out.push_str("</tr></thead><tbody>\n");
    for row in rows {
        out.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            let _ = match (cell, column) {
                (Cell::Text(text), 0) => write!(out, "<th scope=\"row\">{}</th>", escape(text)),
                (Cell::Text(text), _) => write!(out, "<td>{}</td>", escape(text)),
                (Cell::Number(text), _) => write!(out, "<td class=\"number\">{}</td>", escape(text)),
                (Cell::Html(html), _) => write!(out, "<td>{html}</td>"),
            };
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_can_leave_its_element_or_attribute() {
        assert_eq!(escape(r#"<a href="x" b='y'>&amp;"#), "&lt;a href=&quot;x&quot; b=&#39;y&#39;&gt;&amp;amp;");
        assert_eq!(escape("a\r\nb\tc\0\u{1b}\u{85}d\u{202e}e"), "a\nb\tc\u{fffd}\u{fffd}\u{fffd}d\u{fffd}e");
        assert_eq!(escape("größer, 日本 🦀"), "größer, 日本 🦀");
    }

    #[test]
    fn cells_are_escaped_unless_they_are_ours() {
        let rows = vec![vec![Cell::Text("<b>".into()), Cell::Number("<1".into()), Cell::Html("<i>x</i>".into())]];
        let html = table("<caption>", &["<h>", "n", "i"], &rows);
        assert!(
            html.contains("<th scope=\"row\">&lt;b&gt;</th>") && html.contains(">&lt;1<") && html.contains("<i>x</i>")
        );
        assert!(html.contains("&lt;h&gt;") && !html.contains("<caption><"));
        assert!(html.contains("<th scope=\"col\" class=\"number\">n</th>"));
    }
}
