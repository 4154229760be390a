//! TLS as libpq does it, with rustls (`fe-secure-openssl.c` and `fe-secure-common.c` in libpq; PostgreSQL's
//! documentation, "SSL Support").

mod connector;
mod files;
mod verifier;

use std::net::IpAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::der::oid::db::rfc5912;
use x509_cert::der::{Decode as _, Encode as _};

pub(crate) use connector::Connector;
use verifier::Verifier;

use super::conninfo::{Address, ConnInfo, RootCertificates, SslMode, TlsSettings};
use super::{Error, ErrorKind, Result};

/// What PostgreSQL is called in TLS' own negotiation of protocols; servers from 17 on look at it.
const ALPN: &[u8] = b"postgresql";

/// What went wrong before a server was spoken to.
#[derive(Debug)]
struct Problem {
    message: String,
    hint: Option<&'static str>,
}

/// The TLS configuration of `info`: read and built once, shared by all copies of `info`.
///
/// # Errors
/// `Tls`: a file cannot be read, is not what it should be, or can be read by others.
pub(crate) fn client_config(info: &ConnInfo) -> Result<Arc<ClientConfig>> {
    if let Some(config) = info.tls_config.0.get() {
        return Ok(Arc::clone(config));
    }
    let config = build(&info.tls).map_err(|Problem { message, hint }| {
        Error::new(info.side(), ErrorKind::Tls { address: info.address(), message, hint: hint.map(Into::into) })
    })?;
    Ok(Arc::clone(info.tls_config.0.get_or_init(|| Arc::new(config))))
}

fn build(tls: &TlsSettings) -> std::result::Result<ClientConfig, Problem> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions: Vec<_> = [(2, &rustls::version::TLS12), (3, &rustls::version::TLS13)]
        .into_iter()
        .filter(|(minor, _)| (tls.min_version..=tls.max_version).contains(minor))
        .map(|(_, version)| version)
        .collect();
    let verifier = verifier(tls, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .map_err(|error| Problem { message: error.to_string(), hint: None })?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &tls.certificate {
        None => builder.with_no_client_auth(),
        Some(certificate) => {
            let (chain, key) = files::client_certificate(certificate, tls.key.as_deref())?;
            builder.with_client_auth_cert(chain, key).map_err(|error| Problem {
                message: format!("client certificate {}: {error}", certificate.display()),
                hint: Some("sslcert and sslkey must belong together"),
            })?
        }
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = tls.server_name_indication;
    // Servers give no tickets.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

fn verifier(tls: &TlsSettings, provider: &Arc<CryptoProvider>) -> std::result::Result<Verifier, Problem> {
    let algorithms = provider.signature_verification_algorithms;
    let roots = match &tls.roots {
        RootCertificates::None => return Ok(Verifier::indifferent(algorithms)),
        RootCertificates::File(path) => files::roots(path)?,
        RootCertificates::System => files::system_roots()?,
    };
    Verifier::new(&roots, tls.mode == SslMode::VerifyFull, algorithms)
}

/// The name that a server's certificate must have, and that it is told in the handshake.
///
/// # Errors
/// `Tls`: `verify-full` without a host name.
pub(crate) fn server_name(info: &ConnInfo, host_index: usize, address: &Address) -> Result<ServerName<'static>> {
    let host = info.hosts().get(host_index).map(|host| host.name.as_str()).unwrap_or_default();
    if let Ok(name) = ServerName::try_from(host.to_owned()) {
        return Ok(name);
    }
    if info.tls.mode == SslMode::VerifyFull {
        return Err(Error::new(
            info.side(),
            ErrorKind::Tls {
                address: info.host_address(host_index),
                message: "sslmode=verify-full needs a host name".into(),
                hint: Some("give \"host\" beside \"hostaddr\"".into()),
            },
        ));
    }
    Ok(ServerName::IpAddress(match address {
        Address::Tcp(addr) => addr.ip().into(),
        Address::Unix(_) => IpAddr::from([127, 0, 0, 1]).into(),
    }))
}

/// The data that binds a login to this TLS session: the hash of the server's certificate (RFC 5929,
/// tls-server-end-point). `None` where the certificate's signature names no hash (Ed25519), as on the server.
pub(crate) fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let algorithm = &parsed.signature_algorithm;
    let hash = match algorithm.oid {
        // The parameters of RSA-PSS begin with the hash; absent, it is SHA-1.
        rfc5912::ID_RSASSA_PSS => {
            let parameters = algorithm.parameters.as_ref()?.to_der().ok()?;
            [rfc5912::ID_SHA_512, rfc5912::ID_SHA_384, rfc5912::ID_SHA_256]
                .into_iter()
                .find(|hash| hash.to_der().is_ok_and(|oid| contains(&parameters, &oid)))
                .unwrap_or(rfc5912::ID_SHA_256)
        }
        // MD5 and SHA-1 are to be replaced by SHA-256.
        rfc5912::MD_5_WITH_RSA_ENCRYPTION
        | rfc5912::SHA_1_WITH_RSA_ENCRYPTION
        | rfc5912::SHA_256_WITH_RSA_ENCRYPTION
        | rfc5912::ECDSA_WITH_SHA_256 => rfc5912::ID_SHA_256,
        rfc5912::SHA_384_WITH_RSA_ENCRYPTION | rfc5912::ECDSA_WITH_SHA_384 => rfc5912::ID_SHA_384,
        rfc5912::SHA_512_WITH_RSA_ENCRYPTION | rfc5912::ECDSA_WITH_SHA_512 => rfc5912::ID_SHA_512,
        _ => return None,
    };
    Some(match hash {
        rfc5912::ID_SHA_384 => Sha384::digest(certificate).to_vec(),
        rfc5912::ID_SHA_512 => Sha512::digest(certificate).to_vec(),
        _ => Sha256::digest(certificate).to_vec(),
    })
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Whether it was TLS that failed, not the connection below it.
pub(crate) fn is_tls_error(error: &std::io::Error) -> bool {
    error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).is_some()
}

/// What to say, and to try, when a handshake failed.
pub(crate) fn handshake_error(info: &ConnInfo, host_index: usize, error: &std::io::Error) -> Error {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let message = match tls {
        Some(rustls::Error::InvalidCertificate(reason)) => {
            format!("the server's certificate is not accepted: {reason}")
        }
        Some(tls) => tls.to_string(),
        None if error.kind() == std::io::ErrorKind::UnexpectedEof => "the server closed the connection".into(),
        None => error.to_string(),
    };
    let hint = tls.and_then(|tls| handshake_hint(&info.tls, tls));
    Error::new(info.side(), ErrorKind::Tls { address: info.host_address(host_index), message, hint })
}

fn handshake_hint(settings: &TlsSettings, error: &rustls::Error) -> Option<String> {
    use rustls::{AlertDescription as Alert, CertificateError as Certificate, Error as Tls};
    let roots = match &settings.roots {
        RootCertificates::File(path) => path.display().to_string(),
        RootCertificates::System => "the authorities of this machine".into(),
        RootCertificates::None => String::new(),
    };
    Some(match error {
        Tls::InvalidCertificate(Certificate::NotValidForName | Certificate::NotValidForNameContext { .. }) => {
            "connect by the name in the certificate (hostaddr can hold the address), or use sslmode=verify-ca".into()
        }
        Tls::InvalidCertificate(Certificate::UnknownIssuer) => {
            format!("it does not lead to {roots}; sslrootcert names the file with the right authority")
        }
        Tls::InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. }) => {
            "renew the server's certificate, or look at this machine's clock".into()
        }
        Tls::InvalidCertificate(Certificate::Other(_)) => {
            "a certificate of X.509 version 1 (OpenSSL before 3.2 made them) cannot be verified: make one of version 3, \
             or give the server's own certificate in sslrootcert"
                .into()
        }
        Tls::AlertReceived(Alert::CertificateRequired) => {
            "the server wants a client certificate: sslcert, sslkey".into()
        }
        Tls::AlertReceived(Alert::UnknownCA | Alert::BadCertificate) if settings.certificate.is_some() => {
            "the server does not accept the client certificate in sslcert".into()
        }
        Tls::AlertReceived(Alert::ProtocolVersion) | Tls::PeerIncompatible(_) => {
            "the server's TLS is too old for us: TLS 1.2 is needed".into()
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
