//! What an index is made of, as far as its definition says, and what it costs to make.

/// The parts of `CREATE INDEX` that its cost depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexShape<'a> {
    pub access_method: &'a str,
    /// Key columns, expressions among them; what INCLUDE adds is not compared.
    pub columns: u32,
    pub expressions: u32,
}

impl<'a> IndexShape<'a> {
    /// Reads what pg_dump or `pg_get_indexdef` wrote (`pg_get_indexdef_worker` in `ruleutils.c`: the access method is
    /// always there). `None`: it is no such statement.
    #[must_use]
    pub fn of(create: &'a str) -> Option<Self> {
        let after = create.strip_prefix("CREATE UNIQUE INDEX ").or_else(|| create.strip_prefix("CREATE INDEX "))?;
        let using = " USING ";
        let at = outside_quotes(after).find(|(at, _)| after[*at..].starts_with(using))?.0;
        let (access_method, keys) = after[at + using.len()..].split_once(" (")?;
        let (mut columns, mut expressions, mut depth, mut is_expression) = (1, 0, 1, false);
        for (_, c) in outside_quotes(keys) {
            match c {
                '(' => {
                    is_expression |= depth == 1;
                    depth += 1;
                }
                ')' => depth -= 1,
                ',' if depth == 1 => {
                    columns += 1;
                    expressions += u32::from(std::mem::take(&mut is_expression));
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
        Some(Self { access_method, columns, expressions: expressions + u32::from(is_expression) })
    }

    /// All rows are sorted first, and the index written in their order (`nbtsort.c`, `hashsort.c`). The other access
    /// methods insert row by row, or collect in memory as much as they may.
    #[must_use]
    pub fn is_sorted(&self) -> bool {
        matches!(self.access_method, "btree" | "hash")
    }

    /// How much more work it is to make than an index of one plain column: rows that are equal in one column are
    /// compared by the next, and expressions are computed.
    #[must_use]
    pub fn weight(&self) -> u64 {
        u64::from(self.columns) + u64::from(self.expressions)
    }
}

/// The characters that are not within `'…'` or `"…"`, with their places. A doubled quote closes and opens.
fn outside_quotes(text: &str) -> impl Iterator<Item = (usize, char)> {
    let mut quote = None;
    text.char_indices().filter(move |&(_, c)| match quote {
        Some(open) => {
            if c == open {
                quote = None;
            }
            false
        }
        None if matches!(c, '\'' | '"') => {
            quote = Some(c);
            false
        }
        None => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_is_read_past_odd_names() {
        let shape = |access_method, columns, expressions| Some(IndexShape { access_method, columns, expressions });
        for (create, expected) in [
            ("CREATE INDEX i ON s.t USING btree (a)", shape("btree", 1, 0)),
            ("CREATE UNIQUE INDEX i ON ONLY s.t USING btree (a, b DESC) INCLUDE (c, d)", shape("btree", 2, 0)),
            (r#"CREATE INDEX "a "" USING x (" ON "S USING"."t, (" USING hash ("b, c")"#, shape("hash", 1, 0)),
            ("CREATE INDEX i ON t USING gin (((d -> 'a, )'::text)), lower(b)) WHERE (x > 0)", shape("gin", 2, 2)),
            ("CREATE INDEX i ON t USING gist (r gist_ops (siglen='100'), b)", shape("gist", 2, 1)),
            ("ALTER TABLE t ADD PRIMARY KEY (a)", None),
            ("CREATE INDEX i ON t", None),
        ] {
            assert_eq!(IndexShape::of(create), expected, "{create}");
        }
    }
}
