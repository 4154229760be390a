//! Materialized views: refreshed in the order in which they read each other, their indexes afterwards.

use std::collections::{HashMap, HashSet};

use crate::event::JobKind;
use crate::plan::locks::LockMode;
use crate::schema::{DumpId, Toc, TocEntry};

use super::Pass;
use super::builder::{Builder, NewJob};

impl Builder<'_> {
    /// A refresh for each matview that holds rows at the source. The schema's dump does not have them as entries.
    pub(super) fn refreshes(&mut self) {
        if !self.input.refresh_matviews {
            return;
        }
        let toc = self.input.toc;
        let matviews: Vec<&TocEntry> = toc.entries.iter().filter(|e| e.desc == "MATERIALIZED VIEW").collect();
        let rules = view_rules(toc);
        let reads: HashMap<DumpId, HashSet<DumpId>> =
            matviews.iter().map(|m| (m.dump_id, matviews_read_by(toc, &rules, m))).collect();
        for entry in &matviews {
            let unpopulated = reads[&entry.dump_id].iter().filter_map(|d| toc.get(*d)).find(|e| !self.is_populated(e));
            match unpopulated {
                _ if !self.is_populated(entry) => {}
                Some(other) => self.graph.warnings.push(format!(
                    "materialized view {} is not refreshed: it reads {}, which holds no rows at the source",
                    entry.name(),
                    other.name()
                )),
                None => self.refresh(entry),
            }
        }
        self.order_refreshes(&reads);
    }

    fn refresh(&mut self, entry: &TocEntry) {
        let Some(fact) = self.matviews.get(&entry.catalog.1).copied() else {
            return;
        };
        let job = NewJob {
            kind: JobKind::RefreshMatview,
            object: fact.name.to_string(),
            statements: vec![format!("REFRESH MATERIALIZED VIEW {}", fact.name.to_sql())],
            after_rows_of: Vec::new(),
            locks: vec![(fact.oid, LockMode::AccessExclusive)],
            cost_bytes: fact.size_bytes,
            optional: false,
        };
        let id = self.add(job, entry, false);
        self.graph.jobs[id as usize].pass = Pass::Refresh;
        self.wants[id as usize].entries.push(entry.dump_id);
        self.refresh_job.insert(entry.dump_id, id);
    }

    /// Refreshes after those they read; indexes of a matview after its refresh.
    fn order_refreshes(&mut self, reads: &HashMap<DumpId, HashSet<DumpId>>) {
        for (entry, &job) in &self.refresh_job {
            let before = reads[entry].iter().filter_map(|d| self.refresh_job.get(d));
            self.graph.jobs[job as usize].depends_on.extend(before);
        }
        for entry in &self.input.toc.entries {
            if let ("INDEX", Some(&job)) = (entry.desc.as_str(), self.entry_job.get(&entry.dump_id)) {
                let refreshes = entry.dependencies.iter().filter_map(|d| self.refresh_job.get(d));
                self.graph.jobs[job as usize].depends_on.extend(refreshes);
            }
        }
    }

    fn is_populated(&self, entry: &TocEntry) -> bool {
        self.matviews.get(&entry.catalog.1).is_some_and(|m| m.populated)
    }
}

/// The rules that hold the queries of views. A view that pg_dump had to break out of a circle has its query in a rule
/// of its own, which depends on the view and not it on the rule.
fn view_rules(toc: &Toc) -> HashMap<DumpId, Vec<DumpId>> {
    let mut rules: HashMap<DumpId, Vec<DumpId>> = HashMap::new();
    for rule in toc.entries.iter().filter(|e| e.desc == "RULE") {
        let views = rule.dependencies.iter().filter_map(|d| toc.get(*d)).filter(|view| is_rule_of(rule, view));
        for view in views {
            rules.entry(view.dump_id).or_default().push(rule.dump_id);
        }
    }
    rules
}

/// A rule's tag is `view rule`.
fn is_rule_of(rule: &TocEntry, view: &TocEntry) -> bool {
    view.desc == "VIEW"
        && view.namespace == rule.namespace
        && rule.tag.strip_suffix(" _RETURN") == Some(view.tag.as_str())
}

/// The matviews that one reads, directly or through views, functions and other matviews.
fn matviews_read_by(toc: &Toc, rules: &HashMap<DumpId, Vec<DumpId>>, matview: &TocEntry) -> HashSet<DumpId> {
    let (mut seen, mut found) = (HashSet::from([matview.dump_id]), HashSet::new());
    let mut open = vec![matview.dump_id];
    while let Some(id) = open.pop() {
        let direct = toc.get(id).map(|e| e.dependencies.as_slice()).unwrap_or_default();
        for &next in direct.iter().chain(rules.get(&id).into_iter().flatten()) {
            if seen.insert(next) {
                open.push(next);
                found.extend(toc.get(next).filter(|e| e.desc == "MATERIALIZED VIEW").map(|e| e.dump_id));
            }
        }
    }
    found
}
