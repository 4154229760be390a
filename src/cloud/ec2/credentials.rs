use std::process::{Command, Stdio};

use super::{Error, Result};
use crate::model::Secret;

/// Who asks AWS.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub access_key_id: String,
    pub secret_access_key: Secret,
    pub session_token: Option<Secret>,
}

impl Credentials {
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`, unless `AWS_PROFILE` is set too; else what
    /// `aws configure export-credentials` says: it knows profiles, single sign-on and roles.
    ///
    /// # Errors
    /// Neither has any; half of a key; `aws` says something else.
    pub fn find() -> Result<Self> {
        Self::find_with(|name| std::env::var(name).ok().filter(|value| !value.is_empty()), "aws")
    }

    fn find_with(lookup: impl Fn(&str) -> Option<String>, aws: &str) -> Result<Self> {
        match (lookup("AWS_ACCESS_KEY_ID"), lookup("AWS_SECRET_ACCESS_KEY")) {
            (Some(id), Some(secret)) => Ok(Self {
                access_key_id: id,
                secret_access_key: Secret::new(secret),
                session_token: lookup("AWS_SESSION_TOKEN").map(Secret::new),
            }),
            (None, None) => Self::from_program(aws),
            _ => Err(Error::Credentials("only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set".into())),
        }
    }

    fn from_program(aws: &str) -> Result<Self> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Exported {
            access_key_id: String,
            secret_access_key: String,
            session_token: Option<String>,
        }
        let output = Command::new(aws)
            .args(["configure", "export-credentials", "--format", "process"])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .map_err(|error| {
                Error::Credentials(format!("AWS_ACCESS_KEY_ID is not set, and `aws` does not run: {error}"))
            })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.trim().lines().last().unwrap_or("it gave no reason").to_owned();
            return Err(Error::Credentials(format!(
                "AWS_ACCESS_KEY_ID is not set, and `aws configure export-credentials` failed: {said}"
            )));
        }
        // What it says is not repeated: it holds the key.
        let exported: Exported = serde_json::from_slice(&output.stdout).map_err(|_| {
            Error::Credentials("`aws configure export-credentials` did not say what its format has".into())
        })?;
        Ok(Self {
            access_key_id: exported.access_key_id,
            secret_access_key: Secret::new(exported.secret_access_key),
            session_token: exported.session_token.map(Secret::new),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn program(text: &str) -> (tempfile::TempDir, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("aws");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = path.to_str().unwrap().to_owned();
        (directory, path)
    }

    #[test]
    fn the_environment_goes_first() {
        let full = |name: &str| match name {
            "AWS_ACCESS_KEY_ID" => Some("AKID".to_owned()),
            "AWS_SECRET_ACCESS_KEY" => Some("hidden".to_owned()),
            "AWS_SESSION_TOKEN" => Some("token".to_owned()),
            _ => None,
        };
        let found = Credentials::find_with(full, "/nonexistent").unwrap();
        assert_eq!(found.access_key_id, "AKID");
        assert_eq!(found.session_token.as_ref().unwrap().expose(), "token");
        assert!(!format!("{found:?}").contains("hidden"));
        let half = |name: &str| full(name).filter(|_| name == "AWS_ACCESS_KEY_ID");
        assert!(Credentials::find_with(half, "/nonexistent").unwrap_err().to_string().contains("only one of"));
    }

    #[test]
    fn else_the_aws_program_is_asked() {
        let (_keep, aws) = program(
            r#"[ "$*" = "configure export-credentials --format process" ] || exit 9
               echo '{"Version":1,"AccessKeyId":"ASIA","SecretAccessKey":"hidden","SessionToken":"t","Expiration":"x"}'"#,
        );
        let found = Credentials::find_with(|_| None, &aws).unwrap();
        assert_eq!((found.access_key_id.as_str(), found.secret_access_key.expose()), ("ASIA", "hidden"));

        let (_keep, aws) = program("echo 'Unable to locate credentials' >&2; exit 255");
        let error = Credentials::find_with(|_| None, &aws).unwrap_err().to_string();
        assert!(error.ends_with("failed: Unable to locate credentials"), "{error}");

        let (_keep, aws) = program(r#"echo '{"SecretAccessKey":"hidden"}'"#);
        let error = format!("{:?}", Credentials::find_with(|_| None, &aws).unwrap_err());
        assert!(!error.contains("hidden"), "{error}");
    }
}
