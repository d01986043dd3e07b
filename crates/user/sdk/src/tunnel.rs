//! A blind byte tunnel to a TCP port of an instance: HTTP/1.1 upgrade through the gateway.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use lambda_types::{Code, InstanceId, Problem};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{Client, Error, tls};

/// Bound of all attempts together.
const SETUP: Duration = Duration::from_secs(30);

/// Pause between attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// The upgrade token.
const PROTOCOL: &str = "lambda-tunnel";

/// Host to connect to, its port, and what the `Host` header says.
fn authority(endpoint: &str) -> Result<(String, u16, String), Error> {
    let bad = || Error::Usage(format!("`{endpoint}` is not an endpoint: expected https://HOST[:PORT]"));
    let uri: http::Uri = endpoint.parse().map_err(|_| bad())?;
    let host = uri.host().ok_or_else(bad)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let header = uri.authority().ok_or_else(bad)?.to_string();
    Ok((host.to_owned(), uri.port_u16().unwrap_or(443), header))
}

/// Opens a tunnel. What comes out of it is exactly what the instance's port sends. A gateway or a port that does not
/// answer yet is tried again.
///
/// # Errors
/// When the gateway is not reachable or refuses, or the instance does not answer on that port.
pub async fn open(
    client: &Client,
    instance: InstanceId,
    port: u16,
) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, Error> {
    let mut last = format!("no answer from {}", client.endpoint());
    let seen = &mut last;
    let attempts = async {
        loop {
            match connect(client, instance, port).await {
                Err(error) if is_passing(&error) => *seen = error.to_string(),
                result => return result,
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    match tokio::time::timeout(SETUP, attempts).await {
        Ok(result) => result,
        Err(_) => Err(Error::Timeout { what: format!("the tunnel to {instance}"), waited: SETUP, last }),
    }
}

/// Whether another attempt may succeed.
fn is_passing(error: &Error) -> bool {
    matches!(error, Error::Unreachable { .. })
        || matches!(error.code(), Some(Code::Unavailable | Code::Timeout | Code::RateLimited))
}

async fn connect(
    client: &Client,
    instance: InstanceId,
    port: u16,
) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, Error> {
    let unreachable =
        |last: String| Error::Unreachable { endpoint: client.endpoint().to_owned(), tried: Duration::ZERO, last };
    let (host, tcp_port, host_header) = authority(client.endpoint())?;
    let tcp = TcpStream::connect((host.as_str(), tcp_port)).await.map_err(|error| unreachable(error.to_string()))?;
    tcp.set_nodelay(true).map_err(|error| unreachable(error.to_string()))?;
    let name = ServerName::try_from(host.clone())
        .map_err(|_| Error::Usage(format!("`{host}` is neither a DNS name nor an address")))?;
    let config = Arc::new(tls::client_config(client.ca(), &[b"http/1.1"])?);
    let stream = TlsConnector::from(config).connect(name, tcp).await.map_err(|error| unreachable(error.to_string()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    // Ends with the tunnel; its error is seen by the tunnel's reader.
    tokio::spawn(connection.with_upgrades());
    let request = Request::get(format!("/v1/instances/{instance}/tunnel?port={port}"))
        .header(header::HOST, host_header)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, PROTOCOL)
        .header(header::AUTHORIZATION, client.authorization().clone())
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| Error::Protocol(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(|error| unreachable(error.to_string()))?;
    let status = response.status();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        let body = Limited::new(response.into_body(), 64 * 1024).collect().await;
        let bytes = body.map(|body| body.to_bytes()).unwrap_or_default();
        return Err(serde_json::from_slice::<Problem>(&bytes).map_or_else(
            |_| Error::Protocol(format!("the gateway answered {status} to a tunnel request")),
            |problem| Error::Api(Box::new(problem)),
        ));
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(|error| unreachable(error.to_string()))?;
    Ok(TokioIo::new(upgraded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_give_host_and_port() {
        assert_eq!(authority("https://localhost:8443").unwrap(), ("localhost".into(), 8443, "localhost:8443".into()));
        assert_eq!(authority("https://[::1]:8443").unwrap(), ("::1".into(), 8443, "[::1]:8443".into()));
        assert_eq!(authority("https://cloud.example").unwrap(), ("cloud.example".into(), 443, "cloud.example".into()));
        assert!(authority("not an endpoint").is_err());
    }
}
