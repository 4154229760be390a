//! What a machine does at its first boot.

/// What goes into the script. None of it is secret: whoever may describe the instance can read it.
#[derive(Clone, Debug)]
pub struct UserData {
    /// From the first boot to the end, in minutes.
    pub minutes: u32,
    /// Major version of pg_dump.
    pub pg_client: u32,
    /// Who logs in.
    pub user: String,
}

const SCRIPT: &str = include_str!("user_data.sh");
/// AWS takes so much before base64 (EC2 User Guide, "Run commands when you launch an EC2 instance").
pub(super) const BYTES_MAX: usize = 16 * 1024;

impl UserData {
    /// The script. `user` must be a plain name.
    #[must_use]
    pub fn script(&self) -> String {
        let Self { minutes, pg_client, user } = self;
        let (first, rest) = SCRIPT.split_once('\n').unwrap_or((SCRIPT, ""));
        format!("{first}\nMINUTES={minutes} PG_CLIENT={pg_client} WHO={user}\n{rest}")
    }
}
