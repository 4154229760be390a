//! A hot standby of a throw-away server.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use super::cluster::blocking;
use super::{Cluster, ClusterSpec, Error, Result, StopMode};
use crate::model::ServerVersion;

impl ClusterSpec {
    /// With what a server needs to have standbys, and to be one.
    #[must_use]
    pub fn replicated(self) -> Self {
        // `hot_standby` is what 9.6 and later call `replica`; they know the old word too (config.sgml of 9.6).
        self.set("wal_level", "hot_standby").set("max_wal_senders", "4").set("hot_standby", "on")
    }
}

impl Cluster {
    /// A hot standby that streams from this server, which was started with [`ClusterSpec::replicated`] and is
    /// stopped for as long as its files are copied. Needs no client program, as pg_basebackup would.
    ///
    /// # Errors
    /// The files cannot be copied, or one of the two does not start.
    pub async fn standby(self: &std::sync::Arc<Self>, spec: ClusterSpec) -> Result<Self> {
        allow_replication(self)?;
        self.stop(StopMode::Fast).await?;
        let primary = std::sync::Arc::clone(self);
        let copied = blocking(move || Ok((Self::clone_files(&primary, &spec)?, spec))).await;
        self.restart().await?;
        let (mut standby, spec) = copied?;
        let spec = follow(&standby, self, spec)?;
        blocking(move || {
            standby.start_on_a_free_port(&spec)?;
            Ok(standby)
        })
        .await
    }
}

/// Trust through the unix socket, as for everything else; initdb before 10 leaves replication out.
fn allow_replication(primary: &Cluster) -> Result<()> {
    let path = primary.data_dir().join("pg_hba.conf");
    let opened = fs::OpenOptions::new().append(true).open(&path);
    opened.and_then(|mut file| file.write_all(b"\nlocal replication all trust\n")).map_err(Error::io(&path))
}

/// Makes the copy a standby of the original: by a file and a setting since 12, by `recovery.conf` before.
fn follow(standby: &Cluster, primary: &Cluster, spec: ClusterSpec) -> Result<ClusterSpec> {
    let from = format!("host={} port={} user={}", primary.socket_dir().display(), primary.port(), primary.user());
    let write = |name: &str, text: &str| {
        let path = standby.data_dir().join(name);
        let written = fs::write(&path, text);
        let readable = || fs::set_permissions(&path, fs::Permissions::from_mode(0o644));
        written.and_then(|()| readable()).map_err(Error::io(&path))
    };
    if standby.version() >= ServerVersion::V12 {
        write("standby.signal", "")?;
        return Ok(spec.set("primary_conninfo", &from));
    }
    write("recovery.conf", &format!("standby_mode = 'on'\nprimary_conninfo = '{from}'\n"))?;
    Ok(spec)
}
