use pgconvoy::model::format_duration_ms;
use pgconvoy::ops::SnapshotCost;
use pgconvoy::report::SnapshotReport;

use super::Page;
use super::transfer::server_line;
use crate::cli::text::{Canvas, clean, counted, grouped};

/// What is held, and the options that read it.
pub fn render(report: &SnapshotReport, canvas: &Canvas) -> String {
    let mut page = Page::new(canvas);
    let lsn = report.lsn.map(|lsn| format!(" at {lsn}")).unwrap_or_default();
    page.line(canvas.paint.bold(&format!("snapshot {}{lsn}", clean(&report.snapshot))));
    page.blank();
    page.item(&server_line(&report.server));
    page.item(&format!("{} locked against DDL", counted(report.tables, "table")));
    page.blank();
    page.item(&format!("pgconvoy copy --source ... --target ... --snapshot {}", clean(&report.snapshot)));
    page.item(&format!("pgconvoy dump --source ... --snapshot {} ARCHIVE", clean(&report.snapshot)));
    page.blank();
    page.line(
        "It is held until you press Ctrl-C; what was stopped goes on with --resume until then. Meanwhile VACUUM keeps \
         what others delete and replace."
            .into(),
    );
    page.finish()
}

/// What a snapshot has cost so far.
pub fn cost(cost: SnapshotCost) -> String {
    let held_for = format_duration_ms(u64::try_from(cost.held_for.as_millis()).unwrap_or(u64::MAX));
    let transactions = grouped(cost.transactions);
    format!(
        "held for {held_for}: VACUUM has to keep what the last {transactions} transactions have deleted and replaced"
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_cost_is_said_in_time_and_transactions() {
        let said = cost(SnapshotCost { held_for: Duration::from_secs(150), transactions: 12_345 });
        assert!(said.starts_with("held for 2m 30s: ") && said.contains("12,345 transactions"), "{said}");
    }
}
