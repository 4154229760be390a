//! The login: trust, password, MD5, SCRAM-SHA-256 with or without channel binding
//! (`pg_fe_sendauth` in libpq's `fe-auth.c`).

use fallible_iterator::FallibleIterator as _;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use super::failure::{Failure, password_hint};
use super::session::Session;
use super::startup::decode_fields;
use crate::pg::conninfo::{ChannelBinding, Secret};
use crate::pg::{Error, ErrorKind, tls};

/// Which proof of identity the server has accepted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bound {
    No,
    Yes,
}

/// Answers the server's requests until it says that we are in.
pub(super) fn authenticate(session: &mut Session<'_>) -> Result<(), Failure> {
    let required = session.info.channel_binding == ChannelBinding::Require;
    let mut bound = Bound::No;
    loop {
        match session.receive()? {
            Message::AuthenticationOk if required && bound == Bound::No => return Err(unbound(session)),
            Message::AuthenticationOk => return Ok(()),
            Message::AuthenticationCleartextPassword if !required => {
                let password = password(session)?;
                session.send(|out| frontend::password_message(password.expose().as_bytes(), out))?;
            }
            Message::AuthenticationMd5Password(body) if !required => {
                let password = password(session)?;
                let hash = md5_hash(session.info.user().as_bytes(), password.expose().as_bytes(), body.salt());
                session.send(|out| frontend::password_message(hash.as_bytes(), out))?;
            }
            Message::AuthenticationCleartextPassword | Message::AuthenticationMd5Password(_) => {
                return Err(unbound(session));
            }
            Message::AuthenticationSasl(body) => bound = scram(session, &body)?,
            Message::ErrorResponse(body) => {
                let refusal = decode_fields(body.fields());
                return Err(Failure::login(session.info, &session.endpoint, &refusal, session.login_begun));
            }
            Message::AuthenticationGss
            | Message::AuthenticationSspi
            | Message::AuthenticationKerberosV5
            | Message::AuthenticationScmCredential => {
                return Err(refuse(session, "the server asks for a way of login that is not supported (GSSAPI, SSPI)"));
            }
            _ => return Err(session.surprise("an unexpected answer to the login")),
        }
    }
}

fn password(session: &mut Session<'_>) -> Result<Secret, Failure> {
    session.login_begun = true;
    let host = session.info.hosts().get(session.endpoint.host_index);
    match host.and_then(|host| host.password.as_ref()) {
        Some(password) => Ok(password.secret.clone()),
        None => Err(refused(session, "a password is needed", Some(password_hint(session.info, &session.endpoint)))),
    }
}

fn refuse(session: &Session<'_>, message: &str) -> Failure {
    refused(session, message, None)
}

fn refused(session: &Session<'_>, message: &str, hint: Option<String>) -> Failure {
    let address = session.info.host_address(session.endpoint.host_index);
    let kind = ErrorKind::Auth { address, message: message.into(), sqlstate: None, hint };
    Failure::stop(Error::new(session.info.side(), kind))
}

fn unbound(session: &Session<'_>) -> Failure {
    refused(
        session,
        "channel_binding=require, but the server does not ask for SCRAM with channel binding over TLS",
        Some("channel_binding=prefer does without; the server needs TLS, and a scram-sha-256 password".into()),
    )
}

fn scram(session: &mut Session<'_>, offer: &AuthenticationSaslBody) -> Result<Bound, Failure> {
    let (mut plain, mut plus) = (false, false);
    let mut mechanisms = offer.mechanisms();
    while let Some(mechanism) = mechanisms.next().map_err(|error| session.broken(error))? {
        plain |= mechanism == sasl::SCRAM_SHA_256;
        plus |= mechanism == sasl::SCRAM_SHA_256_PLUS;
    }
    if plus && !session.transport.is_encrypted() {
        return Err(refuse(session, "the server offers channel binding without TLS"));
    }
    let wanted = session.info.channel_binding != ChannelBinding::Disable;
    let end_point = session.transport.server_certificate().filter(|_| wanted).and_then(tls::server_end_point);
    let (mechanism, binding, bound) = match end_point {
        Some(data) if plus => (sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(data), Bound::Yes),
        _ if session.info.channel_binding == ChannelBinding::Require => return Err(unbound(session)),
        // Says that we could have: a server that could too then notices that its offer was taken away.
        Some(_) if plain => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested(), Bound::No),
        _ if plain => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported(), Bound::No),
        _ => return Err(refuse(session, "the server asks for a SASL mechanism that is not supported")),
    };
    let password = password(session)?;
    let mut scram = ScramSha256::new(password.expose().as_bytes(), binding);
    session.send(|out| frontend::sasl_initial_response(mechanism, scram.message(), out))?;
    match session.receive()? {
        Message::AuthenticationSaslContinue(body) => {
            scram.update(body.data()).map_err(|error| refuse(session, &format!("SCRAM failed: {error}")))?;
        }
        other => return Err(scram_surprise(session, &other)),
    }
    session.send(|out| frontend::sasl_response(scram.message(), out))?;
    match session.receive()? {
        // The server proves that it knows the password too.
        Message::AuthenticationSaslFinal(body) => {
            scram.finish(body.data()).map_err(|error| refuse(session, &format!("SCRAM failed: {error}")))?;
        }
        other => return Err(scram_surprise(session, &other)),
    }
    Ok(bound)
}

fn scram_surprise(session: &Session<'_>, message: &Message) -> Failure {
    match message {
        Message::ErrorResponse(body) => {
            Failure::login(session.info, &session.endpoint, &decode_fields(body.fields()), session.login_begun)
        }
        _ => session.surprise("an unexpected answer to SCRAM"),
    }
}
