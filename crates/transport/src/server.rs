//! The accept loop of every HTTP listener.
//!
//! One task per connection, bounded in number, in total and for each client address. A connection costs its peer:
//! the handshake, the header section and idleness are bounded by clocks, the header section by size. The protocol
//! follows ALPN, so no byte is guessed. On shutdown, connections finish what is in flight and are dropped after
//! [`Limits::drain`].

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use lambda_types::Code;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::ServiceExt as _;

use crate::{ApiError, PeerIdentity, Shutdown};

/// Over this, hyper answers 431 or drops the connection itself; below it and over [`Limits::header_bytes`] the
/// client gets a problem body.
const HARD_HEADER_BYTES: usize = 64 * 1024;

/// Bounds of a listener.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once; further ones wait in the kernel's queue.
    pub connections: usize,
    /// Connections at once from one address; further ones are closed.
    pub connections_per_address: usize,
    /// Longest TLS handshake.
    pub handshake: Duration,
    /// Longest time to send a header section on HTTP/1.1; it includes the pause before the next request, so a shorter
    /// one than [`Self::idle`] decides when a kept connection is closed. HTTP/2 has no such clock: a header section that
    /// drips in is bounded by its size, and by `idle` while no other request of the connection is in flight.
    pub header_read: Duration,
    /// Largest header section: the target and every name and value.
    pub header_bytes: usize,
    /// A connection without a request in flight is closed after this.
    pub idle: Duration,
    /// How long a shutdown waits for requests in flight.
    pub drain: Duration,
    /// Concurrent HTTP/2 streams of a connection.
    pub streams: u32,
}

impl Limits {
    /// For a listener that strangers reach.
    #[must_use]
    pub fn public() -> Self {
        Self {
            connections: 4096,
            connections_per_address: 256,
            handshake: Duration::from_secs(5),
            header_read: Duration::from_secs(10),
            header_bytes: 16 * 1024,
            idle: Duration::from_secs(60),
            drain: Duration::from_secs(10),
            streams: 100,
        }
    }

    /// For a listener that only our own processes reach.
    #[must_use]
    pub fn internal() -> Self {
        Self {
            connections: 4096,
            connections_per_address: 4096,
            streams: 4096,
            idle: Duration::from_secs(300),
            drain: Duration::from_secs(5),
            ..Self::public()
        }
    }
}

/// Request extension: where the connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddress(pub SocketAddr);

/// Request extension: keeps the connection counted against the limits. Whoever takes over an upgraded connection
/// holds a clone for as long as it lives.
#[derive(Clone)]
pub struct ConnectionGuard {
    _slot: Arc<(OwnedSemaphorePermit, AddressSlot)>,
}

impl std::fmt::Debug for ConnectionGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConnectionGuard")
    }
}

type Addresses = Arc<std::sync::Mutex<HashMap<IpAddr, usize>>>;

struct AddressSlot {
    addresses: Addresses,
    address: IpAddr,
}

impl AddressSlot {
    fn take(addresses: &Addresses, address: IpAddr, most: usize) -> Option<Self> {
        let mut counts = lock(addresses);
        let count = counts.entry(address).or_insert(0);
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Self { addresses: addresses.clone(), address })
    }
}

impl Drop for AddressSlot {
    fn drop(&mut self) {
        let mut counts = lock(&self.addresses);
        if let Some(count) = counts.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

fn lock(addresses: &Addresses) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
    addresses.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Serves `router` on `listener` until `shutdown`, then drains. Every request carries [`PeerAddress`] and
/// [`ConnectionGuard`] as extensions and, on mutual-TLS listeners, [`PeerIdentity`]. A mutual-TLS peer whose
/// certificate carries no identity is disconnected before its first request.
pub async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, router: Router, limits: Limits, shutdown: Shutdown) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let addresses = Addresses::default();
    let acceptor = TlsAcceptor::from(tls);
    let limits = Arc::new(limits);
    let mut tasks = JoinSet::new();
    loop {
        let (stream, address, permit) = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
            (permit, accepted) = accept(&listener, &slots) => match accepted {
                Ok((stream, address)) => (stream, address, permit),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection; trying again");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let Some(slot) = AddressSlot::take(&addresses, address.ip(), limits.connections_per_address) else {
            tracing::debug!("too many connections from one address");
            continue;
        };
        let connection = Connection {
            address,
            guard: ConnectionGuard { _slot: Arc::new((permit, slot)) },
            limits: limits.clone(),
            router: router.clone(),
            shutdown: shutdown.clone(),
        };
        tasks.spawn(connection.run(acceptor.clone(), stream));
    }
    drop(listener);
    let drained = tokio::time::timeout(limits.drain, async { while tasks.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::info!(connections = tasks.len(), "dropping connections that did not finish in time");
        tasks.shutdown().await;
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> (OwnedSemaphorePermit, std::io::Result<(TcpStream, SocketAddr)>) {
    let Ok(permit) = slots.clone().acquire_owned().await else {
        // The semaphore is never closed.
        return std::future::pending().await;
    };
    (permit, listener.accept().await)
}

struct Connection {
    address: SocketAddr,
    guard: ConnectionGuard,
    limits: Arc<Limits>,
    router: Router,
    shutdown: Shutdown,
}

impl Connection {
    async fn run(self, acceptor: TlsAcceptor, stream: TcpStream) {
        // Latency of small messages matters more here than their number.
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let handshake = tokio::time::timeout(self.limits.handshake, acceptor.accept(stream));
        let stream = tokio::select! {
            () = self.shutdown.cancelled() => return,
            result = handshake => match result {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake refused"),
                Err(_) => return tracing::debug!("TLS handshake took too long"),
            },
        };
        let peer = match identify(&stream) {
            Ok(peer) => peer,
            Err(error) => return tracing::warn!(%error, "peer without an identity"),
        };
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let activity = Arc::new(Activity::new());
        let context = Arc::new(Context { address: self.address, peer, guard: self.guard, limits: self.limits.clone() });
        let service = {
            let (router, activity) = (self.router, activity.clone());
            hyper::service::service_fn(move |request| {
                handle(router.clone(), context.clone(), activity.clone(), request)
            })
        };
        let io = TokioIo::new(stream);
        if http2 {
            let connection = http2_builder(&self.limits).serve_connection(io, service);
            drive(pin!(connection), |c| c.graceful_shutdown(), &activity, &self.limits, &self.shutdown).await;
        } else {
            let connection = http1_builder(&self.limits).serve_connection(io, service).with_upgrades();
            drive(pin!(connection), |c| c.graceful_shutdown(), &activity, &self.limits, &self.shutdown).await;
        }
    }
}

fn identify(stream: &TlsStream<TcpStream>) -> Result<Option<PeerIdentity>, crate::peer::PeerError> {
    let connection = stream.get_ref().1;
    match connection.peer_certificates() {
        None => Ok(None),
        Some(_) => PeerIdentity::from_connection(connection).map(Some),
    }
}

fn http1_builder(limits: &Limits) -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read)
        .max_buf_size(HARD_HEADER_BYTES)
        .half_close(false);
    builder
}

fn http2_builder(limits: &Limits) -> hyper::server::conn::http2::Builder<TokioExecutor> {
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(HARD_HEADER_BYTES as u32)
        .keep_alive_interval(Duration::from_secs(15))
        .keep_alive_timeout(Duration::from_secs(10));
    builder
}

/// Requests in flight on a connection, and when the last one ended.
struct Activity {
    started: Instant,
    in_flight: AtomicUsize,
    quiet_since_ms: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self { started: Instant::now(), in_flight: AtomicUsize::new(0), quiet_since_ms: AtomicU64::new(0) }
    }

    fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        InFlight(self.clone())
    }

    /// When the connection will have been idle for `idle`, if nothing happens.
    fn expiry(&self, idle: Duration) -> Instant {
        if self.in_flight.load(Ordering::Acquire) > 0 {
            return Instant::now() + idle;
        }
        self.started + Duration::from_millis(self.quiet_since_ms.load(Ordering::Acquire)) + idle
    }
}

struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        let elapsed = u64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.quiet_since_ms.store(elapsed, Ordering::Release);
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Polls a connection to its end; asks it to finish when it idles or the process stops, and gives up on it when it
/// does not.
async fn drive<C, E>(
    mut connection: Pin<&mut C>,
    finish: impl Fn(Pin<&mut C>),
    activity: &Activity,
    limits: &Limits,
    shutdown: &Shutdown,
) where
    C: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let mut deadline: Option<Instant> = None;
    loop {
        let wake = deadline.unwrap_or_else(|| activity.expiry(limits.idle));
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "connection ended");
                }
                return;
            }
            () = shutdown.cancelled(), if deadline.is_none() => {
                finish(connection.as_mut());
                deadline = Some(Instant::now() + limits.drain);
            }
            () = tokio::time::sleep_until(wake) => {
                if deadline.is_some() {
                    return;
                }
                if activity.expiry(limits.idle) <= Instant::now() {
                    finish(connection.as_mut());
                    deadline = Some(Instant::now() + limits.drain);
                }
            }
        }
    }
}

struct Context {
    address: SocketAddr,
    peer: Option<PeerIdentity>,
    guard: ConnectionGuard,
    limits: Arc<Limits>,
}

async fn handle(
    router: Router,
    context: Arc<Context>,
    activity: Arc<Activity>,
    request: Request<Incoming>,
) -> Result<Response, Infallible> {
    let _in_flight = activity.begin();
    if header_bytes(&request) > context.limits.header_bytes {
        let detail = format!("the request target and headers may take {} bytes", context.limits.header_bytes);
        return Ok(ApiError::new(Code::HeadersTooLarge, detail).into_response());
    }
    let mut request = request.map(Body::new);
    let extensions = request.extensions_mut();
    extensions.insert(PeerAddress(context.address));
    extensions.insert(context.guard.clone());
    if let Some(peer) = &context.peer {
        extensions.insert(peer.clone());
    }
    router.oneshot(request).await
}

fn header_bytes<B>(request: &Request<B>) -> usize {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let headers: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    target + headers
}
