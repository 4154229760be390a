//! A connection string, in either of libpq's two forms, as keywords and values.
//!
//! The rules are those of `conninfo_parse` and `conninfo_uri_parse_options` in libpq's `fe-connect.c`. Messages
//! never repeat a value: a password with a stray `/` or blank ends up in the place of another value.

use super::Problem;
use super::keyword::known;

/// Keywords and values in the order given; a keyword given twice has its last value.
pub(super) type Pairs = Vec<(&'static str, String)>;

const ENCODE_HINT: &str = "in a URI, characters such as @ : / ? # and % in the user name or the password are written \
                           percent-encoded: @ is %40, / is %2F, # is %23, % is %25";

/// Reads `given`: a URI, a keyword/value string, or the bare name of a database.
pub(super) fn parse(given: &str) -> Result<Pairs, Problem> {
    let mut pairs = Pairs::new();
    if let Some(rest) = given.strip_prefix("postgresql://").or_else(|| given.strip_prefix("postgres://")) {
        parse_uri(rest, &mut pairs)?;
    } else if given.contains('=') {
        parse_keywords(given, &mut pairs)?;
    } else if let Some((scheme, _)) = given.split_once("://") {
        return Err(Problem::new(format!("a connection URI cannot start with \"{scheme}://\""))
            .hint("it starts with postgres:// or postgresql://"));
    } else if !given.trim().is_empty() {
        store(&mut pairs, "dbname", given.trim().to_owned());
    }
    Ok(pairs)
}

fn store(pairs: &mut Pairs, name: &'static str, value: String) {
    match pairs.iter_mut().find(|(known, _)| *known == name) {
        Some(pair) => pair.1 = value,
        None => pairs.push((name, value)),
    }
}

fn parse_keywords(text: &str, pairs: &mut Pairs) -> Result<(), Problem> {
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let at = text.len() - rest.len() + 1;
        let end = rest.find(|c: char| c == '=' || c.is_ascii_whitespace()).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let Some(after) = after.trim_start().strip_prefix('=') else {
            return Err(Problem::new(format!(
                "missing \"=\" after the word at character {at} of the connection string"
            ))
            .hint("a value with blanks in it is put in single quotes: password='two words'"));
        };
        let name = known(name)?;
        let (value, after) = read_value(after.trim_start())
            .ok_or_else(|| Problem::new(format!("the quote around the value of \"{name}\" is not closed")))?;
        store(pairs, name, value);
        rest = after.trim_start();
    }
    Ok(())
}

/// The value at the start of `text`, and what follows it; `None` where a quote is never closed.
fn read_value(text: &str) -> Option<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Some((value, &text[at + 1..])),
            c if !quoted && c.is_ascii_whitespace() => return Some((value, &text[at..])),
            c => value.push(c),
        }
    }
    (!quoted).then_some((value, ""))
}

fn parse_uri(rest: &str, pairs: &mut Pairs) -> Result<(), Problem> {
    let before_path = &rest[..rest.find('/').unwrap_or(rest.len())];
    let rest = match before_path.split_once('@') {
        Some((login, _)) => {
            store_login(login, pairs)?;
            &rest[login.len() + 1..]
        }
        None => rest,
    };
    let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
    // libpq takes the first `@` for the end of the password, and the rest of it for a part of the host's name.
    if place.split('/').next().is_some_and(|hosts| hosts.contains('@')) {
        return Err(Problem::new(
            "the connection URI has more than one \"@\" before its host: the password must have @ as %40",
        )
        .hint(ENCODE_HINT));
    }
    let (hosts, dbname) = place.split_once('/').map_or((place, None), |(hosts, name)| (hosts, Some(name)));
    store_hosts(hosts, pairs)?;
    if let Some(dbname) = dbname.filter(|name| !name.is_empty()) {
        if dbname.contains('@') {
            return Err(Problem::new("the connection URI has an \"@\" after its first \"/\"").hint(ENCODE_HINT));
        }
        store(pairs, "dbname", decode(dbname)?);
    }
    query.map_or(Ok(()), |query| store_query(query, pairs))
}

fn store_login(login: &str, pairs: &mut Pairs) -> Result<(), Problem> {
    let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
    if !user.is_empty() {
        store(pairs, "user", decode(user)?);
    }
    if let Some(password) = password.filter(|password| !password.is_empty()) {
        store(pairs, "password", decode(password)?);
    }
    Ok(())
}

fn store_hosts(list: &str, pairs: &mut Pairs) -> Result<(), Problem> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for item in list.split(',') {
        let (host, port) = split_port(item)?;
        hosts.push(decode(host)?);
        ports.push(decode(port)?);
    }
    if hosts.iter().any(|host| !host.is_empty()) || hosts.len() > 1 {
        store(pairs, "host", hosts.join(","));
    }
    if ports.iter().any(|port| !port.is_empty()) {
        if ports.iter().any(|port| !port.bytes().all(|byte| byte.is_ascii_digit())) {
            return Err(Problem::new("a port in the connection URI is not a number").hint(ENCODE_HINT));
        }
        store(pairs, "port", ports.join(","));
    }
    Ok(())
}

fn split_port(item: &str) -> Result<(&str, &str), Problem> {
    let Some(bracketed) = item.strip_prefix('[') else {
        return Ok(item.split_once(':').unwrap_or((item, "")));
    };
    let Some((host, after)) = bracketed.split_once(']') else {
        return Err(Problem::new("a \"[\" in the connection URI is not closed by \"]\"").hint(ENCODE_HINT));
    };
    if host.is_empty() {
        return Err(Problem::new("an IPv6 address in the connection URI is empty"));
    }
    match after.strip_prefix(':') {
        Some(port) => Ok((host, port)),
        None if after.is_empty() => Ok((host, "")),
        None => Err(Problem::new("in the connection URI, only \":\" and a port can follow an IPv6 address")),
    }
}

fn store_query(query: &str, pairs: &mut Pairs) -> Result<(), Problem> {
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter
            .split_once('=')
            .ok_or_else(|| Problem::new("a query parameter of the connection URI has no \"=\""))?;
        if value.contains('=') {
            return Err(Problem::new("a query parameter of the connection URI has more than one \"=\"")
                .hint("a \"=\" within a value is written %3D"));
        }
        let (name, value) = (decode(name)?, decode(value)?);
        // libpq accepts what JDBC writes.
        if name == "ssl" && value == "true" {
            store(pairs, "sslmode", "require".into());
        } else {
            store(pairs, known(&name)?, value);
        }
    }
    Ok(())
}

fn decode(text: &str) -> Result<String, Problem> {
    let invalid = || Problem::new("the connection URI has a \"%\" that two hexadecimal digits do not follow");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        if *first != b'%' {
            bytes.push(*first);
            rest = after;
            continue;
        }
        let [high, low, after @ ..] = after else { return Err(invalid().hint(ENCODE_HINT)) };
        match (char::from(*high).to_digit(16), char::from(*low).to_digit(16)) {
            (Some(0), Some(0)) => return Err(Problem::new("%00 cannot occur in a connection URI")),
            #[expect(clippy::cast_possible_truncation, reason = "two hexadecimal digits make a byte")]
            (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
            _ => return Err(invalid().hint(ENCODE_HINT)),
        }
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| Problem::new("the connection URI is not UTF-8 once decoded"))
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
