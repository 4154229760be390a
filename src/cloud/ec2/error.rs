use crate::cloud::http;

/// Result of everything about machines.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a machine could not be had, found or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("no key for AWS: {0}")]
    Credentials(String),
    #[error("EC2 {action}: {source}")]
    Api { action: &'static str, source: http::Error },
    #[error("EC2 {action}: the reply is not understood: {problem}")]
    Reply { action: &'static str, problem: String },
    #[error("EC2 in {region} has no machine of {kinds} left now: {message}")]
    NoCapacity { region: String, kinds: String, message: String },
    #[error("{0}")]
    Usage(String),
    #[error("no machine of the run {run} is there in {region}")]
    NotThere { run: String, region: String },
    #[error("the run {run} has {} machines in {region}: {}", .ids.len(), .ids.join(", "))]
    Several { run: String, region: String, ids: Vec<String> },
    #[error("{what} took longer than {waited_s} s")]
    TooSlow { what: String, waited_s: u64 },
    /// The machine said that it could not make itself ready.
    #[error("the machine could not be made ready: {0}")]
    NotReady(String),
    #[error("the machine {id} is {state}")]
    Gone { id: String, state: String },
    #[error("the machine's own key could not be learned from EC2: {0}")]
    HostKey(String),
    #[error(transparent)]
    Ssh(#[from] crate::cloud::ssh::Error),
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error("interrupted")]
    Cancelled,
}

impl Error {
    /// EC2's own name of the error.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Api { source, .. } => source.id(),
            _ => None,
        }
    }

    /// Whether the same may succeed a little later.
    #[must_use]
    pub fn passes(&self) -> bool {
        match self {
            Self::Ssh(error) => error.passes(),
            Self::Api { source, .. } => match &source.kind {
                http::ErrorKind::NotSent(_) | http::ErrorKind::NoReply(_) => true,
                http::ErrorKind::Refused { status, .. } => *status >= 500,
                _ => false,
            },
            _ => false,
        }
    }

    /// The way out, where one is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Credentials(_) => {
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or `aws configure sso` and `aws sso login`"
            }
            Self::NoCapacity { .. } => "name other types, the best first: --type i4i.4xlarge,i7i.4xlarge,i3.4xlarge",
            Self::NotThere { .. } => {
                "`pgconvoy ec2 sweep` lists the machines of every run; --region names another region"
            }
            Self::Several { .. } => "`pgconvoy ec2 down` ends all of them",
            Self::HostKey(_) => {
                "EC2 shows it some minutes after the start: try again, or take what the machine says with --trust-first-key"
            }
            Self::NotReady(_) => {
                "see /var/log/cloud-init-output.log on the machine, or end it with `pgconvoy ec2 down`"
            }
            Self::TooSlow { .. } => {
                "what was asked for may still come or be there: `pgconvoy ec2 down` ends it; an image that runs no user \
                 data (cloud-init) never ends by itself"
            }
            Self::Ssh(error) => return error.hint(),
            Self::Api { .. } => match self.code()? {
                "UnauthorizedOperation" => "the key may not do that: docs/EC2.md lists the permissions that are needed",
                "AuthFailure" | "InvalidClientTokenId" => {
                    "AWS does not know this key, or this machine's clock is wrong"
                }
                "RequestExpired" => "this machine's clock is wrong, or the session has expired: `aws sso login`",
                "VPCIdNotSpecified" | "MissingParameter" => {
                    "this account has no default network: name --subnet and --security-group"
                }
                "VcpuLimitExceeded" | "InstanceLimitExceeded" => {
                    "the account's quota is used up: a smaller --type, or ask AWS for more (Service Quotas, EC2)"
                }
                "OptInRequired" => "the account is not subscribed to that image or region",
                "Unsupported" | "InvalidParameterValue" => {
                    "that type may not be sold in this region or zone: try another --type"
                }
                _ => return None,
            },
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
