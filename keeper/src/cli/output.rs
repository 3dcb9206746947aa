//! What a command prints: a table for people, one JSON document for programs; progress only on a terminal.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

/// What a command found out.
#[derive(Clone, Debug)]
pub struct Report {
    pub json: Value,
    pub text: String,
    /// False: printed, but the exit code is 1 (a receipt that does not hold).
    pub ok: bool,
}

impl Report {
    /// Facts, one a line; the JSON object carries the same and more.
    pub fn facts(json: Value, facts: &[(&str, String)]) -> Self {
        let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let lines: Vec<String> = facts.iter().map(|(name, value)| format!("{name:<width$}  {value}")).collect();
        Self { json, text: lines.join("\n"), ok: true }
    }
}

/// A table with aligned columns; columns named in `right` are numbers.
pub fn table(head: &[&str], rows: &[Vec<String>], right: &[usize]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|name| name.len())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let cells = cells.iter().zip(&widths).enumerate().map(|(i, (cell, &width))| {
            if right.contains(&i) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(head.to_vec())];
    lines.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
    lines.join("\n")
}

/// `0x1234…cdef`: enough of a hash to recognise it.
pub fn short(text: &str) -> String {
    match (text.get(..8), text.get(text.len().saturating_sub(4)..)) {
        (Some(head), Some(tail)) if text.len() > 14 => format!("{head}…{tail}"),
        _ => text.to_owned(),
    }
}

/// A bar for work of known length; silent when standard error is no terminal.
pub fn bar(length: u64, what: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template("{msg:<40} [{bar:30}] {pos}/{len} {elapsed}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what.to_owned());
    bar
}

/// A spinner for a wait of unknown length; silent when standard error is no terminal.
pub fn spinner(what: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner();
    spinner.set_message(what.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(120));
    spinner
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let text =
            table(&["id", "amount"], &[vec!["a".into(), "1".into()], vec!["bcd".into(), "2000000".into()]], &[1]);
        assert_eq!(text, "id    amount\na          1\nbcd  2000000");
    }
}
