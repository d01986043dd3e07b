//! Asks the public listener whether the gateway and, through it, the control plane are well.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use lambda_transport::{Protocol, Roots, tls};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::layout::{Layout, Settings};

const BOUND: Duration = Duration::from_secs(5);

/// An error that says what was seen.
pub(crate) async fn probe(layout: &Layout, settings: &Settings) -> Result<()> {
    let config = tls::client_config(&Roots::load(&layout.customer("ca.pem"))?, Protocol::Http1)?;
    let status = tokio::time::timeout(BOUND, status_line(settings.gateway, config))
        .await
        .with_context(|| format!("the gateway did not answer within {} s", BOUND.as_secs()))??;
    if !status.starts_with("HTTP/1.1 200") {
        bail!("the gateway answered `{status}`");
    }
    Ok(())
}

async fn status_line(address: SocketAddr, config: Arc<ClientConfig>) -> Result<String> {
    let stream = TcpStream::connect(address).await.context("the gateway does not listen")?;
    let name = ServerName::try_from("localhost")?;
    let mut stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.context("TLS")?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut head = [0u8; 64];
    let read = stream.read(&mut head).await.context("reading the answer")?;
    let text = String::from_utf8_lossy(head.get(..read).unwrap_or_default()).into_owned();
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
