//! Tunnels: the gateway names an instance and a port, and gets a byte pipe into the instance's segment.
//!
//! Mutual TLS, and the peer must be a gateway. The connection to the guest is made by a socket that belongs to the
//! node's namespace, where the firewall lets it go to that instance alone. Bytes are not looked at.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use lambda_transport::{PeerIdentity, Role, Shutdown};
use lambda_types::node::{TunnelReply, TunnelRequest};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::node::Node;

/// Longest time for the handshake and the request line.
const GREETING: Duration = Duration::from_secs(5);

/// Longest time for the guest to accept.
const CONNECT: Duration = Duration::from_secs(5);

/// Longest request line.
const MAX_REQUEST_BYTES: usize = 512;

/// Tunnels at once.
const MAX_TUNNELS: usize = 1024;

/// Serves tunnels until shutdown.
pub(crate) async fn serve(node: Arc<Node>, listener: TcpListener, acceptor: TlsAcceptor, shutdown: Shutdown) {
    let slots = Arc::new(Semaphore::new(MAX_TUNNELS));
    loop {
        let (stream, permit) = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => match (accepted, slots.clone().try_acquire_owned()) {
                (Ok((stream, _)), Ok(permit)) => (stream, permit),
                (Ok(_), Err(_)) => continue,
                (Err(error), _) => {
                    tracing::warn!(%error, "cannot accept a tunnel");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (node, acceptor, shutdown) = (node.clone(), acceptor.clone(), shutdown.clone());
        tokio::spawn(async move {
            let _permit = permit;
            tokio::select! {
                () = shutdown.cancelled() => {}
                ended = tunnel(&node, &acceptor, stream) => if let Err(error) = ended {
                    tracing::debug!(%error, "tunnel ended");
                },
            }
        });
    }
}

async fn tunnel(node: &Node, acceptor: &TlsAcceptor, stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let (mut stream, request) = tokio::time::timeout(GREETING, greet(acceptor, stream)).await??;
    let target = match node.guests.get(request.instance) {
        None => Err(TunnelReply::NotHere),
        Some(segment) => {
            let address = SocketAddr::from((segment.guest, request.port));
            dial(node, address).await.map_err(|error| {
                tracing::debug!(instance = %request.instance, %error, "the guest does not accept");
                TunnelReply::Unreachable
            })
        }
    };
    let reply = target.as_ref().err().copied().unwrap_or(TunnelReply::Ok);
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.flush().await?;
    match target {
        Ok(mut guest) => drop(tokio::io::copy_bidirectional(&mut stream, &mut guest).await?),
        Err(_) => stream.shutdown().await?,
    }
    Ok(())
}

async fn greet(acceptor: &TlsAcceptor, stream: TcpStream) -> anyhow::Result<(TlsStream<TcpStream>, TunnelRequest)> {
    let mut stream = acceptor.accept(stream).await?;
    let peer = PeerIdentity::from_connection(stream.get_ref().1)?;
    anyhow::ensure!(peer.role == Role::Gateway, "{peer} may not open tunnels");
    // Byte by byte: what follows the line belongs to the guest.
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => return Ok((stream, serde_json::from_slice(&line)?)),
            byte if line.len() < MAX_REQUEST_BYTES => line.push(byte),
            _ => anyhow::bail!("the request line is too long"),
        }
    }
}

async fn dial(node: &Node, address: SocketAddr) -> anyhow::Result<TcpStream> {
    let open = || -> rustix::io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
    };
    let socket = node.namespace.run(open).await??;
    let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
    let stream = tokio::time::timeout(CONNECT, socket.connect(address)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}
