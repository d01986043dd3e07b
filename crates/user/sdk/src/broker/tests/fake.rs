//! An in-process API that can be made to fail in ways that real processes cannot be made to on demand.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use lambda_types::instance::{CreateInstance, Instance, UpdateInstance};
use lambda_types::mailbox::{Message, PostMessage, ReadMailbox};
use lambda_types::session::{FromGuest, ToGuest};
use lambda_types::{BootId, Code, Problem};
use serde_json::json;

use crate::config::ApiKey;
use crate::resolve::tests::instance;
use crate::{Client, Keyring};

/// What the API does to a request instead of serving it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Answers with this problem.
    Problem(Code),
    /// Serves it, and loses the answer.
    LoseAnswer,
    /// Changes the instance's record just before it serves it.
    TouchFirst,
}

pub(super) struct State {
    pub(super) instance: Instance,
    pub(super) guest: Option<Message>,
    pub(super) broker: Option<(u64, ToGuest)>,
    pub(super) broker_answers: u64,
    /// Method, end of the path, fault; each hits once.
    pub(super) faults: VecDeque<(Method, &'static str, Fault)>,
    /// Broker messages that were stored.
    pub(super) posts: u64,
    pub(super) updates: u64,
    /// The last creation that was asked for, and refused.
    pub(super) created: Option<CreateInstance>,
    replies: HashMap<String, (u16, serde_json::Value)>,
}

#[derive(Clone)]
pub(super) struct Fake {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) client: Client,
}

pub(super) const BOOT: BootId = BootId::from_bits(77);

impl Fake {
    /// Serves on a port that the kernel picks.
    pub(super) async fn start(keyring: &Keyring, secrets: &lambda_crypto::InstanceSecrets) -> Self {
        let mut instance = instance(1);
        instance.boot = Some(BOOT);
        instance.state = lambda_types::instance::InstanceState::Attesting;
        instance.secrets = keyring.seal(instance.id, secrets).unwrap();
        let state = Arc::new(Mutex::new(State {
            instance,
            guest: None,
            broker: None,
            broker_answers: 0,
            faults: VecDeque::new(),
            posts: 0,
            updates: 0,
            created: None,
            replies: HashMap::new(),
        }));
        let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let acceptor = acceptor(&certified);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("https://{}", listener.local_addr().unwrap());
        tokio::spawn(accept(listener, acceptor, state.clone()));
        let key = ApiKey::parse(&format!("lam_{}", "a".repeat(36))).unwrap();
        let client = Client::with(&endpoint, &certified.cert.pem(), &key).unwrap().patience(Duration::from_secs(5));
        Self { state, client }
    }

    /// The guest says something.
    pub(super) fn say(&self, body: &FromGuest) {
        let mut state = self.state.lock().unwrap();
        let seq = state.guest.as_ref().map_or(0, |message| message.seq) + 1;
        state.guest = Some(Message { boot: BOOT, seq, body: serde_json::to_vec(body).unwrap().into() });
    }

    /// The broker's latest message.
    pub(super) fn heard(&self) -> ToGuest {
        self.state.lock().unwrap().broker.clone().expect("the broker said something").1
    }

    pub(super) fn fail(&self, method: Method, path: &'static str, fault: Fault) {
        self.state.lock().unwrap().faults.push_back((method, path, fault));
    }

    /// What `GET /v1/mailboxes` would list.
    pub(super) fn waiting(&self) -> Vec<crate::api::Waiting> {
        let state = self.state.lock().unwrap();
        let guest = state.guest.iter().filter(|guest| guest.seq > state.broker_answers);
        guest
            .map(|guest| crate::api::Waiting { instance: state.instance.id, boot: guest.boot, seq: guest.seq })
            .collect()
    }
}

fn acceptor(certified: &rcgen::CertifiedKey<rcgen::KeyPair>) -> tokio_rustls::TlsAcceptor {
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    tokio_rustls::TlsAcceptor::from(Arc::new(config))
}

async fn accept(listener: tokio::net::TcpListener, acceptor: tokio_rustls::TlsAcceptor, state: Arc<Mutex<State>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, state) = (acceptor.clone(), state.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = hyper::service::service_fn(move |request| serve(state.clone(), request));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

type Reply = (u16, serde_json::Value);

fn problem(code: Code) -> Reply {
    (code.status(), serde_json::to_value(Problem::new(code, "as the test asked")).unwrap())
}

async fn serve(state: Arc<Mutex<State>>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let long_poll = parts.uri.query().is_some_and(|query| query.contains("wait=") && !query.contains("wait=0"));
    let mut reply = handle(&state, &parts, &body)?;
    if long_poll && reply.1["guest"].is_null() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        reply = handle(&state, &parts, &body)?;
    }
    let response = Response::builder().status(reply.0).body(Full::new(Bytes::from(reply.1.to_string())));
    Ok::<_, Infallible>(response.unwrap()).map_err(|never| match never {})
}

fn handle(state: &Mutex<State>, parts: &http::request::Parts, body: &[u8]) -> Result<Reply, std::io::Error> {
    let mut state = state.lock().unwrap();
    let path = parts.uri.path().to_owned();
    let hit = state.faults.iter().position(|(method, end, _)| *method == parts.method && path.ends_with(end));
    let fault = hit.and_then(|index| state.faults.remove(index)).map(|(_, _, fault)| fault);
    match fault {
        Some(Fault::Problem(code)) => return Ok(problem(code)),
        Some(Fault::TouchFirst) => touch(&mut state.instance),
        Some(Fault::LoseAnswer) | None => {}
    }
    let key = parts.headers.get("idempotency-key").map(|key| key.to_str().unwrap().to_owned());
    let earlier = key.as_ref().and_then(|key| state.replies.get(key).cloned());
    let reply = earlier.unwrap_or_else(|| route(&mut state, parts, body));
    if let Some(key) = key {
        state.replies.insert(key, reply.clone());
    }
    if fault == Some(Fault::LoseAnswer) { Err(std::io::Error::other("lost")) } else { Ok(reply) }
}

fn touch(instance: &mut Instance) {
    instance.etag = (instance.etag.parse::<u64>().unwrap() + 1).to_string();
}

fn route(state: &mut State, parts: &http::request::Parts, body: &[u8]) -> Reply {
    let query = parts.uri.query().unwrap_or_default();
    let parameter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    match (parts.method.as_str(), parts.uri.path().ends_with("/mailbox")) {
        ("GET", true) => {
            let after: u64 = parameter("after").unwrap().parse().unwrap();
            let read = ReadMailbox {
                guest: state.guest.clone().filter(|guest| guest.seq > after),
                broker_seq: state.broker.as_ref().map_or(0, |(seq, _)| *seq),
                broker_answers: state.broker_answers,
            };
            (200, serde_json::to_value(read).unwrap())
        }
        ("POST", true) => post(state, &serde_json::from_slice(body).unwrap()),
        ("GET", false) if parts.uri.path().ends_with("/instances") => (200, json!({ "items": [&state.instance] })),
        ("GET", false) => (200, serde_json::to_value(&state.instance).unwrap()),
        ("POST", false) if parts.uri.path().ends_with("/instances") => {
            state.created = Some(serde_json::from_slice(body).unwrap());
            problem(Code::MethodNotAllowed)
        }
        ("PATCH", false) => update(state, parts, serde_json::from_slice(body).unwrap()),
        _ => problem(Code::MethodNotAllowed),
    }
}

fn post(state: &mut State, message: &PostMessage) -> Reply {
    let guest = state.guest.as_ref().map_or(0, |guest| guest.seq);
    if message.boot != BOOT || message.answers != guest {
        return problem(Code::Conflict);
    }
    state.posts += 1;
    state.broker = Some((state.posts, serde_json::from_slice(message.body.as_slice()).unwrap()));
    state.broker_answers = message.answers;
    (200, json!({ "seq": state.posts }))
}

fn update(state: &mut State, parts: &http::request::Parts, update: UpdateInstance) -> Reply {
    if parts.headers["if-match"] != format!("\"{}\"", state.instance.etag) {
        return problem(Code::VersionMismatch);
    }
    touch(&mut state.instance);
    state.updates += 1;
    if let Some(secrets) = update.secrets {
        state.instance.secrets = secrets;
    }
    if let Some(metadata) = update.metadata {
        state.instance.metadata = metadata;
    }
    (200, serde_json::to_value(&state.instance).unwrap())
}
