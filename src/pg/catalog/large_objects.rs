use serde::{Deserialize, Serialize};

use super::Catalog;
use crate::model::{Oid, ServerVersion, quote_ident, quote_literal};
use crate::pg::error::{Error, Result};

/// Bytes of a large object that one row of the stream carries at most when it is read through `lo_get`.
const SLICE_BYTES: u64 = 256 * 1024;

/// How the bytes of large objects can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LargeObjectAccess {
    /// `pg_largeobject` itself: superusers, or those it was granted to. Keeps holes as holes.
    Pages,
    /// `lo_get` slice by slice (9.4 and later).
    Slices,
}

/// One large object without its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LargeObjectFacts {
    pub oid: Oid,
    pub owner: String,
    /// Statements that grant what was granted.
    pub grants: Vec<String>,
    pub comment: Option<String>,
}

impl Catalog<'_> {
    /// Every large object, by OID.
    pub async fn large_objects(&self) -> Result<Vec<LargeObjectFacts>> {
        let sql = "SELECT l.oid, r.rolname::text, l.lomacl::text[],
                          pg_catalog.obj_description(l.oid, 'pg_largeobject')
                   FROM pg_catalog.pg_largeobject_metadata l JOIN pg_catalog.pg_roles r ON r.oid = l.lomowner
                   ORDER BY l.oid";
        let mut objects = Vec::new();
        for row in &self.rows(sql).await? {
            let oid: Oid = self.get(row, 0)?;
            let acl: Option<Vec<String>> = self.get(row, 2)?;
            objects.push(LargeObjectFacts {
                oid,
                owner: self.get(row, 1)?,
                grants: acl.iter().flatten().filter_map(|item| grant_statement(oid, item)).collect(),
                comment: self.get(row, 3)?,
            });
        }
        Ok(objects)
    }

    pub async fn large_object_access(&self) -> Result<LargeObjectAccess> {
        let pages: bool =
            self.scalar("SELECT pg_catalog.has_table_privilege('pg_catalog.pg_largeobject', 'SELECT')").await?;
        match pages {
            true => Ok(LargeObjectAccess::Pages),
            false if self.version >= ServerVersion::V9_4 => Ok(LargeObjectAccess::Slices),
            false => Err(Error::unsupported(
                self.side,
                "this role cannot read large objects",
                Some("before 9.4, large objects can only be read by a superuser, or with SELECT on pg_largeobject"),
            )),
        }
    }
}

impl LargeObjectAccess {
    /// A query for (oid, byte offset, bytes) of the large objects from `first` to `last`, both included. An empty large
    /// object has no row.
    #[must_use]
    pub fn select(self, first: Oid, last: Oid) -> String {
        match self {
            Self::Pages => format!(
                "SELECT loid AS oid, pageno::int8 * (pg_catalog.current_setting('block_size')::int8 / 4) AS at, data
                 FROM pg_catalog.pg_largeobject WHERE loid BETWEEN {first} AND {last}"
            ),
            Self::Slices => format!(
                "SELECT l.oid, s.at, pg_catalog.lo_get(l.oid, s.at, {SLICE_BYTES}) AS data
                 FROM (SELECT m.oid, pg_catalog.lo_lseek64(pg_catalog.lo_open(m.oid, 262144), 0, 2) AS size_bytes
                       FROM pg_catalog.pg_largeobject_metadata m WHERE m.oid BETWEEN {first} AND {last}) l,
                      pg_catalog.generate_series(0, l.size_bytes - 1, {SLICE_BYTES}) s(at)"
            ),
        }
    }
}

impl LargeObjectFacts {
    /// Statements for its owner, grants and comment.
    #[must_use]
    pub fn attribute_statements(&self, with_owner: bool, with_privileges: bool) -> Vec<String> {
        let mut statements = Vec::new();
        if with_owner {
            statements.push(format!("ALTER LARGE OBJECT {} OWNER TO {}", self.oid, quote_ident(&self.owner)));
        }
        if with_privileges {
            statements.extend(self.grants.iter().cloned());
        }
        if let Some(comment) = &self.comment {
            statements.push(format!("COMMENT ON LARGE OBJECT {} IS {}", self.oid, quote_literal(comment)));
        }
        statements
    }
}

/// One `aclitem` (`grantee=privileges/grantor`, PostgreSQL documentation "Privileges") as a GRANT.
fn grant_statement(oid: Oid, item: &str) -> Option<String> {
    let (grantee, rest) = split_grantee(item)?;
    let privileges = rest.split('/').next()?;
    let mut plain = Vec::new();
    let mut grantable = Vec::new();
    let mut letters = privileges.chars().peekable();
    while let Some(letter) = letters.next() {
        let word = match letter {
            'r' => "SELECT",
            'w' => "UPDATE",
            _ => continue,
        };
        if letters.next_if_eq(&'*').is_some() { grantable.push(word) } else { plain.push(word) }
    }
    let to = if grantee.is_empty() { "PUBLIC".into() } else { quote_ident(&grantee) };
    let grant = |words: &[&str], option: &str| {
        (!words.is_empty()).then(|| format!("GRANT {} ON LARGE OBJECT {oid} TO {to}{option}", words.join(", ")))
    };
    let statements: Vec<String> =
        [grant(&plain, ""), grant(&grantable, " WITH GRANT OPTION")].into_iter().flatten().collect();
    (!statements.is_empty()).then(|| statements.join("; "))
}

/// The grantee, which is quoted where it holds more than letters, digits and underscores.
fn split_grantee(item: &str) -> Option<(String, &str)> {
    let Some(quoted) = item.strip_prefix('"') else {
        return item.split_once('=').map(|(name, rest)| (name.to_owned(), rest));
    };
    let mut name = String::new();
    let mut chars = quoted.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' if chars.next_if(|(_, next)| *next == '"').is_some() => name.push('"'),
            '"' => return quoted[at + 1..].strip_prefix('=').map(|rest| (name, rest)),
            _ => name.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acl_items_become_grants() {
        assert_eq!(grant_statement(7, "bob=rw/alice").unwrap(), "GRANT SELECT, UPDATE ON LARGE OBJECT 7 TO \"bob\"");
        assert_eq!(grant_statement(7, "=r/alice").unwrap(), "GRANT SELECT ON LARGE OBJECT 7 TO PUBLIC");
        assert_eq!(
            grant_statement(7, "\"a\"\"=b\"=rw*/x").unwrap(),
            "GRANT SELECT ON LARGE OBJECT 7 TO \"a\"\"=b\"; GRANT UPDATE ON LARGE OBJECT 7 TO \"a\"\"=b\" WITH GRANT OPTION"
        );
        assert_eq!(grant_statement(7, "nonsense"), None);
    }
}
