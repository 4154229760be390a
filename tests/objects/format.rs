//! What archives hold is what `docs/FORMAT.md` says they hold.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::everything::{everything, pgconvoy, remove};
use crate::support::clusters;

/// Members whose own members are called after what they are about: OIDs, columns.
const BY_NAME: [&str; 5] = ["entries", "graph", "columns", "settings", "sizes"];

/// The names of all members, at whatever depth.
fn members(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| members(item, found)),
        Value::Object(object) => {
            for (name, value) in object {
                found.insert(name.clone());
                let by_name = BY_NAME.contains(&name.as_str()) && value.is_object();
                if let (true, Value::Object(inner)) = (by_name, value) {
                    // Of columns, the second level is named after them too.
                    inner.values().filter(|_| name != "columns").for_each(|value| members(value, found));
                } else {
                    members(value, found);
                }
            }
        }
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_member_of_every_record_is_specified() {
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/FORMAT.md")).unwrap();
    let cluster = clusters().await.pop().unwrap();
    let source = everything(&cluster).await;
    cluster.execute("postgres", "GRANT ev_reader TO ev_owner").await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut found = BTreeSet::new();
    for (name, more) in [("all", &["--frozen-source"][..]), ("picked", &["-n", "select"])] {
        let archive = directory.path().join(name);
        let args = ["dump", "--source", &source.uri(), archive.to_str().unwrap()];
        let _ = pgconvoy(&[&args[..], more].concat()).await.expect_success();
        let manifest = std::fs::read_to_string(archive.join("manifest")).unwrap();
        manifest.lines().for_each(|line| members(&serde_json::from_str(&line[9..]).unwrap(), &mut found));
    }
    for name in [
        "lacks",
        "needs_kind",
        "partial_tables",
        "attributes",
        "generated_below_plain",
        "own_types",
        "admin",
        "footing",
    ] {
        assert!(found.contains(name), "no archive of these has {name}");
    }
    let unknown: Vec<_> = found.iter().filter(|name| !document.contains(&format!("`{name}`"))).collect();
    assert!(unknown.is_empty(), "docs/FORMAT.md does not specify {unknown:?}");
    cluster.execute("postgres", "REVOKE ev_reader FROM ev_owner").await.unwrap();
    remove(source).await;
}
