//! One type to be moved, with the values at its edges.

use std::fmt::Write;

use pgconvoy::lab::Major;

/// A type, what must be there before it, and values.
///
/// Each becomes two tables in schema `types`: `p_…` with a plain column, and `n_…` with an array, a domain, a composite
/// and an array of that composite of it.
pub struct Case {
    /// In the documentation, and in the tables' names.
    pub name: &'static str,
    /// The heading it stands under in the documentation.
    pub group: &'static str,
    /// The column's type in SQL.
    pub column: &'static str,
    pub since: Major,
    pub setup: &'static str,
    /// SQL expressions, with the first version that knows them.
    pub values: Vec<(Major, String)>,
    /// Makes a value comparable between versions; `{}` is the value. The type's own text where it is the same in all.
    pub shown: &'static str,
    /// The first version in which the second table can be made, if any.
    pub nested_since: Option<Major>,
    /// The first version in which a domain can be made of it.
    pub domain_since: Major,
}

impl Case {
    pub fn new(group: &'static str, name: &'static str, column: &'static str, values: &[&str]) -> Self {
        let case = Self {
            name,
            group,
            column,
            since: Major::V9_6,
            setup: "",
            values: Vec::new(),
            shown: "{}::text",
            nested_since: Some(Major::V9_6),
            domain_since: Major::V9_6,
        };
        case.and(Major::V9_6, values)
    }

    /// Further values that only newer versions know.
    pub fn and(mut self, since: Major, values: &[&str]) -> Self {
        self.values.extend(values.iter().map(|value| (since, (*value).to_owned())));
        self
    }

    pub fn since(mut self, major: Major) -> Self {
        self.since = major;
        self
    }

    pub fn setup(mut self, sql: &'static str) -> Self {
        self.setup = sql;
        self
    }

    pub fn shown(mut self, expression: &'static str) -> Self {
        self.shown = expression;
        self
    }

    pub fn plain_only(mut self) -> Self {
        self.nested_since = None;
        self
    }

    /// The type is a domain: arrays of domains came with 11.
    pub fn domain(mut self) -> Self {
        self.nested_since = Some(Major::V11);
        self
    }

    /// Domains over composites came with 11.
    pub fn composite(mut self) -> Self {
        self.domain_since = Major::V11;
        self
    }

    fn is_nested(&self, major: Major) -> bool {
        self.nested_since.is_some_and(|since| since <= major)
    }

    /// The name as part of an identifier.
    pub fn slug(&self) -> String {
        let plain: String = self.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        plain.to_lowercase()
    }

    fn show(&self, value: &str) -> String {
        self.shown.replace("{}", value)
    }

    /// Bounds and elements of an array, each made comparable.
    fn show_array(&self, array: &str, element: &str) -> String {
        let shown = self.show(element);
        format!("array_dims({array}), ARRAY(SELECT {shown} FROM unnest({array}) x)::text")
    }

    /// Makes its types and tables, and fills them.
    pub fn create(&self, major: Major) -> String {
        let (slug, column) = (self.slug(), self.column);
        let values: Vec<_> = self.values.iter().filter(|(since, _)| *since <= major).collect();
        let mut sql = format!("{};\nCREATE TABLE types.p_{slug} (id int PRIMARY KEY, v {column});\n", self.setup);
        let rows: Vec<_> = values.iter().enumerate().map(|(at, (_, v))| format!("({at}, ({v})::{column})")).collect();
        writeln!(sql, "INSERT INTO types.p_{slug} VALUES {}, ({}, NULL);", rows.join(",\n "), values.len()).unwrap();
        if !self.is_nested(major) {
            return sql;
        }
        // Arrays of domains came with 11.
        let domains = if major >= Major::V11 { format!("types.d_{slug}[]") } else { format!("{column}[]") };
        let domain = if major >= self.domain_since {
            writeln!(sql, "CREATE DOMAIN types.d_{slug} AS {column};").unwrap();
            format!("types.d_{slug}")
        } else {
            column.to_owned()
        };
        writeln!(
            sql,
            "CREATE TYPE types.c_{slug} AS (a int, v {column}, vs {column}[], d {domain}, ds {domains});
             CREATE TABLE types.n_{slug} (id int PRIMARY KEY, vs {column}[], d {domain},
                c types.c_{slug}, cs types.c_{slug}[]);
             INSERT INTO types.n_{slug} SELECT id, array_fill(v, ARRAY[2, 1], ARRAY[-3, 5]), v,
                ROW(id, v, ARRAY[v, NULL], v, ARRAY[NULL, v]::{domains})::types.c_{slug}, ARRAY[ROW(id, v, NULL, NULL, NULL), NULL,
                ROW(NULL, NULL, '{{}}', v, ARRAY[v]::{domains})]::types.c_{slug}[] FROM types.p_{slug};
             INSERT INTO types.n_{slug} SELECT 100, array_agg(v ORDER BY id), NULL, NULL, '{{}}' FROM types.p_{slug};
             INSERT INTO types.n_{slug} VALUES (101, '{{}}', NULL, ROW(NULL, NULL, NULL, NULL, NULL), NULL);",
        )
        .unwrap();
        sql
    }

    /// Queries whose answers are the same if and only if all values are.
    pub fn compare(&self, major: Major) -> Vec<String> {
        let slug = self.slug();
        let mut queries = vec![format!("SELECT id, {} FROM types.p_{slug} ORDER BY id", self.show("v"))];
        if self.is_nested(major) {
            let (array, attribute) = (self.show_array("vs", "x"), self.show_array("(c).vs", "x"));
            queries.push(format!(
                "SELECT id, {array}, {domain}, c IS NULL, (c).a, {value}, {attribute}, {inner}, {inners},
                    array_dims(cs), ARRAY(SELECT ROW(x.a, {each}, x.vs IS NULL, {each_domain})::text FROM unnest(cs) x)
                 FROM types.n_{slug} ORDER BY id",
                domain = self.show(&format!("d::{}", self.column)),
                value = self.show("(c).v"),
                inner = self.show(&format!("(c).d::{}", self.column)),
                inners = self.show_array("(c).ds", &format!("x::{}", self.column)),
                each = self.show("x.v"),
                each_domain = self.show(&format!("x.d::{}", self.column)),
            ));
        }
        queries
    }
}
