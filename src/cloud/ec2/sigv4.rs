//! Signature Version 4 of requests without a query (AWS General Reference, "Create a signed AWS API request").

use std::fmt::Write as _;

use ring::{digest, hmac};
use time::OffsetDateTime;
use time::macros::format_description;

use super::credentials::Credentials;
use crate::cloud::http::{Request, Sign};
use crate::model::Secret;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What is signed, and for where.
struct Signable<'a> {
    method: &'a str,
    /// Normalised and encoded.
    path: &'a str,
    /// Lower case names, trimmed values, in the order of the names.
    headers: &'a [(&'a str, &'a str)],
    body: &'a [u8],
}

#[derive(Clone, Copy)]
struct Scope<'a> {
    /// `YYYYMMDDTHHMMSSZ`
    time: &'a str,
    region: &'a str,
    service: &'a str,
}

impl Scope<'_> {
    fn date(&self) -> &str {
        &self.time[..8]
    }

    fn text(&self) -> String {
        format!("{}/{}/{}/aws4_request", self.date(), self.region, self.service)
    }
}

/// The value of the header `Authorization`.
fn authorization(signable: &Signable<'_>, scope: Scope<'_>, credentials: &Credentials) -> String {
    let names: Vec<&str> = signable.headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let mut canonical = format!("{}\n{}\n\n", signable.method, signable.path);
    for (name, value) in signable.headers {
        let _ = writeln!(canonical, "{name}:{value}");
    }
    let _ = write!(canonical, "\n{names}\n{}", sha256_hex(signable.body));
    let to_sign = format!("{ALGORITHM}\n{}\n{}\n{}", scope.time, scope.text(), sha256_hex(canonical.as_bytes()));
    let secret = format!("AWS4{}", credentials.secret_access_key.expose());
    let key = [scope.date(), scope.region, scope.service, "aws4_request"]
        .into_iter()
        .fold(secret.into_bytes(), |key, part| hmac(&key, part.as_bytes()));
    format!(
        "{ALGORITHM} Credential={}/{}, SignedHeaders={names}, Signature={}",
        credentials.access_key_id,
        scope.text(),
        hex(&hmac(&key, to_sign.as_bytes()))
    )
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Signs the requests of one service in one region.
pub(super) struct Signer {
    pub credentials: Credentials,
    pub region: String,
    pub service: &'static str,
}

impl Sign for Signer {
    fn headers(&self, host: &str, request: &Request) -> Result<Vec<(String, Secret)>, String> {
        let format = format_description!("[year][month][day]T[hour][minute][second]Z");
        let time = OffsetDateTime::now_utc().format(format).map_err(|error| format!("the time: {error}"))?;
        let token = self.credentials.session_token.as_ref().map(Secret::expose);
        let mut headers = vec![("host", host), ("x-amz-date", time.as_str())];
        headers.extend(token.map(|token| ("x-amz-security-token", token)));
        let signable = Signable {
            method: request.method().as_str(),
            path: request.path(),
            headers: &headers,
            body: request.body(),
        };
        let scope = Scope { time: &time, region: &self.region, service: self.service };
        let authorization = authorization(&signable, scope, &self.credentials);
        let mut signed = vec![("authorization".to_owned(), Secret::new(authorization))];
        signed.push(("x-amz-date".into(), Secret::new(time.as_str())));
        signed.extend(token.map(|token| ("x-amz-security-token".into(), Secret::new(token))));
        Ok(signed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of AWS's published test suite for signatures.
    fn example() -> Credentials {
        Credentials {
            access_key_id: "AKIDEXAMPLE".into(),
            secret_access_key: Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            session_token: None,
        }
    }

    fn signed(method: &str, headers: &[(&str, &str)], body: &str) -> (String, String) {
        let scope = Scope { time: "20150830T123600Z", region: "us-east-1", service: "service" };
        let signable = Signable { method, path: "/", headers, body: body.as_bytes() };
        let text = authorization(&signable, scope, &example());
        let (head, signature) = text.split_once(", Signature=").unwrap();
        let (credential, names) = head.split_once(", SignedHeaders=").unwrap();
        assert_eq!(credential, "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request");
        (names.to_owned(), signature.to_owned())
    }

    const DATE: (&str, &str) = ("x-amz-date", "20150830T123600Z");
    const HOST: (&str, &str) = ("host", "example.amazonaws.com");

    #[test]
    fn get_vanilla_of_the_published_suite() {
        let (names, signature) = signed("GET", &[HOST, DATE], "");
        assert_eq!(names, "host;x-amz-date");
        assert_eq!(signature, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31");
    }

    #[test]
    fn get_vanilla_with_session_token_of_the_published_suite() {
        let token = "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267";
        let (names, signature) = signed("GET", &[HOST, DATE, ("x-amz-security-token", token)], "");
        assert_eq!(names, "host;x-amz-date;x-amz-security-token");
        assert_eq!(signature, "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8");
    }

    #[test]
    fn post_x_www_form_urlencoded_of_the_published_suite() {
        let hash = "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e";
        let headers = [
            ("content-length", "13"),
            ("content-type", "application/x-www-form-urlencoded"),
            HOST,
            ("x-amz-content-sha256", hash),
            DATE,
        ];
        let (_, signature) = signed("POST", &headers, "Param1=value1");
        assert_eq!(sha256_hex(b"Param1=value1"), hash);
        assert_eq!(signature, "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b");
    }

    #[test]
    fn a_request_is_signed_with_the_token_and_shows_neither() {
        let credentials = Credentials { session_token: Some(Secret::new("TOKEN")), ..example() };
        let signer = Signer { credentials, region: "eu-west-1".into(), service: "ec2" };
        let headers = signer.headers("ec2.eu-west-1.amazonaws.com", &Request::get("/")).unwrap();
        let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["authorization", "x-amz-date", "x-amz-security-token"]);
        assert!(headers[0].1.expose().contains("SignedHeaders=host;x-amz-date;x-amz-security-token, Signature="));
        assert!(headers[0].1.expose().contains("/eu-west-1/ec2/aws4_request"));
        assert!(!format!("{headers:?}").contains("TOKEN"));
    }
}
