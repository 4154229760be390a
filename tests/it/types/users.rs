//! Types made by users, and those of extensions.

use pgconvoy::lab::Major;

use super::case::Case;

pub fn cases() -> Vec<Case> {
    let mut cases = users();
    cases.extend(contrib());
    cases
}

fn users() -> Vec<Case> {
    let case = |name, column, values: &[&str]| Case::new("Users' types", name, column, values);
    vec![
        // Unused types in front make the OIDs of two databases differ by more than a constant.
        case("enum", "types.mood", &["'sad'", "'it''s \"so so\"'", "'glücklich'", "'between'"]).setup(
            "CREATE TYPE types.mood AS ENUM ('sad', 'it''s \"so so\"', 'glücklich');
             ALTER TYPE types.mood ADD VALUE 'between' BEFORE 'glücklich'",
        ),
        case("domain with checks", "types.positive", &["1", "'NaN'", "1e50"])
            .setup("CREATE DOMAIN types.positive AS numeric CHECK (VALUE > 0)").domain(),
        case("domain over domain", "types.small", &["1", "9.5"])
            .setup("CREATE DOMAIN types.small AS types.positive CHECK (VALUE < 10)").domain(),
        case("domain over array", "types.moods", &["'{}'", "'{sad,NULL}'", "'[-1:0]={sad,between}'"])
            .setup("CREATE DOMAIN types.moods AS types.mood[]").plain_only(),
        case("domain over enum", "types.good_mood", &["'glücklich'"])
            .setup("CREATE DOMAIN types.good_mood AS types.mood CHECK (VALUE <> 'sad')").domain(),
        case("composite", "types.pair", &["ROW(1, 'x')", "ROW(NULL, '')", "ROW(NULL, NULL)", "ROW(2, '\"(,)\\')"])
            .setup("CREATE TYPE types.pair AS (a int, b text)").composite(),
        case(
            "composite, nested",
            "types.nested",
            &[
                "ROW(ROW(1, 'x'), ARRAY[ROW(2, 'y'), NULL]::types.pair[], 'sad', '{sad,between}', 5, '{sad}')",
                "ROW(NULL, '{}', NULL, NULL, NULL, '{}')",
                "ROW(ROW(NULL, NULL), '[3:3]={\"(,)\"}', 'between', '[0:0]={NULL}', 0.5, NULL)",
            ],
        )
        .setup(
            "CREATE TYPE types.nested AS (p types.pair, ps types.pair[], m types.mood, ms types.mood[], s types.small, d types.moods)",
        ).composite(),
        case("composite, nested twice", "types.deep", &["ROW(1, ARRAY[ROW(ROW(1, 'x'), '{}', 'sad', '{sad}', 5, '[0:0]={between}')]::types.nested[])"])
            .setup("CREATE TYPE types.deep AS (i int, n types.nested[])").composite(),
        case("composite with a dropped attribute", "types.worn", &["ROW(1, 'sad')", "ROW(NULL, NULL)"]).setup(
            "CREATE TYPE types.worn AS (a int, gone types.pair, m types.mood); ALTER TYPE types.worn DROP ATTRIBUTE gone",
        ).composite(),
        case("domain over composite", "types.pair_domain", &["ROW(1, 'x')::types.pair", "ROW(NULL, NULL)::types.pair"])
            .setup("CREATE DOMAIN types.pair_domain AS types.pair")
            .since(Major::V11).domain(),
        case("row of a table", "types.a_table", &["ROW(1, '{sad}')", "ROW(NULL, NULL)"]).setup(
            "CREATE TABLE types.a_table (gone text, i int, ms types.mood[]);
             ALTER TABLE types.a_table DROP COLUMN gone",
        ).composite(),
        case("range of an enum", "types.mood_range", &["'empty'", "'[sad,between)'", "'(,glücklich]'"])
            .setup("CREATE TYPE types.mood_range AS RANGE (SUBTYPE = types.mood)"),
        case("range of a composite", "types.nested_range", &["'empty'", "types.nested_range(ROW(NULL, '{}', 'sad', '{sad}', 1, '{sad}'), NULL)"])
            .setup("CREATE TYPE types.nested_range AS RANGE (SUBTYPE = types.nested)"),
        case("range of text", "types.text_range", &["'empty'", "'[a,\"b c\")'", "'[\"\",)'"])
            .setup("CREATE TYPE types.text_range AS RANGE (SUBTYPE = text, COLLATION = \"C\")"),
        case("range of float8", "types.float_range", &["'empty'", "'[0.1,Infinity]'", "'(-0,4.9406564584124654e-324)'"])
            .setup("CREATE TYPE types.float_range AS RANGE (SUBTYPE = float8)")
            .shown(
                "ROW(isempty({}), lower_inc({}), upper_inc({}), float8send(lower({})), float8send(upper({})))::text",
            ),
        case("multirange of an enum", "types.mood_multirange", &["'{}'", "'{[sad,sad],(between,)}'"]).since(Major::V14),
        case("base type", "types.own_int", &["'1'", "'-2147483648'"]).setup(
            "CREATE TYPE types.own_int;
             CREATE FUNCTION types.own_int_in(cstring) RETURNS types.own_int LANGUAGE internal IMMUTABLE STRICT AS 'int4in';
             CREATE FUNCTION types.own_int_out(types.own_int) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'int4out';
             CREATE TYPE types.own_int (INPUT = types.own_int_in, OUTPUT = types.own_int_out, LIKE = int4)",
        ),
    ]
}

/// The corners of a cube, bit by bit.
const CUBE: &str = "ROW(cube_dim({}), (SELECT string_agg(float8send(cube_ll_coord({}, i))::text ||
        float8send(cube_ur_coord({}, i))::text, ',' ORDER BY i) FROM generate_series(1, cube_dim({})) i))::text";

/// Every extension of the contrib directory that has a type for users' columns.
fn contrib() -> Vec<Case> {
    let case = |name, column, values: &[&str]| Case::new("Extensions", name, column, values);
    vec![
        case("citext", "citext", &["''", "'MiXed'", "'GRÜN'"]).setup("CREATE EXTENSION citext SCHEMA public"),
        case("hstore", "hstore", &["''", "'a=>NULL, \"b c\"=>\"\\\"x\\\\\", ü=>ñ, \"\"=>\"\"'"])
            .setup("CREATE EXTENSION hstore SCHEMA public"),
        case("ltree", "ltree", &["''", "'Top.Science.Astronomy'"]).setup("CREATE EXTENSION ltree SCHEMA public"),
        case("lquery", "lquery", &["'Top.*{1,3}.Astro*@|x'", "'!a'"]),
        case("ltxtquery", "ltxtquery", &["'Europe & Russia*@ & !Transportation'"]),
        case("cube", "cube", &["'(0)'", "'(0.1,2),(-3,4e300)'", "'(1,2,3)'", "'(-0)'"])
            .setup("CREATE EXTENSION cube SCHEMA public")
            .shown(CUBE),
        case("earth (earthdistance)", "earth", &["ll_to_earth(52.5, 13.4)"])
            .setup("CREATE EXTENSION earthdistance SCHEMA public")
            .shown(CUBE)
            .domain(),
        case("seg", "seg", &["'1.50'", "'~6.5'", "'<1 .. >2.00'", "'.. 5'", "'1e-3 .. 1e30'"])
            .setup("CREATE EXTENSION seg SCHEMA public"),
        case("ean13 (isn)", "ean13", &["'0220356483481'", "'978-0-393-04002-9'"])
            .setup("CREATE EXTENSION isn SCHEMA public"),
        case("isbn13 (isn)", "isbn13", &["'978-0-393-04002-9'"]),
        case("ismn13 (isn)", "ismn13", &["'979-0-2306-7118-7'"]),
        case("issn13 (isn)", "issn13", &["'977-0317-847-00-1'"]),
        case("isbn (isn)", "isbn", &["'0-393-04002-X'"]),
        case("ismn (isn)", "ismn", &["'M-2306-7118-7'"]),
        case("issn (isn)", "issn", &["'0317-8471'"]),
        case("upc (isn)", "upc", &["'220356483481'"]),
        case("query_int (intarray)", "query_int", &["'1&(2|!3)'", "'20'"])
            .setup("CREATE EXTENSION intarray SCHEMA public"),
        case("lo", "lo", &["0", "4294967295::oid"]).setup("CREATE EXTENSION lo SCHEMA public").domain(),
        case("row of tablefunc", "tablefunc_crosstab_2", &["ROW('a', 'b', NULL)"])
            .setup("CREATE EXTENSION tablefunc SCHEMA public")
            .composite(),
    ]
}

/// The types of pgvector.
pub fn vectors() -> Vec<Case> {
    let case = |name, column, values: &[&str]| Case::new("Extensions", name, column, values);
    vec![
        case("vector", "vector(3)", &["'[1,-0,0.1]'", "'[3.4028235e38,1.4e-45,1e-38]'"])
            .setup("CREATE EXTENSION vector SCHEMA public")
            .shown("vector_send({})"),
        case("halfvec", "halfvec", &["'[1,-0]'", "'[65504,6e-8]'"]).shown("halfvec_send({})"),
        case("sparsevec", "sparsevec(5)", &["'{1:0.1,5:-3}/5'", "'{}/5'"]).shown("sparsevec_send({})"),
    ]
}
