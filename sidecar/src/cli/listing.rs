//! Listings that come by pages, and what they leave out.

use kar_proto::v1::{LeftOut, SilentNode};
use serde_json::{Value, json};
use tonic::Status;

use super::args::{Format, ListArgs};
use super::exit::Outcome;
use super::get::read;
use super::output::{self, Table};

/// Entries asked for at a time.
const PAGE_SIZE: usize = 1_000;
/// Partitions whose names are shown of those that a listing leaves out.
const PARTITIONS_SHOWN: usize = 10;

/// A page of a listing.
pub(super) struct Page<T> {
    /// What is on it.
    pub(super) rows: Vec<T>,
    /// What it could not tell of.
    pub(super) left_out: Option<LeftOut>,
    /// Token of the next one; empty: there is none.
    pub(super) next_page_token: String,
}

/// Asks for page after page, up to the limit, and prints them: each entry as cells of the table or as JSON.
pub(super) async fn listed<T>(
    args: &ListArgs,
    mut table: Table,
    show: impl Fn(T) -> (Vec<String>, Value),
    mut ask: impl AsyncFnMut(i32, String) -> Result<Page<T>, Status>,
) -> Outcome {
    let (mut rows, mut omitted) = (Vec::new(), Omitted::default());
    let (mut left, mut page_token) = (args.limit, String::new());
    loop {
        let page = ask(page_size(left), page_token).await.map_err(read)?;
        for row in page.rows {
            let (cells, json) = show(row);
            table.row(cells);
            rows.push(json);
        }
        omitted.note(page.left_out);
        let next = omitted.left(args.limit, rows.len(), &page.next_page_token);
        let Some(more) = next else { break };
        (left, page_token) = (more, page.next_page_token);
    }
    omitted.print(args.output, &table, rows)
}

/// What a listing does not show.
#[derive(Default)]
pub(super) struct Omitted {
    left_out: Option<LeftOut>,
    /// There are more than this, which is what was asked for.
    limit: Option<usize>,
}

// === impl Omitted ===

impl Omitted {
    /// What is beyond a limit.
    pub(super) fn beyond(limit: usize, found: usize) -> Self {
        Self { left_out: None, limit: (found > limit).then_some(limit) }
    }

    /// What a page could not tell.
    fn note(&mut self, left_out: Option<LeftOut>) {
        self.left_out = left_out.or(self.left_out.take());
    }

    /// How many more are wanted, if there are any. That there are more than are wanted is told.
    fn left(&mut self, limit: usize, listed: usize, next_page_token: &str) -> Option<usize> {
        if next_page_token.is_empty() {
            return None;
        }
        if listed >= limit {
            self.limit = Some(limit);
            return None;
        }
        Some(limit - listed)
    }

    /// Prints a listing and what it leaves out: below a table, or as the last element of a JSON array, which has no
    /// other field than `left_out`.
    pub(super) fn print(&self, format: Format, table: &Table, mut rows: Vec<Value>) -> Outcome {
        match format {
            Format::Json => rows.extend(self.to_json()),
            Format::Table => {}
        }
        output::print(format, table, &Value::Array(rows))?;
        if format == Format::Table {
            self.lines().iter().for_each(|line| eprintln!("{line}"));
        }
        Ok(())
    }

    fn to_json(&self) -> Option<Value> {
        if self.left_out.is_none() && self.limit.is_none() {
            return None;
        }
        let left_out = self.left_out.clone().unwrap_or_default();
        let node = |node: &SilentNode| json!({ "name": node.name, "cause": node.cause });
        let nodes: Vec<Value> = left_out.nodes.iter().map(node).collect();
        Some(json!({ "left_out": {
            "nodes": nodes, "partitions": left_out.partitions, "rows": left_out.rows,
            "beyond_limit": self.limit,
        } }))
    }

    fn lines(&self) -> Vec<String> {
        let left_out = self.left_out.clone().unwrap_or_default();
        let mut lines = Vec::new();
        for node in &left_out.nodes {
            lines.push(format!("left out: node {} did not answer ({})", node.name, node.cause));
        }
        if !left_out.partitions.is_empty() {
            let shown = left_out.partitions.iter().take(PARTITIONS_SHOWN);
            let names = shown.map(String::as_str).collect::<Vec<_>>().join(", ");
            let count = left_out.partitions.len();
            let more = if count > PARTITIONS_SHOWN { ", …" } else { "" };
            lines.push(format!("left out: {count} partitions that nobody tells of: {names}{more}"));
        }
        if left_out.rows > 0 {
            lines.push(format!(
                "left out: {} rows of partitions that have too many; list a single kind",
                left_out.rows
            ));
        }
        if let Some(limit) = self.limit {
            lines.push(format!("left out: there are more than {limit} (--limit)"));
        }
        lines
    }
}

fn page_size(limit: usize) -> i32 {
    i32::try_from(limit.clamp(1, PAGE_SIZE)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_told_in_both_forms() {
        assert!(Omitted::default().to_json().is_none() && Omitted::default().lines().is_empty());
        let silent = SilentNode { name: "n1".into(), cause: "no answer in time".into() };
        let partitions: Vec<_> = (0..12).map(|n| format!("a.K/{n}")).collect();
        let mut omitted = Omitted::default();
        omitted.note(Some(LeftOut { nodes: vec![silent], partitions, rows: 7 }));
        omitted.note(None);
        assert_eq!(omitted.left(5, 5, "more"), None);
        let lines = omitted.lines();
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines[0].contains("n1") && lines[1].contains("12 partitions"), "{lines:?}");
        assert!(lines[1].ends_with("a.K/9, …") && lines[2].contains("7 rows"), "{lines:?}");
        let json = omitted.to_json().expect("something is left out");
        assert_eq!(json["left_out"]["nodes"][0]["name"], "n1");
        assert_eq!(json["left_out"]["rows"], 7);
        assert_eq!(json["left_out"]["beyond_limit"], 5);
    }
}
