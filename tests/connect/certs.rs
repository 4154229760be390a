//! Certificates for the tests: an authority, a server for `localhost`, clients, and an authority nobody asked for.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};

pub struct Certificates {
    directory: PathBuf,
    /// Where our own copies are: the server's user owns `directory`, and keys are nobody else's.
    own: tempfile::TempDir,
}

impl Certificates {
    pub fn write(directory: &Path) -> Self {
        let own = tempfile::tempdir().unwrap();
        let (ca, ca_pem) = authority("test authority");
        let (other, other_pem) = authority("another authority");
        save(directory, "ca.crt", &ca_pem);
        save(own.path(), "ca.crt", &ca_pem);
        save(own.path(), "other-ca.crt", &other_pem);
        for (name, common, issuer, place) in [
            ("server", "server", &ca, directory),
            ("client", "cert_user", &ca, own.path()),
            ("stranger", "cert_user", &other, own.path()),
        ] {
            let names = if name == "server" { vec!["localhost".to_owned()] } else { Vec::new() };
            let mut params = CertificateParams::new(names).unwrap();
            params.distinguished_name = named(common);
            let key = KeyPair::generate().unwrap();
            save(place, &format!("{name}.crt"), &params.signed_by(&key, issuer).unwrap().pem());
            save(place, &format!("{name}.key"), &key.serialize_pem());
        }
        Self { directory: directory.to_owned(), own }
    }

    pub fn path(&self, name: &str) -> String {
        self.own.path().join(name).display().to_string()
    }

    /// The server's own certificate, as a user copies it from a server.
    pub fn server(&self) -> String {
        let copy = self.own.path().join("server-copy.crt");
        std::fs::copy(self.directory.join("server.crt"), &copy).unwrap();
        copy.display().to_string()
    }
}

fn named(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn authority(name: &str) -> (Issuer<'static, KeyPair>, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = named(name);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}

fn save(directory: &Path, name: &str, text: &str) {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}
