//! PostgreSQL's own types.

use pgconvoy::lab::Major;

use super::case::Case;

pub fn cases() -> Vec<Case> {
    [numbers(), text(), times(), network_and_geometry(), documents(), ranges(), system(), names_of_objects()]
        .into_iter()
        .flatten()
        .collect()
}

fn numbers() -> Vec<Case> {
    let case = |name, column, values: &[&str]| Case::new("Numbers", name, column, values);
    vec![
        case("boolean", "bool", &["true", "false"]),
        case("smallint", "int2", &["'-32768'", "32767", "0"]),
        case("integer", "int4", &["'-2147483648'", "2147483647", "0"]),
        case("bigint", "int8", &["'-9223372036854775808'", "9223372036854775807", "0"]),
        case(
            "numeric",
            "numeric",
            &[
                "'NaN'",
                "'-0.000'",
                "0",
                "'1e131071'",
                "'-9.99e131071'",
                "'1e-16383'",
                "'1.10'",
                "'1.1000'",
                "'123456789012345678901234567890.0987654321098765432109876543210'",
                "10000",
                "'0.0001'",
                "1e100",
            ],
        )
        .and(Major::V14, &["'Infinity'", "'-Infinity'"]),
        case("numeric(p,s)", "numeric(1000,999)", &["'NaN'", "'9.1'", "'-0.1'"]),
        case("numeric(p,-s)", "numeric(3,-4)", &["9990000", "'-12345'", "'NaN'"]).since(Major::V15),
        case(
            "real",
            "float4",
            &["'NaN'", "'Infinity'", "'-Infinity'", "'-0'", "'1.4e-45'", "'3.4028235e38'", "'1.17549435e-38'", "'0.1'"],
        )
        .shown("float4send({})"),
        case(
            "double precision",
            "float8",
            &[
                "'NaN'",
                "'Infinity'",
                "'-Infinity'",
                "'-0'",
                "'4.9406564584124654e-324'",
                "'1.7976931348623157e308'",
                "'2.2250738585072014e-308'",
                "'0.1'",
                "1::float8 / 3",
            ],
        )
        .shown("float8send({})"),
        case("money", "money", &["'92233720368547758.07'", "'-92233720368547758.08'", "0", "'1.01'"])
            .shown("cash_send({})"),
    ]
}

fn text() -> Vec<Case> {
    let case = |name, column, values: &[&str]| Case::new("Text and bytes", name, column, values);
    let odd: &[&str] = &[
        "''",
        "'NULL'",
        r"E'\\N'",
        r"E'\\.'",
        r"E'tab\tnewline\nreturn\rquote''\\'",
        "'{a,\"b\"}'",
        "'(x,\"y\")'",
        "'grün 日本 🐘'",
        r"E'\x01\x7f'",
        "repeat('x', 100000)",
    ];
    vec![
        case("text", "text", odd),
        case("varchar", "varchar", odd),
        case("varchar(n)", "varchar(3)", &["''", "'äöü'", "'a  '"]),
        case("char(n)", "char(5)", &["''", "'ab'", "'äöüßx'", "' a'"]).shown("bpcharsend({})"),
        case("bpchar", "bpchar", &["''", "'ab   '"]).shown("bpcharsend({})"),
        case("\"char\"", "\"char\"", &["'a'", "''", "'\\'", "127::\"char\""]).shown("{}::int4"),
        case("\"char\" above 127", "\"char\"", &["'-128'::int4::\"char\"", "'-1'::int4::\"char\""])
            .shown("{}::int4")
            .plain_only(),
        case("name", "name", &["''", "repeat('n', 63)", "'a\"b'", "repeat('ü', 31)"]),
        case(
            "bytea",
            "bytea",
            &[
                "''",
                "(SELECT string_agg(set_byte('\\x00', 0, i), '' ORDER BY i) FROM generate_series(0, 255) i)",
                "decode(repeat('00ff', 100000), 'hex')",
            ],
        ),
        case("bit(n)", "bit(3)", &["B'101'", "B'000'"]),
        case("bit varying", "varbit", &["B''", "B'1'", "B'100000001'", "repeat('10', 5000)::varbit"]),
        case("bit varying(n)", "varbit(9)", &["B''", "B'111111111'"]),
    ]
}

fn times() -> Vec<Case> {
    let case = |name, column, values: &[&str]| Case::new("Dates and times", name, column, values);
    let stamps: &[&str] = &[
        "'infinity'",
        "'-infinity'",
        "'4714-11-24 00:00:00 BC'",
        "'294276-12-31 23:59:59.999999'",
        "'0001-12-31 23:59:59 BC'",
        "'1970-01-01'",
        "'1999-12-31 23:59:59.999999'",
        "'2000-01-01'",
    ];
    vec![
        case(
            "date",
            "date",
            &["'infinity'", "'-infinity'", "'4714-11-24 BC'", "'5874897-12-31'", "'0001-12-31 BC'", "'2000-02-29'"],
        ),
        case("time", "time", &["'00:00'", "'24:00:00'", "'23:59:59.999999'"]),
        case("time(n)", "time(2)", &["'12:34:56.78'"]),
        case(
            "time with time zone",
            "timetz",
            &["'00:00+15:59:59'", "'24:00:00-15:59:59'", "'12:34:56.789012+05:30'", "'00:00Z'"],
        ),
        case("timestamp", "timestamp", stamps),
        case("timestamp(n)", "timestamp(0)", &["'2001-02-03 04:05:06'", "'infinity'"]),
        case("timestamp with time zone", "timestamptz", stamps),
        case(
            "interval",
            "interval",
            &[
                "'00:00'",
                "'178956970 years 7 mons'",
                "'-178956970 years -8 mons'",
                "'2147483647 days'",
                "'-2147483648 days'",
                "'2147483647:00:00'",
                "'1 mon -1 day 00:00:00.000001'",
                "'-1 mon 1 day -00:00:00.000001'",
            ],
        )
        .and(Major::V15, &["'2562047788:00:54.775807'", "'-2562047788:00:54.775807'"])
        .and(Major::V17, &["'infinity'", "'-infinity'"]),
        case("interval fields", "interval day to second(3)", &["'3 days 04:05:06.789'", "'-00:00:00.001'"]),
    ]
}

fn network_and_geometry() -> Vec<Case> {
    let net = |name, column, values: &[&str]| Case::new("Networks", name, column, values);
    let geo = |name, values: &[&str]| Case::new("Geometry", name, name, values);
    vec![
        net(
            "inet",
            "inet",
            &[
                "'0.0.0.0/0'",
                "'255.255.255.255'",
                "'192.168.1.5/24'",
                "'::1'",
                "'::/0'",
                "'fe80::1/64'",
                "'::ffff:1.2.3.4'",
            ],
        ),
        net("cidr", "cidr", &["'0.0.0.0/0'", "'10.1/16'", "'::/0'", "'2001:db8::/32'"]),
        net("macaddr", "macaddr", &["'00:00:00:00:00:00'", "'ff:ff:ff:ff:ff:ff'", "'08:00:2b:01:02:03'"]),
        net("macaddr8", "macaddr8", &["'08:00:2b:01:02:03:04:05'", "'ff:ff:ff:ff:ff:ff:ff:ff'"]).since(Major::V10),
        geo("point", &["'(0.1,-0)'", "'(1e300,-1e-300)'", "'(NaN,Infinity)'"]).shown("point_send({})"),
        geo("line", &["'{1,2,3}'", "'{0,-1,0.1}'", "'{-1,0,1e300}'"]).shown("line_send({})"),
        geo("lseg", &["'[(0,0),(0.1,1e-300)]'", "'[(1,1),(1,1)]'"]).shown("lseg_send({})"),
        geo("box", &["'(3,4),(1,2)'", "'(0.1,0.1),(0.1,0.1)'"]).shown("box_send({})"),
        geo("path", &["'[(0,0),(1,1),(0.1,3)]'", "'((0,0),(1,1))'", "'[(1,2)]'"]).shown("path_send({})"),
        geo("polygon", &["'((0,0),(1,1),(0.1,3))'", "'((1,2))'"]).shown("poly_send({})"),
        geo("circle", &["'<(0,0),0>'", "'<(0.1,-1e300),1e-300>'"]).shown("circle_send({})"),
    ]
}

fn documents() -> Vec<Case> {
    let case = |name, column, values: &[&str]| Case::new("Documents and search", name, column, values);
    vec![
        case("uuid", "uuid", &["'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"]),
        case(
            "json",
            "json",
            &[r#"'{"a": 1,   "a":2 , "A":[ ],"n":1.50e+01}'"#, "' null '", r#"E'"line\\nfeed"'"#, "'\"\"'"],
        ),
        case(
            "jsonb",
            "jsonb",
            &[
                r#"'{"a": 1, "a": 2, "": {"b": [1.10, null, true, "é🐘"]}}'"#,
                "'null'",
                "'[]'",
                "'\"\"'",
                "'1e1000'",
                "'-0.0'",
                r#"E'"\\u0041\\n"'"#,
            ],
        ),
        case(
            "jsonpath",
            "jsonpath",
            &["'$.a[*] ? (@ > 1.5).b'", "'strict $'", "'$.\"a b\" like_regex \"^x\" flag \"i\"'"],
        )
        .since(Major::V12),
        case(
            "xml",
            "xml",
            &[
                "''",
                "'<a x=\"1\">grün &amp; <![CDATA[<]]></a>'",
                "'<?xml version=\"1.0\"?><a/>'",
                "'<?xml version=\"1.0\" encoding=\"UTF-8\"?><a>ü</a>'",
                "'<?xml version=\"1.0\" standalone=\"yes\"?><a/>'",
                "'<a/><b/> text <!-- c -->'",
                "'<!DOCTYPE a [<!ENTITY e \"x\">]><a>&e;</a>'",
            ],
        )
        // What `xml_out` and `xml_send` leave out (`xml_out_internal` in xml.c), and pg_dump with them.
        .shown(r#"regexp_replace({}::text, '^<\?xml version="1\.0"( encoding="[^"]*")?\?>', '')"#),
        case(
            "tsvector",
            "tsvector",
            &[
                "''",
                "'a:1A,2B,3C,4 b'",
                "'''it''''s'':16383 ''a b'' ''\\\\\\\\'''",
                "'grün 日本:1'",
                "to_tsvector('english', 'The fat cats')",
            ],
        ),
        case(
            "tsquery",
            "tsquery",
            &[
                "''",
                "plainto_tsquery('english', 'the')",
                "'a & !b | c:*AB'",
                "'a <-> b <5> c'",
                "'!!a & (b | !c)'",
                "'''it''''s'':D'",
            ],
        ),
    ]
}

fn ranges() -> Vec<Case> {
    let case = |name, values: &[&str]| Case::new("Ranges", name, name, values);
    let times: &[&str] =
        &["'empty'", "'(,)'", "'[-infinity,infinity]'", "'[2000-01-01,2001-01-01)'", "'(,2000-01-01]'"];
    vec![
        case("int4range", &["'empty'", "'(,)'", "'[-2147483648,2147483647)'", "'[1,1]'", "'[5,)'"]),
        case("int8range", &["'empty'", "'(,)'", "'[-9223372036854775808,0)'"]),
        case("numrange", &["'empty'", "'(,)'", "'[1.10,1.1]'", "'(1e-100,NaN]'"]).and(Major::V14, &["'[0,Infinity]'"]),
        case("tsrange", times),
        case("tstzrange", times),
        case("daterange", &["'empty'", "'(,)'", "'[4714-11-24 BC,5874897-12-31)'", "'[-infinity,infinity]'"]),
        case("int4multirange", &["'{}'", "'{(,)}'", "'{[1,2),[5,6),[9,)}'"]).since(Major::V14),
        case("int8multirange", &["'{}'", "'{(,)}'", "'{[1,2),[5,6)}'"]).since(Major::V14),
        case("nummultirange", &["'{}'", "'{[1.10,1.1],(2,3)}'"]).since(Major::V14),
        case("tsmultirange", &["'{}'", "'{[2000-01-01,2001-01-01),[2002-01-01,)}'"]).since(Major::V14),
        case("tstzmultirange", &["'{}'", "'{(,2000-01-01),[2002-01-01,infinity]}'"]).since(Major::V14),
        case("datemultirange", &["'{}'", "'{[2000-01-01,2000-01-03)}'"]).since(Major::V14),
    ]
}

fn system() -> Vec<Case> {
    let case = |name, values: &[&str]| Case::new("System types", name, name, values);
    vec![
        case("oid", &["0", "4294967295::oid"]),
        case("xid", &["'0'", "'4294967295'"]),
        case("cid", &["'0'", "'4294967295'"]),
        case("tid", &["'(0,0)'", "'(4294967295,65535)'"]),
        case("xid8", &["'0'", "'18446744073709551615'"]).since(Major::V13),
        case("pg_lsn", &["'0/0'", "'FFFFFFFF/FFFFFFFF'", "'1/A0000028'"]),
        case("txid_snapshot", &["'10:20:10,14,15'", "'1:1:'"]),
        case("pg_snapshot", &["'10:20:10,14,15'", "'1:1:'"]).since(Major::V13),
        case("int2vector", &["''", "'1 -32768 32767'"]).plain_only(),
        case("oidvector", &["''", "'0 4294967295'"]).plain_only(),
        case("refcursor", &["''", "'a \"c\"'"]),
        case("aclitem", &["'=r/postgres'", "'postgres=a*r*w*d*D*x*t*/postgres'"]),
    ]
}

/// Values that are OIDs inside and names outside; each of an object of the user's, too.
fn names_of_objects() -> Vec<Case> {
    let case = |name, values: &[&str]| Case::new("Names of objects", name, name, values);
    let made = "CREATE TABLE types.\"Named T\" (i int); CREATE SEQUENCE types.named_s;
        CREATE FUNCTION types.named_f(a int, b text) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
        CREATE FUNCTION types.named_o(a int, b int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
        CREATE OPERATOR types.<#?> (PROCEDURE = types.named_o, LEFTARG = int, RIGHTARG = int);
        CREATE TYPE types.\"Named E\" AS ENUM ('a');
        CREATE TEXT SEARCH CONFIGURATION types.named_c (COPY = english);
        CREATE TEXT SEARCH DICTIONARY types.named_d (TEMPLATE = simple);
        CREATE COLLATION types.named_l (LOCALE = 'C')";
    vec![
        case("regclass", &["'types.\"Named T\"'", "'types.named_s'", "'pg_class'", "0", "4000000000::oid"]).setup(made),
        case("regproc", &["'types.named_f'", "'pg_catalog.now'", "0"]),
        case("regprocedure", &["'types.named_f(int,text)'", "'pg_catalog.abs(int)'", "0"]),
        case("regoper", &["'types.<#?>'", "'pg_catalog.||/'", "0"]),
        case("regoperator", &["'types.<#?>(int,int)'", "'pg_catalog.+(int,int)'", "0"]),
        case("regtype", &["'types.\"Named E\"'", "'types.\"Named E\"[]'", "'int4'", "'varchar'", "0"]),
        case("regconfig", &["'types.named_c'", "'english'", "0"]),
        case("regdictionary", &["'types.named_d'", "'simple'", "0"]),
        case("regrole", &["'postgres'", "0"]),
        case("regnamespace", &["'types'", "'pg_catalog'", "0"]),
        case("regcollation", &["'types.named_l'", "'pg_catalog.\"C\"'", "0"]).since(Major::V13),
    ]
}
