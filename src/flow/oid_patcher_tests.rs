use super::*;
use proptest::prelude::*;

const INT4: Oid = 23;

/// A type of the tests: what is sent for it, and what the target wants to see. Own types have `source` and `target`
/// numbers that differ.
#[derive(Clone, Debug)]
enum Kind {
    Int4,
    Enum(Oid),
    Array(Box<Kind>),
    Record(Vec<Kind>, Oid),
    Range(Box<Kind>),
}

#[derive(Clone, Debug)]
enum Value {
    Null,
    Bytes(Vec<u8>),
    Array { dims: Vec<i32>, elements: Vec<Value> },
    Record(Vec<Value>),
    Range { flags: u8, bounds: Vec<Value> },
}

/// Which server's numbers.
#[derive(Clone, Copy, PartialEq)]
enum Server {
    Source,
    Target,
}

impl Kind {
    fn oid(&self, server: Server) -> Oid {
        let own = |number: Oid| if server == Server::Source { 20_000 + number } else { 40_000 + number };
        match self {
            Self::Int4 => INT4,
            Self::Enum(number) | Self::Record(_, number) => own(*number),
            Self::Array(element) => match element.as_ref() {
                Self::Int4 => 1007,
                element => element.oid(server) + 5_000,
            },
            Self::Range(bound) => bound.oid(server) + 9_000,
        }
    }

    fn patch(&self) -> Option<Patch> {
        let pair = |kind: &Self| (kind.oid(Server::Source), kind.oid(Server::Target));
        match self {
            Self::Int4 | Self::Enum(_) => None,
            Self::Array(element) => {
                let (from, to) = pair(element);
                let inner = element.patch();
                (from != to || inner.is_some()).then(|| Patch::Array { from, to, element: inner.map(Box::new) })
            }
            Self::Record(attributes, _) => {
                let attributes: Vec<_> = attributes
                    .iter()
                    .map(|a| AttributePatch { from: pair(a).0, to: pair(a).1, value: a.patch() })
                    .collect();
                attributes.iter().any(|a| a.from != a.to || a.value.is_some()).then_some(Patch::Record(attributes))
            }
            Self::Range(bound) => bound.patch().map(|bound| Patch::Range(Box::new(bound))),
        }
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    let leaf = prop_oneof![Just(Kind::Int4), (0..9u32).prop_map(Kind::Enum)];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|kind| Kind::Array(Box::new(kind))),
            (prop::collection::vec(inner.clone(), 0..4), 100..200u32).prop_map(|(kinds, n)| Kind::Record(kinds, n)),
            inner.prop_map(|kind| Kind::Range(Box::new(kind))),
        ]
    })
}

fn values(kind: &Kind) -> BoxedStrategy<Value> {
    let value = match kind {
        Kind::Int4 => any::<[u8; 4]>().prop_map(|b| Value::Bytes(b.to_vec())).boxed(),
        Kind::Enum(_) => prop::collection::vec(any::<u8>(), 0..20).prop_map(Value::Bytes).boxed(),
        Kind::Array(element) => {
            let element = values(element);
            prop::collection::vec(1..3i32, 0..3)
                .prop_flat_map(move |dims| {
                    let count =
                        if dims.is_empty() { 0 } else { usize::try_from(dims.iter().product::<i32>()).unwrap() };
                    (Just(dims), prop::collection::vec(element.clone(), count))
                })
                .prop_map(|(dims, elements)| Value::Array { dims, elements })
                .boxed()
        }
        Kind::Record(attributes, _) => {
            attributes.iter().map(values).collect::<Vec<_>>().prop_map(Value::Record).boxed()
        }
        Kind::Range(bound) => {
            let bound = values(bound).prop_filter("bounds are not NULL", |b| !matches!(b, Value::Null));
            (any::<u8>(), prop::collection::vec(bound, 0..3))
                .prop_map(|(flags, bounds)| Value::Range { flags, bounds })
                .boxed()
        }
    };
    prop_oneof![1 => Just(Value::Null), 6 => value].boxed()
}

/// With its length in front.
fn send(out: &mut Vec<u8>, kind: &Kind, value: &Value, server: Server) {
    let mut body = Vec::new();
    match (kind, value) {
        (_, Value::Null) => return out.extend((-1_i32).to_be_bytes()),
        (_, Value::Bytes(bytes)) => body.extend(bytes),
        (Kind::Array(element), Value::Array { dims, elements }) => {
            body.extend(i32::try_from(dims.len()).unwrap().to_be_bytes());
            body.extend(i32::from(elements.iter().any(|e| matches!(e, Value::Null))).to_be_bytes());
            body.extend(element.oid(server).to_be_bytes());
            for dim in dims {
                body.extend([dim.to_be_bytes(), (-3_i32).to_be_bytes()].concat());
            }
            for value in elements {
                send(&mut body, element, value, server);
            }
        }
        (Kind::Record(attributes, _), Value::Record(values)) => {
            body.extend(i32::try_from(values.len()).unwrap().to_be_bytes());
            for (attribute, value) in attributes.iter().zip(values) {
                body.extend(attribute.oid(server).to_be_bytes());
                send(&mut body, attribute, value, server);
            }
        }
        (Kind::Range(bound), Value::Range { flags, bounds }) => {
            body.push(*flags);
            for value in bounds {
                send(&mut body, bound, value, server);
            }
        }
        other => panic!("{other:?}"),
    }
    out.extend(i32::try_from(body.len()).unwrap().to_be_bytes());
    out.extend(body);
}

fn stream(kinds: &[Kind], rows: &[Vec<Value>], server: Server) -> Vec<u8> {
    let mut out = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\x03abc".to_vec();
    for row in rows {
        out.extend(i16::try_from(kinds.len()).unwrap().to_be_bytes());
        kinds.iter().zip(row).for_each(|(kind, value)| send(&mut out, kind, value, server));
    }
    out.extend((-1_i16).to_be_bytes());
    out
}

fn patched(columns: &[Option<Patch>], stream: &[u8], pieces: &[usize]) -> Result<Vec<u8>> {
    let mut patcher = OidPatcher::new(columns);
    let mut out = stream.to_vec();
    let (mut at, mut turn) = (0, 0);
    while at < out.len() {
        let end = (at + pieces[turn % pieces.len()]).min(out.len());
        patcher.patch(&mut out[at..end])?;
        (at, turn) = (end, turn + 1);
    }
    patcher.finish().map(|()| out)
}

fn tables() -> impl Strategy<Value = (Vec<Kind>, Vec<Vec<Value>>)> {
    prop::collection::vec(kinds(), 0..5).prop_flat_map(|kinds| {
        let row = kinds.iter().map(values).collect::<Vec<_>>();
        (Just(kinds), prop::collection::vec(row, 0..6))
    })
}

proptest! {
    #[test]
    fn any_rows_cut_anywhere_come_out_as_the_target_would_send_them(
        (kinds, rows) in tables(),
        pieces in prop::collection::vec(1..90usize, 1..6),
    ) {
        let columns: Vec<_> = kinds.iter().map(Kind::patch).collect();
        let out = patched(&columns, &stream(&kinds, &rows, Server::Source), &pieces).unwrap();
        prop_assert_eq!(out, stream(&kinds, &rows, Server::Target));
    }

    #[test]
    fn damage_ends_in_an_error_or_in_as_many_bytes_and_never_in_a_panic(
        (kinds, rows) in tables(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let columns: Vec<_> = kinds.iter().map(Kind::patch).collect();
        let mut stream = stream(&kinds, &rows, Server::Source);
        for (at, byte) in damage {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        if let Ok(out) = patched(&columns, &stream, &[7]) {
            prop_assert_eq!(out.len(), stream.len());
        }
        stream.truncate(cut.index(stream.len()));
        prop_assert!(patched(&columns, &stream, &[7]).is_err());
    }
}

#[test]
fn another_oid_than_the_catalogs_know_is_an_error() {
    let array = |number| Kind::Array(Box::new(Kind::Enum(number)));
    let rows = [vec![Value::Array { dims: vec![], elements: vec![] }]];
    let stream = stream(&[array(1)], &rows, Server::Source);
    let error = patched(&[array(2).patch()], &stream, &[1]).unwrap_err();
    assert!(error.to_string().contains("another type OID than the catalogs know"), "{error}");
}
