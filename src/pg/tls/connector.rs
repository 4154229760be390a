//! The same TLS for the control plane: tokio-rustls below tokio-postgres.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as RustlsStream;

use super::server_end_point;

/// Begins TLS on a connection of the control plane.
#[derive(Clone)]
pub(crate) struct Connector {
    pub config: Arc<ClientConfig>,
    pub name: ServerName<'static>,
    /// Whether the login may be bound to the TLS session.
    pub bind_channel: bool,
}

/// An encrypted connection of the control plane.
pub(crate) struct ControlTls<S> {
    stream: RustlsStream<S>,
    bind_channel: bool,
}

impl<S> TlsConnect<S> for Connector
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = ControlTls<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<ControlTls<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        let Self { config, name, bind_channel } = self;
        Box::pin(async move {
            let stream = TlsConnector::from(config).connect(name, stream).await?;
            Ok(ControlTls { stream, bind_channel })
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for ControlTls<S> {
    fn channel_binding(&self) -> ChannelBinding {
        let certificate = self.stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        match certificate.filter(|_| self.bind_channel).and_then(|certificate| server_end_point(certificate)) {
            Some(data) => ChannelBinding::tls_server_end_point(data),
            None => ChannelBinding::none(),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ControlTls<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ControlTls<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
