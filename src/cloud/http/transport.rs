//! One exchange over the wire, and nothing said twice.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::{HeaderName, HeaderValue, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::{ErrorKind, Patience, Request, Response};
use crate::model::Secret;

pub(super) struct Transport {
    agent: ureq::Agent,
    /// Without a slash at the end.
    base: String,
    host: String,
    timeout: Duration,
}

impl Transport {
    pub(super) fn new(base_url: &str, patience: &Patience) -> Result<Self, ErrorKind> {
        let unsendable = |why: &str| ErrorKind::Unsendable(why.to_owned());
        let uri: Uri = base_url.parse().map_err(|_| unsendable("the provider's address is not a URL"))?;
        let authority = uri.authority().ok_or_else(|| unsendable("the provider's address names no host"))?;
        if authority.as_str().contains('@') {
            return Err(unsendable("the provider's address holds a user name or a password"));
        }
        if uri.query().is_some() {
            return Err(unsendable("the provider's address holds a query"));
        }
        let here = is_this_machine(authority.host());
        let encrypted = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if here => false,
            Some("http") => return Err(unsendable("http:// would send the key in clear: https:// is needed")),
            _ => return Err(unsendable("the provider's address begins neither with https:// nor with http://")),
        };
        let port = authority.port_u16().filter(|port| *port != if encrypted { 443 } else { 80 });
        let host = port.map_or_else(|| authority.host().to_owned(), |port| format!("{}:{port}", authority.host()));
        let timeout = patience.connect_timeout + patience.reply_timeout;
        Ok(Self {
            agent: agent(patience, here, encrypted)?,
            base: base_url.trim_end_matches('/').to_owned(),
            host,
            timeout,
        })
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// One request, one reply of any status.
    pub(super) fn exchange(
        &self,
        request: &Request,
        headers: &[(String, Secret)],
        (reply_bytes_max, left): (u64, Option<Duration>),
    ) -> Result<Response, ErrorKind> {
        let request = self.prepared(request, headers)?;
        let response = self.run(request, left).map_err(|error| failure(&error, reply_bytes_max))?;
        let (parts, body) = response.into_parts();
        let headers = parts
            .headers
            .iter()
            .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())));
        let headers = headers.collect();
        let body = body.into_with_config().limit(reply_bytes_max).read_to_vec().map_err(|error| match error {
            ureq::Error::BodyExceedsLimit(_) => ErrorKind::TooLong { limit_bytes: reply_bytes_max },
            other => ErrorKind::NoReply(other.to_string()),
        })?;
        Ok(Response { status: parts.status.as_u16(), headers, body })
    }

    /// `left`: less time than requests have of their own.
    fn run(
        &self,
        request: ureq::http::Request<Vec<u8>>,
        left: Option<Duration>,
    ) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        match left {
            Some(left) if left < self.timeout => {
                self.agent.run(self.agent.configure_request(request).timeout_global(Some(left)).build())
            }
            _ => self.agent.run(request),
        }
    }

    fn prepared(
        &self,
        request: &Request,
        headers: &[(String, Secret)],
    ) -> Result<ureq::http::Request<Vec<u8>>, ErrorKind> {
        let unsendable = |what: &str| ErrorKind::Unsendable(format!("{what} cannot be sent"));
        if !request.path.starts_with('/') {
            return Err(unsendable("a path that does not begin with a slash"));
        }
        let uri: Uri =
            format!("{}{}", self.base, request.path_and_query()).parse().map_err(|_| unsendable("this path"))?;
        let mut prepared = ureq::http::Request::builder()
            .method(request.method.as_str())
            .uri(uri)
            .body(request.body.clone())
            .map_err(|_| unsendable("this request"))?;
        for (name, value) in headers {
            let problem = || unsendable(&format!("the value of the header {name}"));
            let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| problem())?;
            let mut value = HeaderValue::from_str(value.expose()).map_err(|_| problem())?;
            value.set_sensitive(true);
            prepared.headers_mut().insert(header, value);
        }
        Ok(prepared)
    }
}

/// Whether `host`, as a URL spells it, is this machine without asking anybody.
fn is_this_machine(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn agent(patience: &Patience, here: bool, encrypted: bool) -> Result<ureq::Agent, ErrorKind> {
    let mut config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .max_idle_connections(0)
        .timeout_connect(Some(patience.connect_timeout))
        .timeout_global(Some(patience.connect_timeout + patience.reply_timeout))
        // Some answer 100 late or never; the bodies are small.
        .timeout_await_100(Some(Duration::from_millis(200)))
        .user_agent(concat!("pgconvoy/", env!("CARGO_PKG_VERSION")));
    if here {
        config = config.proxy(None);
    }
    if encrypted {
        config = config.tls_config(
            TlsConfig::builder()
                .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .root_certs(system_roots()?)
                .build(),
        );
    }
    Ok(config.build().new_agent())
}

/// The system's certificates; `SSL_CERT_FILE` and `SSL_CERT_DIR` replace them.
fn system_roots() -> Result<RootCerts, ErrorKind> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let why = found.errors.first().map_or_else(String::new, |error| format!(": {error}"));
        return Err(ErrorKind::Unsendable(format!(
            "the system has no certificates to check the provider's with{why} (Debian: apt-get install ca-certificates)"
        )));
    }
    Ok(found.certs.iter().map(|certificate| Certificate::from_der(certificate.as_ref()).to_owned()).into())
}

/// Whether bytes may have reached the provider: only what surely comes before the first one is `NotSent`.
fn failure(error: &ureq::Error, reply_bytes_max: u64) -> ErrorKind {
    use std::io::ErrorKind as Io;
    let text = error.to_string();
    match error {
        ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::ConnectProxyFailed(_)
        | ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => ErrorKind::NotSent(text),
        ureq::Error::Io(io)
            if matches!(io.kind(), Io::ConnectionRefused | Io::HostUnreachable | Io::NetworkUnreachable) =>
        {
            ErrorKind::NotSent(text)
        }
        // Certificates are looked at before the request is sent.
        ureq::Error::Rustls(rustls::Error::InvalidCertificate(_)) => ErrorKind::Untrusted(text),
        ureq::Error::Io(io) if is_untrusted(io) => ErrorKind::Untrusted(text),
        ureq::Error::Tls(_)
        | ureq::Error::BadUri(_)
        | ureq::Error::Http(_)
        | ureq::Error::RequireHttpsOnly(_)
        | ureq::Error::InvalidProxyUrl
        | ureq::Error::Pem(_) => ErrorKind::Unsendable(text),
        ureq::Error::BodyExceedsLimit(_) | ureq::Error::LargeResponseHeader(..) => {
            ErrorKind::TooLong { limit_bytes: reply_bytes_max }
        }
        _ => ErrorKind::NoReply(text),
    }
}

fn is_untrusted(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}
