//! What the operator's side keeps: searched for random canaries that the customer planted everywhere.
//!
//! The test also proves that it can find: each searched place holds a control, something that must be there.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lambda_e2e::canary::{Canary, search_file, search_tree};
use lambda_e2e::capture::Capture;
use lambda_e2e::customer::finish;
use lambda_e2e::{Cloud, Customer, wait_for};

/// Everything that a customer can say.
struct Planted {
    name: Canary,
    tag: Canary,
    description: Canary,
    user_data: Canary,
    environment: Canary,
    hostname: Canary,
    comment: Canary,
    file: Canary,
    file_name: Canary,
    argument: Canary,
    body: Canary,
}

impl Planted {
    fn new() -> Self {
        Self {
            name: Canary::new("instance name"),
            tag: Canary::new("tag"),
            description: Canary::new("description"),
            user_data: Canary::new("user data"),
            environment: Canary::new("environment"),
            hostname: Canary::new("hostname"),
            comment: Canary::new("authorized key comment"),
            file: Canary::new("file on the volume"),
            file_name: Canary::new("name of a file"),
            argument: Canary::new("process argument"),
            body: Canary::new("HTTP body"),
        }
    }

    fn all(self) -> [Canary; 11] {
        [
            self.name,
            self.tag,
            self.description,
            self.user_data,
            self.environment,
            self.hostname,
            self.comment,
            self.file,
            self.file_name,
            self.argument,
            self.body,
        ]
    }
}

/// Creates an instance with a canary in each thing that can be said about it.
fn create(cloud: &Cloud, customer: &Customer, planted: &Planted) {
    let script = cloud.scratch().join("user-data.sh");
    std::fs::write(&script, format!("#!/bin/sh\necho {} > /var/lib/ran\n", planted.user_data.text)).expect("writable");
    let public = PathBuf::from(format!("{}.pub", customer.ssh_key.display()));
    let key = std::fs::read_to_string(&public).expect("readable");
    std::fs::write(&public, format!("{} {}\n", key.trim(), planted.comment.text)).expect("writable");
    let (tags, env) = (format!("role={}", planted.tag.text), format!("TOKEN={}", planted.environment.text));
    let (host, script) = (format!("h{}", planted.hostname.text), script.display().to_string());
    let more = ["--tag", &tags, "--user-data", &script, "--env", &env, "--hostname", &host];
    let description = ["--description", &planted.description.text];
    let _ = customer.create(&planted.name.text, &[&more[..], &description[..]].concat()).ok();
}

/// Uses the instance: a file, a process, and an HTTP request with a body, answered by the guest.
fn work(customer: &Customer, planted: &Planted) {
    let script = r#"
set -e
echo FILE > planted-NAME
nohup bash -c 'sleep 600; true' ARGUMENT >/dev/null 2>&1 &
rm -f listening
perl -MIO::Socket::INET -e '
    $l = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1", LocalPort => 8080, ReuseAddr => 1) or die $@;
    open F, ">", "listening"; close F;
    $c = $l->accept; while (<$c>) { $n = $1 if /^Content-Length: (\d+)/; last if /^\r\n$/ }
    read $c, $b, $n; print $c "HTTP/1.1 200 OK\r\nContent-Length: $n\r\nConnection: close\r\n\r\n$b"; close $c' </dev/null &
for i in $(seq 100); do test -e listening && break; sleep 0.1; done
exec 3<>/dev/tcp/127.0.0.1/8080
printf 'POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 24\r\n\r\nBODY' >&3
timeout 10 cat <&3
sudo sync
"#;
    let script = [("NAME", &planted.file_name), ("FILE", &planted.file), ("ARGUMENT", &planted.argument)]
        .into_iter()
        .chain([("BODY", &planted.body)])
        .fold(script.to_owned(), |script, (mark, canary)| script.replace(mark, &canary.text));
    let answer = customer.ssh_with_input(&planted.name.text, "bash -s", script.as_bytes()).ok();
    assert!(answer.contains("200 OK") && answer.contains(&planted.body.text), "the body was served: {answer}");
}

/// Reads every canary back.
fn prove_planted(customer: &Customer, planted: &Planted) {
    let ran = "for i in $(seq 100); do test -s /var/lib/ran && break; sleep 0.2; done; cat /var/lib/ran";
    for (canary, script) in [
        (&planted.hostname, "hostname"),
        (&planted.comment, "cat ~/.ssh/authorized_keys"),
        (&planted.environment, "cat /etc/environment"),
        (&planted.user_data, ran),
        (&planted.file, "cat planted-*"),
        (&planted.file_name, "ls"),
        (&planted.argument, "ps axww -o args || cat /proc/[0-9]*/cmdline"),
    ] {
        let seen = customer.ssh(&planted.name.text, script).ok();
        assert!(seen.contains(&canary.text), "{} is in the guest: {seen}", canary.place);
    }
    let list = customer.run(["instance", "list", "-o", "json"]).ok();
    let show = customer.run(["instance", "show", &planted.name.text, "-o", "json"]).ok();
    for (canary, text) in [(&planted.name, &list), (&planted.tag, &list), (&planted.description, &show)] {
        assert!(text.contains(&canary.text), "the customer sees the {}: {text}", canary.place);
    }
}

/// A connection into the guest that stays open: the daemons carry it while they are looked into.
struct Session(Child);

impl Session {
    fn open(customer: &Customer, name: &str) -> Self {
        let key = customer.ssh_key.display().to_string();
        let mut command = customer.command(["ssh", "--identity", &key, name, "--", "echo open; read end"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the CLI starts");
        let mut line = String::new();
        let _ = BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("readable");
        assert_eq!(line, "open\n");
        Self(child)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// What was collected of the operator's side.
struct Findings {
    data: PathBuf,
    up: PathBuf,
    metrics: PathBuf,
    loopback: PathBuf,
    taps: PathBuf,
    cores: [PathBuf; 3],
}

#[test]
fn the_operator_keeps_nothing_of_what_the_customer_planted() {
    let cloud = Cloud::start();
    let customer = cloud.customer("ada");
    let planted = Planted::new();
    let out = cloud.scratch();
    let loopback = Capture::start("lo", None, out.join("lo.pcap"));
    let taps = Capture::start("any", Some(&cloud.data().join("node/netns")), out.join("tap.pcap"));

    create(&cloud, &customer, &planted);
    work(&customer, &planted);
    prove_planted(&customer, &planted);

    let id = Canary { place: "control", text: customer.id(&planted.name.text) };
    let packet = send_control_packet(&out.join("lo.pcap"));
    let metrics = out.join("metrics");
    std::fs::write(&metrics, fetch(&cloud, "/metrics")).expect("writable");
    await_checkpoint(&cloud.data(), &id);
    let session = Session::open(&customer, &planted.name.text);
    let cores = ["gateway", "control", "node"].map(|role| core_of(&cloud, role, out));
    drop(session);
    let (loopback, taps) = (loopback.stop(), taps.stop());
    let findings = Findings { data: cloud.data(), up: out.join("up.log"), metrics, loopback, taps, cores };

    holds_none(&findings, &planted.all());
    files_can_be_searched(&findings, &id);
    memory_and_wires_can_be_searched(&findings, &id, &packet);
}

fn holds_none(findings: &Findings, canaries: &[Canary]) {
    assert_eq!(search_tree(&findings.data, canaries).expect("readable"), [], "in the daemons' data folder");
    let Findings { up, metrics, loopback, taps, cores, .. } = findings;
    for place in [up, metrics, loopback, taps].into_iter().chain(cores) {
        let hits = search_file(place, canaries).expect("readable");
        assert_eq!(hits, Vec::<&str>::new(), "in {}", place.display());
    }
}

fn files_can_be_searched(findings: &Findings, id: &Canary) {
    let data = &findings.data;
    let controls = [
        id.clone(),
        Canary { place: "gateway", text: "\"message\":\"answered\",\"request\":\"req_".into() },
        Canary { place: "control plane", text: "control plane listening".into() },
        Canary { place: "node", text: "guests run ".into() },
    ];
    let found = search_tree(data, &controls).expect("readable");
    let in_node = found.iter().any(|(path, place)| path.starts_with(data.join("node")) && *place == id.place);
    assert!(in_node, "no control in node: {found:?}");
    let (state, logs) = (data.join("control/state"), data.join("logs"));
    for (path, place) in [
        (state.join("store.sqlite"), id.place),
        (state.join("store.sqlite-wal"), id.place),
        (logs.join("gateway.log"), "gateway"),
        (logs.join("control.log"), "control plane"),
        (logs.join("node.log"), "node"),
    ] {
        assert!(found.iter().any(|hit| *hit == (path.clone(), place)), "no control in {}: {found:?}", path.display());
    }
    for (path, text) in [(&findings.up, "the API is at"), (&findings.metrics, "# TYPE lambda_gateway_latency_seconds")]
    {
        let control = Canary { place: "control", text: text.into() };
        let hits = search_file(path, &[control, Canary { place: "tenant", ..id.clone() }]).expect("readable");
        assert!(hits.contains(&"control"), "no `{text}` in {}", path.display());
        assert!(path != &findings.metrics || !hits.contains(&"tenant"), "no tenant label in metrics");
    }
}

/// Waits until the control plane has folded its log into its store once; both then hold the instance.
fn await_checkpoint(data: &Path, id: &Canary) {
    let store = data.join("control/state/store.sqlite");
    wait_for("the instance in the store itself", Duration::from_secs(60), || {
        let hits = search_file(&store, std::slice::from_ref(id)).map_err(|error| error.to_string())?;
        if hits.is_empty() { Err("only in its log".into()) } else { Ok(()) }
    });
}

fn memory_and_wires_can_be_searched(findings: &Findings, id: &Canary, packet: &Canary) {
    let banner = Canary { place: "control", text: "SSH-2.0-".into() };
    let [gateway, control, node] = &findings.cores;
    for (place, known) in
        [(&findings.loopback, packet), (&findings.taps, &banner), (gateway, id), (control, id), (node, id)]
    {
        let hits = search_file(place, std::slice::from_ref(known)).expect("readable");
        assert_eq!(hits, [known.place], "no control in {}", place.display());
    }
}

/// Sends a random packet over loopback, and waits until the capture holds it.
fn send_control_packet(capture: &Path) -> Canary {
    let sent = Canary::new("control");
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.send_to(sent.text.as_bytes(), socket.local_addr().expect("bound")).expect("sent");
    wait_for("the control packet in the capture", Duration::from_secs(10), || {
        match search_file(capture, std::slice::from_ref(&sent)) {
            Ok(hits) if hits.is_empty() => Err("not yet".into()),
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    });
    sent
}

/// A core dump of a role's process.
fn core_of(cloud: &Cloud, role: &str, folder: &Path) -> PathBuf {
    let pid = cloud.pid(role).to_string();
    let prefix = folder.join(role);
    let mut command = Command::new("gcore");
    command.arg("-o").arg(&prefix).arg(&pid).stdin(Stdio::null());
    let _ = finish(command, None, Duration::from_secs(120)).ok();
    PathBuf::from(format!("{}.{pid}", prefix.display()))
}

/// A page of the gateway that needs no key.
fn fetch(cloud: &Cloud, path: &str) -> String {
    let endpoint = cloud.endpoint();
    let url = format!("{}{path}", endpoint["gateway"].as_str().expect("url"));
    let mut command = Command::new("curl");
    command.args(["-sS", "--fail", "--cacert", endpoint["ca"].as_str().expect("path"), &url]).stdin(Stdio::null());
    finish(command, None, Duration::from_secs(30)).ok()
}
