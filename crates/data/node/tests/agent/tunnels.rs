//! The tunnel listener: who may use it, and that bytes reach the guest behind the tap.

use lambda_transport::{Identity, PeerIdentity, Protocol, Role, tls};
use lambda_types::InstanceId;
use lambda_types::instance::{Phase, Power};
use lambda_types::node::{TunnelReply, TunnelRequest};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::harness::{Bench, PATIENCE, instance, roots};

const ID: InstanceId = InstanceId::from_bits(1);

type Tunnel = BufReader<TlsStream<TcpStream>>;

/// Sends a line as this peer and reads the answer's line.
async fn ask(bench: &Bench, role: Role, line: &[u8]) -> std::io::Result<(String, Tunnel)> {
    let issued = bench.internal.issue_peer(&PeerIdentity::new(role, "test"), &[]).unwrap();
    let identity = Identity::from_pem(&issued.chain_pem, &issued.key_pem).unwrap();
    let config = tls::mutual_client_config(identity, &roots(&bench.internal), Protocol::Tunnel).unwrap();
    let address = bench.latest().unwrap().offer.tunnel;
    let stream = TcpStream::connect(address).await?;
    let connector = tokio_rustls::TlsConnector::from(config);
    let mut stream = connector.connect("node".try_into().unwrap(), stream).await?;
    stream.write_all(line).await?;
    let mut stream = BufReader::new(stream);
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_line(&mut answer)).await??;
    Ok((answer, stream))
}

fn request(instance: InstanceId, port: u16) -> Vec<u8> {
    let mut line = serde_json::to_vec(&TunnelRequest { instance, port }).unwrap();
    line.push(b'\n');
    line
}

fn reply(text: &str) -> TunnelReply {
    serde_json::from_str(text).unwrap()
}

#[test]
fn bytes_go_through_the_tap_to_the_guest_and_back() {
    let mut bench = Bench::new();
    let image = bench.image("echoes");
    bench.start_agent();
    bench.desire(1, vec![instance(1, image, Power::Running, 1)]);
    bench.await_phase(ID, Phase::Booting);
    bench.block_on(async {
        // The first bytes come with the request: they belong to the guest.
        let line = [&request(ID, 22)[..], b"early"].concat();
        let (answer, mut tunnel) = ask(&bench, Role::Gateway, &line).await.unwrap();
        assert_eq!(reply(&answer), TunnelReply::Ok);
        let mut echoed = [0; 5];
        tokio::time::timeout(PATIENCE, tunnel.read_exact(&mut echoed)).await.unwrap().unwrap();
        assert_eq!(&echoed, b"early");
        tunnel.write_all(b"late").await.unwrap();
        let mut echoed = [0; 4];
        tokio::time::timeout(PATIENCE, tunnel.read_exact(&mut echoed)).await.unwrap().unwrap();
        assert_eq!(&echoed, b"late");

        let (answer, _) = ask(&bench, Role::Gateway, &request(ID, 23)).await.unwrap();
        assert_eq!(reply(&answer), TunnelReply::Unreachable);
    });
}

#[test]
fn a_tunnel_to_an_instance_that_is_not_here_and_to_a_guest_that_is_deaf_is_answered_so() {
    let mut bench = Bench::new();
    let image = bench.image("silent");
    bench.start_agent();
    bench.desire(1, vec![instance(1, image, Power::Running, 1)]);
    bench.await_phase(ID, Phase::Booting);
    bench.block_on(async {
        let (answer, _) = ask(&bench, Role::Gateway, &request(InstanceId::from_bits(2), 22)).await.unwrap();
        assert_eq!(reply(&answer), TunnelReply::NotHere);
        let (answer, _) = ask(&bench, Role::Gateway, &request(ID, 22)).await.unwrap();
        assert_eq!(reply(&answer), TunnelReply::Unreachable);
    });
}

#[test]
fn only_a_gateway_gets_an_answer_and_only_to_a_request() {
    let mut bench = Bench::new();
    bench.start_agent();
    bench.wait_for("an offer", || bench.latest(), String::new);
    bench.block_on(async {
        for role in [Role::Control, Role::Node] {
            let answer = ask(&bench, role, &request(ID, 22)).await;
            assert!(answer.is_err() || answer.is_ok_and(|(line, _)| line.is_empty()), "{role:?} was answered");
        }
        for line in [&b"{}\n"[..], b"\n", &[b'a'; 4096]] {
            let answer = ask(&bench, Role::Gateway, line).await;
            assert!(answer.is_err() || answer.is_ok_and(|(line, _)| line.is_empty()), "garbage was answered");
        }
        let (answer, _) = ask(&bench, Role::Gateway, &request(ID, 22)).await.unwrap();
        assert_eq!(reply(&answer), TunnelReply::NotHere);
    });
}
