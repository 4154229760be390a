use crate::model::Secret;

/// The methods that providers use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a request may be sent again when it is not known what became of it, or after a 429 or 5xx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Sent twice, it has the effect of once.
    Safe,
    /// Sent once; the caller looks what became of it.
    Never,
}

/// A request, without the provider's address and without its authorization.
#[derive(Clone)]
pub struct Request {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: Vec<(String, Secret)>,
    pub(super) body: Vec<u8>,
    pub(super) repeat: Repeat,
}

impl Request {
    /// `path` begins with `/`; what is variable in it went through [`segment`].
    #[must_use]
    pub fn new(method: Method, path: impl Into<String>, repeat: Repeat) -> Self {
        Self { method, path: path.into(), query: Vec::new(), headers: Vec::new(), body: Vec::new(), repeat }
    }

    /// A GET, safe to repeat.
    #[must_use]
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::Get, path, Repeat::Safe)
    }

    /// Adds `name=value`, encoded, to the query.
    #[must_use]
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a header. Its value is not shown.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), Secret::new(value)));
        self
    }

    /// Sends `body` as JSON.
    #[must_use]
    pub fn json(mut self, body: &serde_json::Value) -> Self {
        self.body = body.to_string().into_bytes();
        self.header("content-type", "application/json")
    }

    /// Sends `pairs` as an HTML form does.
    #[must_use]
    pub fn form(mut self, pairs: &[(String, String)]) -> Self {
        self.body = encoded_pairs(pairs).into_bytes();
        self.header("content-type", "application/x-www-form-urlencoded; charset=utf-8")
    }

    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// May hold secrets.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    pub(super) fn path_and_query(&self) -> String {
        if self.query.is_empty() {
            return self.path.clone();
        }
        format!("{}?{}", self.path, encoded_pairs(&self.query))
    }
}

/// Headers and bodies may hold secrets.
impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { method, path, repeat, body, .. } = self;
        write!(f, "{method} {path} ({repeat:?}, {} bytes)", body.len())
    }
}

fn encoded_pairs(pairs: &[(String, String)]) -> String {
    let pairs: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{}={}", segment(name), segment(value))).collect();
    pairs.join("&")
}

/// `text` as one segment of a path, or as one name or value of a query: all but RFC 3986's unreserved characters
/// as `%XX`.
#[must_use]
pub fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.extend(['%', hex_digit(byte >> 4), hex_digit(byte & 15)]),
        }
    }
    out
}

fn hex_digit(value: u8) -> char {
    char::from(b"0123456789ABCDEF"[usize::from(value & 15)])
}

/// A reply, whatever its status.
#[derive(Clone)]
pub struct Response {
    pub status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The first header of that name; names are compared without case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// `RateLimit-Remaining`: how many more requests the provider takes now (Heroku, "Platform API Reference").
    #[must_use]
    pub fn rate_limit_remaining(&self) -> Option<u64> {
        self.header("ratelimit-remaining")?.trim().parse().ok()
    }

    /// `Retry-After` in seconds; the other form, a date, is not read.
    pub(super) fn retry_after_s(&self) -> Option<u64> {
        self.header("retry-after")?.trim().parse().ok()
    }
}

/// Bodies may hold secrets: configuration variables, credentials.
impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "status {} ({} bytes)", self.status, self.body.len())
    }
}
