//! What a server's certificate must be: nothing, of a known authority, or that and for this host.

use std::net::IpAddr;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_cert::Certificate;
use x509_cert::der::asn1::{PrintableStringRef, TeletexStringRef, Utf8StringRef};
use x509_cert::der::oid::db::rfc4519::COMMON_NAME;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::Problem;

/// The handshake's signature is verified always: whoever answers holds the key of the certificate it shows.
#[derive(Debug)]
pub(super) struct Verifier {
    trust: Option<Trust>,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
struct Trust {
    roots: RootCertStore,
    /// The same in DER: a self-signed server certificate that the user names as root is trusted as it is, although
    /// it is no authority's (the way PostgreSQL's documentation makes one).
    certificates: Vec<CertificateDer<'static>>,
    check_name: bool,
}

impl Verifier {
    /// Takes any certificate.
    pub fn indifferent(algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { trust: None, algorithms }
    }

    pub fn new(
        certificates: &[CertificateDer<'static>],
        check_name: bool,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<Self, Problem> {
        let mut roots = RootCertStore::empty();
        let (added, ignored) = roots.add_parsable_certificates(certificates.iter().cloned());
        if added == 0 {
            return Err(Problem { message: "none of the root certificates can be read".into(), hint: None });
        }
        if ignored > 0 {
            tracing::debug!(ignored, "root certificates that cannot be read");
        }
        let trust = Some(Trust { roots, certificates: certificates.to_vec(), check_name });
        Ok(Self { trust, algorithms })
    }

    /// The handshake's signature by the certificate's key alone. webpki reads no certificates of X.509 version 1,
    /// which is what OpenSSL before 3.2 makes without extensions; where the certificate is not to be verified, or is
    /// one that the user names, libpq takes them.
    fn verify_by_key(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = parse(cert)?.tbs_certificate.subject_public_key_info;
        let bad = || Error::from(CertificateError::BadEncoding);
        let algorithm = key.algorithm.to_der().map_err(|_| bad())?;
        let candidates = self.algorithms.mapping.iter().filter(|(scheme, _)| *scheme == dss.scheme);
        let verified = candidates
            .flat_map(|(_, algorithms)| algorithms.iter())
            // The identifier is the content of the DER sequence.
            .filter(|candidate| algorithm.ends_with(candidate.public_key_alg_id().as_ref()))
            .any(|candidate| {
                candidate.verify_signature(key.subject_public_key.raw_bytes(), message, dss.signature()).is_ok()
            });
        if verified { Ok(HandshakeSignatureValid::assertion()) } else { Err(CertificateError::BadSignature.into()) }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(trust) = &self.trust else { return Ok(ServerCertVerified::assertion()) };
        if trust.certificates.iter().any(|root| root == end_entity) {
            check_dates(end_entity, now)?;
        } else {
            verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(end_entity)?,
                &trust.roots,
                intermediates,
                now,
                self.algorithms.all,
            )?;
        }
        if trust.check_name {
            check_name(end_entity, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if ParsedCertificate::try_from(cert).is_err() {
            return self.verify_by_key(message, cert, dss);
        }
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if ParsedCertificate::try_from(cert).is_err() {
            return self.verify_by_key(message, cert, dss);
        }
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn parse(certificate: &CertificateDer<'_>) -> Result<Certificate, Error> {
    Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding.into())
}

fn check_dates(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let validity = parse(certificate)?.tbs_certificate.validity;
    let now = now.as_secs();
    if now < validity.not_before.to_unix_duration().as_secs() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > validity.not_after.to_unix_duration().as_secs() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// The name as webpki checks it. A certificate without a subject alternative name of either kind is asked for its
/// common name, as libpq does (`pq_verify_peer_name_matches_certificate_name` in `fe-secure-common.c`).
fn check_name(certificate: &CertificateDer<'_>, server_name: &ServerName<'_>) -> Result<(), Error> {
    let by_webpki =
        ParsedCertificate::try_from(certificate).and_then(|parsed| verify_server_name(&parsed, server_name));
    let Err(error) = by_webpki else { return Ok(()) };
    let parsed = parse(certificate)?;
    let alternative = parsed.tbs_certificate.get::<SubjectAltName>().map_err(|_| CertificateError::BadEncoding)?;
    let has_alternative = alternative.is_some_and(|(_, SubjectAltName(names))| {
        names.iter().any(|name| matches!(name, GeneralName::DnsName(_) | GeneralName::IpAddress(_)))
    });
    if !has_alternative && common_name(&parsed).is_some_and(|common| matches_common_name(&common, server_name)) {
        return Ok(());
    }
    // A self-signed certificate that webpki cannot even parse as a server's is still one for another name.
    Err(match error {
        Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. }) => error,
        _ => CertificateError::NotValidForName.into(),
    })
}

fn common_name(certificate: &Certificate) -> Option<String> {
    let attributes = certificate.tbs_certificate.subject.0.iter().flat_map(|names| names.0.iter());
    let value = &attributes.into_iter().find(|attribute| attribute.oid == COMMON_NAME)?.value;
    let text = Utf8StringRef::try_from(value).map(|text| text.as_str().to_owned());
    text.or_else(|_| PrintableStringRef::try_from(value).map(|text| text.as_str().to_owned()))
        .or_else(|_| TeletexStringRef::try_from(value).map(|text| text.as_str().to_owned()))
        .ok()
}

/// A `*` stands for the whole first label of a host name, never for one of an address.
fn matches_common_name(common: &str, server_name: &ServerName<'_>) -> bool {
    match server_name {
        ServerName::DnsName(name) => {
            let name = name.as_ref();
            let wildcard = common.strip_prefix("*.").zip(name.split_once('.'));
            common.eq_ignore_ascii_case(name)
                || wildcard.is_some_and(|(suffix, (_, rest))| suffix.eq_ignore_ascii_case(rest))
        }
        ServerName::IpAddress(address) => common.parse::<IpAddr>().is_ok_and(|common| common == IpAddr::from(*address)),
        _ => false,
    }
}
