use std::path::PathBuf;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SigningKey as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use x509_cert::certificate::Version;
use x509_cert::der::EncodePem as _;
use x509_cert::der::asn1::BitString;

use super::*;

fn params(common: &str, alternatives: &[&str]) -> CertificateParams {
    let mut params =
        CertificateParams::new(alternatives.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common);
    params
}

fn self_signed(params: &CertificateParams) -> (CertificateDer<'static>, KeyPair) {
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().der().clone(), key)
}

/// The same certificate as OpenSSL made it for decades: of version 1, without extensions.
fn version_1(certificate: &CertificateDer<'_>, key: &KeyPair) -> CertificateDer<'static> {
    let mut old = Certificate::from_der(certificate).unwrap();
    old.tbs_certificate.version = Version::V1;
    old.tbs_certificate.extensions = None;
    let signature = key.sign(&old.tbs_certificate.to_der().unwrap()).unwrap();
    old.signature = BitString::from_bytes(&signature).unwrap();
    CertificateDer::from(old.to_der().unwrap())
}

fn settings(mode: SslMode, roots: RootCertificates, minor: u8) -> TlsSettings {
    TlsSettings { mode, roots, min_version: minor, max_version: minor, ..TlsSettings::default() }
}

fn root_file(certificate: &CertificateDer<'_>) -> (tempfile::TempDir, RootCertificates) {
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("root.crt");
    std::fs::write(
        &path,
        Certificate::from_der(certificate).unwrap().to_pem(x509_cert::der::pem::LineEnding::LF).unwrap(),
    )
    .unwrap();
    (directory, RootCertificates::File(path))
}

/// A whole handshake in memory.
fn handshake(
    tls: &TlsSettings,
    host: &str,
    certificate: &CertificateDer<'static>,
    key: &KeyPair,
) -> std::result::Result<(), rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let der = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let certified = CertifiedKey::new(vec![certificate.clone()], provider.key_provider.load_private_key(der).unwrap());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    let mut server = rustls::ServerConnection::new(Arc::new(server)).unwrap();
    let config = build(tls).unwrap_or_else(|problem| panic!("{}", problem.message));
    let mut client =
        rustls::ClientConnection::new(Arc::new(config), ServerName::try_from(host.to_owned()).unwrap()).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let (mut up, mut down) = (Vec::new(), Vec::new());
        while client.wants_write() {
            client.write_tls(&mut up).unwrap();
        }
        let mut up = up.as_slice();
        while !up.is_empty() {
            server.read_tls(&mut up).unwrap();
            server.process_new_packets().unwrap();
        }
        while server.wants_write() {
            server.write_tls(&mut down).unwrap();
        }
        let mut down = down.as_slice();
        while !down.is_empty() {
            client.read_tls(&mut down).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(())
}

#[test]
fn the_common_name_counts_only_without_alternatives() {
    let table = [
        ("db.example.com", &[][..], "db.example.com", true),
        ("DB.example.COM", &[], "db.example.com", true),
        ("*.example.com", &[], "db.example.com", true),
        ("*.example.com", &[], "a.db.example.com", false),
        ("*.example.com", &[], "example.com", false),
        ("db.example.com", &[], "other.example.com", false),
        ("10.0.0.1", &[], "10.0.0.1", true),
        ("*.0.0.1", &[], "10.0.0.1", false),
        ("db.example.com", &["other.example.com"], "db.example.com", false),
        ("db.example.com", &["other.example.com"], "other.example.com", true),
        ("db.example.com", &["*.example.com"], "db.example.com", true),
        ("db.example.com", &["10.0.0.1"], "10.0.0.1", true),
    ];
    for (common, alternatives, host, accepted) in table {
        let (certificate, key) = self_signed(&params(common, alternatives));
        let (_directory, roots) = root_file(&certificate);
        let shaken = handshake(&settings(SslMode::VerifyFull, roots.clone(), 3), host, &certificate, &key);
        assert_eq!(shaken.is_ok(), accepted, "{common} {alternatives:?} for {host}: {shaken:?}");
        handshake(&settings(SslMode::VerifyCa, roots, 3), host, &certificate, &key).unwrap();
    }
}

#[test]
fn a_trusted_certificate_still_has_dates() {
    for (from, to, accepted) in [(2000, 2001, false), (2000, 4000, true), (3999, 4000, false)] {
        let mut params = params("db", &[]);
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(to, 1, 1));
        let (certificate, key) = self_signed(&params);
        let (_directory, roots) = root_file(&certificate);
        let shaken = handshake(&settings(SslMode::VerifyFull, roots, 3), "db", &certificate, &key);
        assert_eq!(shaken.is_ok(), accepted, "{from} to {to}: {shaken:?}");
        handshake(&settings(SslMode::Require, RootCertificates::None, 3), "db", &certificate, &key).unwrap();
    }
}

#[test]
fn certificates_of_version_1_are_taken_where_libpq_does_not_look_or_the_user_names_them() {
    let (certificate, key) = self_signed(&params("db", &[]));
    let old = version_1(&certificate, &key);
    let (_old_directory, old_root) = root_file(&old);
    let (_directory, other_root) = root_file(&self_signed(&params("db", &[])).0);
    for minor in [2, 3] {
        handshake(&settings(SslMode::Require, RootCertificates::None, minor), "db", &old, &key).unwrap();
        handshake(&settings(SslMode::VerifyFull, old_root.clone(), minor), "db", &old, &key).unwrap();
        handshake(&settings(SslMode::VerifyFull, old_root.clone(), minor), "other", &old, &key).unwrap_err();
        handshake(&settings(SslMode::VerifyCa, other_root.clone(), minor), "db", &old, &key).unwrap_err();
        // Who shows a certificate must have its key.
        let thief = KeyPair::generate().unwrap();
        for stolen in [&old, &certificate] {
            handshake(&settings(SslMode::Require, RootCertificates::None, minor), "db", stolen, &thief).unwrap_err();
        }
    }
}

#[test]
fn the_end_point_is_hashed_as_its_signature_says() {
    for (algorithm, bytes) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, Some(32)),
        (&rcgen::PKCS_ECDSA_P384_SHA384, Some(48)),
        (&rcgen::PKCS_ED25519, None),
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = params("db", &[]).self_signed(&key).unwrap();
        let end_point = server_end_point(certificate.der());
        assert_eq!(end_point.as_ref().map(Vec::len), bytes, "{algorithm:?}");
        if bytes == Some(32) {
            assert_eq!(end_point, Some(Sha256::digest(certificate.der()).to_vec()));
        }
    }
    assert_eq!(server_end_point(b"no certificate"), None);
}

#[test]
fn files_that_are_no_certificates_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.crt");
    for text in
        ["", "-----BEGIN CERTIFICATE-----\nAAAA\n", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
    {
        std::fs::write(&path, text).unwrap();
        let problem = build(&settings(SslMode::VerifyCa, RootCertificates::File(path.clone()), 3)).unwrap_err();
        assert!(problem.message.contains("root certificate"), "{}", problem.message);
        let tls =
            TlsSettings { certificate: Some(path.clone()), ..settings(SslMode::Require, RootCertificates::None, 3) };
        assert!(build(&tls).unwrap_err().message.contains("client certificate"));
    }
}
