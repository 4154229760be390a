//! Certificates and keys on disk.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::Problem;

pub(super) fn roots(path: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    certificates(path, "root certificate file")
}

/// The authorities that this machine trusts; those that cannot be read are left out, as everywhere.
pub(super) fn system_roots() -> Result<Vec<CertificateDer<'static>>, Problem> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "a trusted authority cannot be read");
    }
    if found.certs.is_empty() {
        return Err(Problem {
            message: "sslrootcert=system: this machine has no trusted authorities".into(),
            hint: Some("install the package ca-certificates, or name a file with sslrootcert"),
        });
    }
    Ok(found.certs)
}

fn certificates(path: &Path, what: &str) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let complain = |reason: &dyn std::fmt::Display| Problem {
        message: format!("{what} {}: {reason}", path.display()),
        hint: None,
    };
    let found: Vec<_> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| complain(&error))?;
    if found.is_empty() {
        return Err(complain(&"there is no PEM certificate in it"));
    }
    Ok(found)
}

/// A client's certificate chain and its key.
pub(super) fn client_certificate(
    certificate: &Path,
    key: Option<&Path>,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Problem> {
    let chain = certificates(certificate, "client certificate file")?;
    let Some(path) = key.filter(|path| path.exists()) else {
        return Err(Problem {
            message: format!("there is a client certificate {}, but no private key", certificate.display()),
            hint: Some("sslkey names the file; ~/.postgresql/postgresql.key is the default"),
        });
    };
    check_permissions(path)?;
    let key = PrivateKeyDer::from_pem_file(path).map_err(|error| Problem {
        message: format!("private key file {}: {error}", path.display()),
        hint: Some("it must be an unencrypted PEM file (PKCS#8, PKCS#1 or SEC1)"),
    })?;
    Ok((chain, key))
}

/// Nobody else may read a key; a key of root's may be read by its group (`initialize_SSL` in libpq's
/// `fe-secure-openssl.c`).
fn check_permissions(path: &Path) -> Result<(), Problem> {
    let complain = |reason: String| Problem {
        message: format!("private key file {} {reason}", path.display()),
        hint: Some("chmod 0600, or 0640 where root owns it"),
    };
    let metadata = std::fs::metadata(path).map_err(|error| complain(format!("cannot be read: {error}")))?;
    let forbidden = if metadata.uid() == 0 { 0o027 } else { 0o077 };
    if !metadata.is_file() {
        return Err(complain("is not a plain file".into()));
    }
    if metadata.permissions().mode() & forbidden != 0 {
        return Err(complain("can be read by group or others".into()));
    }
    Ok(())
}
