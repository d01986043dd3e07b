//! What the operator's side keeps: searched for random canaries that the customer planted everywhere.
//!
//! The test also proves that it can find: each searched place holds a control, something that must be there.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lambda_e2e::canary::{Canary, search_file, search_tree};
use lambda_e2e::customer::finish;
use lambda_e2e::{Cloud, wait_for};

/// A running packet capture.
struct Capture {
    child: Child,
    file: PathBuf,
}

impl Capture {
    /// Captures on one interface, inside the network namespace at `netns` if given.
    fn start(interface: &str, netns: Option<&Path>, file: PathBuf) -> Self {
        let mut command = match netns {
            Some(path) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", path.display())).arg("tcpdump");
                command
            }
            None => Command::new("tcpdump"),
        };
        command.args(["-i", interface, "-s", "0", "-U", "-Z", "root", "-w"]).arg(&file);
        let log = file.with_extension("log");
        let stderr = std::fs::File::create(&log).expect("writable");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let child = command.spawn().expect("tcpdump starts");
        wait_for("tcpdump to listen", Duration::from_secs(20), || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            if text.contains("listening on") { Ok(()) } else { Err(text) }
        });
        Self { child, file }
    }

    fn stop(mut self) -> PathBuf {
        Cloud::signal(i32::try_from(self.child.id()).expect("a pid"), "INT");
        let _ = self.child.wait();
        self.file.clone()
    }
}

#[test]
fn the_operator_keeps_nothing_of_what_the_customer_planted() {
    let cloud = Cloud::start();
    let customer = cloud.customer("ada");
    let plant = Canary::new;
    let (name, tag, user_data) = (plant("instance name"), plant("tag"), plant("user data"));
    let (environment, hostname, comment) = (plant("environment"), plant("hostname"), plant("authorized key comment"));
    let (file, argument, body) = (plant("file on the volume"), plant("process argument"), plant("HTTP body"));

    let out = cloud.scratch();
    let loopback = Capture::start("lo", None, out.join("lo.pcap"));
    let segment = Capture::start("any", Some(&cloud.data().join("node/netns")), out.join("tap.pcap"));

    let script = out.join("user-data.sh");
    std::fs::write(&script, format!("#!/bin/sh\n: {}\n", user_data.text)).expect("writable");
    let public = PathBuf::from(format!("{}.pub", customer.ssh_key.display()));
    let key = std::fs::read_to_string(&public).expect("readable");
    std::fs::write(&public, format!("{} {}\n", key.trim(), comment.text)).expect("writable");
    let (tags, env) = (format!("role={}", tag.text), format!("TOKEN={}", environment.text));
    let host = format!("h{}", hostname.text);
    let script = script.display().to_string();
    let more = ["--tag", &tags, "--user-data", &script, "--env", &env, "--hostname", &host];
    let _ = customer.create(&name.text, &more).ok();

    // Planted for real: the guest has them.
    assert!(customer.ssh(&name.text, "hostname").ok().contains(&hostname.text));
    assert!(customer.ssh(&name.text, "cat ~/.ssh/authorized_keys").ok().contains(&comment.text));
    assert!(customer.ssh(&name.text, "cat /etc/environment").ok().contains(&environment.text));
    let inside = format!(
        "echo {file} > planted; sync; nohup bash -c 'sleep 600; true' {argument} >/dev/null 2>&1 & \
         printf 'POST / HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Length: 24\\r\\n\\r\\n{body}' > /dev/tcp/127.0.0.1/22; \
         pgrep -af {argument} | head -1",
        file = file.text,
        argument = argument.text,
        body = body.text
    );
    let seen = customer.ssh_with_input(&name.text, "bash -s", inside.as_bytes()).ok();
    assert!(seen.contains(&argument.text), "the process runs: {seen}");
    let _ = customer.run(["instance", "list"]).ok();
    let _ = customer.ssh(&name.text, "sudo sync").ok();

    let id = customer.id(&name.text);
    let known = Canary { place: "control", text: id.clone() };
    let sent = Canary::new("control");
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let to = socket.local_addr().expect("bound");
    socket.send_to(sent.text.as_bytes(), to).expect("sent");

    let canaries = [name, tag, user_data, environment, hostname, comment, file, argument, body];
    let metrics = out.join("metrics");
    std::fs::write(&metrics, fetch(&cloud, "/metrics")).expect("writable");
    let cores = ["gateway", "control", "node"].map(|role| core_of(&cloud, role, out));
    wait_for("the control packet in the capture", Duration::from_secs(10), || {
        if search_file(&out.join("lo.pcap"), std::slice::from_ref(&sent)).is_empty() {
            Err("not yet".into())
        } else {
            Ok(())
        }
    });
    let (lo, tap) = (loopback.stop(), segment.stop());

    // Zero hits, in each place.
    assert_eq!(search_tree(&cloud.data(), &canaries), [], "in the daemons' data folder");
    for place in [&metrics, &lo, &tap, &cores[0], &cores[1], &cores[2]] {
        assert_eq!(search_file(place, &canaries), Vec::<&str>::new(), "in {}", place.display());
    }

    // Each place can be searched: something that must be there is found.
    let data = cloud.data();
    let found: Vec<PathBuf> =
        search_tree(&data, std::slice::from_ref(&known)).into_iter().map(|(path, _)| path).collect();
    for part in ["control/", "node/"] {
        assert!(found.iter().any(|path| path.starts_with(data.join(part))), "no control in {part}: {found:?}");
    }
    let request = Canary { place: "control", text: "req_".into() };
    assert!(!search_tree(&data.join("logs"), &[request]).is_empty(), "no request in the logs");
    let text = std::fs::read_to_string(&metrics).expect("readable");
    assert!(text.contains("# TYPE"), "metrics are metrics: {text}");
    assert!(!text.contains(&id), "no tenant label in metrics");
    assert!(
        !search_file(&tap, &[Canary { place: "control", text: "SSH-2.0-".into() }]).is_empty(),
        "the tap was captured"
    );
    for core in &cores[1..] {
        assert!(!search_file(core, std::slice::from_ref(&known)).is_empty(), "no control in {}", core.display());
    }
    assert!(!search_file(&cores[0], &[Canary { place: "control", text: "lambda-request-id".into() }]).is_empty());
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
