//! Settings that have a fixed set of values (PostgreSQL's documentation, "Parameter Key Words").

/// How much of TLS is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    Disable,
    /// Plain first, TLS where the server refuses that.
    Allow,
    /// TLS where the server offers it, plain else.
    #[default]
    Prefer,
    /// TLS; the certificate is looked at only where there is a root certificate file.
    Require,
    /// TLS with a certificate of a known authority.
    VerifyCa,
    /// The same, for the name of this host.
    VerifyFull,
}

/// How TLS is begun: by asking in PostgreSQL's protocol, or at once (servers from 17 on).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SslNegotiation {
    #[default]
    Postgres,
    Direct,
}

/// Whether the login is bound to the TLS session (SCRAM-SHA-256-PLUS).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelBinding {
    Disable,
    #[default]
    Prefer,
    Require,
}

/// Which of several servers will do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetSessionAttrs {
    #[default]
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

/// A setting with a fixed set of values, and how they are spelled.
pub(super) trait Choice: Copy + PartialEq + 'static {
    const VALUES: &'static [(&'static str, Self)];

    fn parse(value: &str) -> Option<Self> {
        Self::VALUES.iter().find(|(name, _)| *name == value).map(|(_, choice)| *choice)
    }

    fn name(self) -> &'static str {
        Self::VALUES.iter().find(|(_, choice)| *choice == self).map_or("", |(name, _)| name)
    }
}

impl Choice for SslMode {
    const VALUES: &'static [(&'static str, Self)] = &[
        ("disable", Self::Disable),
        ("allow", Self::Allow),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];
}

impl Choice for SslNegotiation {
    const VALUES: &'static [(&'static str, Self)] = &[("postgres", Self::Postgres), ("direct", Self::Direct)];
}

impl Choice for ChannelBinding {
    const VALUES: &'static [(&'static str, Self)] =
        &[("disable", Self::Disable), ("prefer", Self::Prefer), ("require", Self::Require)];
}

impl Choice for TargetSessionAttrs {
    const VALUES: &'static [(&'static str, Self)] = &[
        ("any", Self::Any),
        ("read-write", Self::ReadWrite),
        ("read-only", Self::ReadOnly),
        ("primary", Self::Primary),
        ("standby", Self::Standby),
        ("prefer-standby", Self::PreferStandby),
    ];
}

impl std::fmt::Display for SslMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::fmt::Display for TargetSessionAttrs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
