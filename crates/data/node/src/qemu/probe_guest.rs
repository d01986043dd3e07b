//! Whether a confidential guest really runs here: one is launched as an instance would be, without disks and network, and asked
//! for evidence over the guest channel. What the evidence is worth, others judge.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use lambda_types::guest::{self, GuestNetwork, GuestPhase, Start};
use lambda_types::image::{ImageManifest, file as part};
use lambda_types::node::Acceleration;
use lambda_types::session::{self, Challenge, Hello};
use lambda_types::shape::{LaunchProfile, Shape};
use lambda_types::{Binary, InstanceId};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

use super::arguments::{self, ProbeMachine};
use super::launch::Launch;
use crate::channel::{Channel, Heard};
use crate::host::tee::Tees;
use crate::images::{Image, Images};

/// From QEMU's start to the evidence. A kernel boots in seconds, the processor takes its time to encrypt memory and to sign.
const BOUND: Duration = Duration::from_secs(90);

/// How often QEMU's socket is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// Most bytes of QEMU's complaint that are told.
const MAX_COMPLAINT: u64 = 2048;

/// The smallest shape: a probe takes little from a host that is in use.
const SHAPE: Shape = Shape::Nano;

/// What a probe guest said.
#[derive(Debug, Clone)]
pub struct ProbeGuest {
    /// The image that was launched.
    pub manifest: Arc<ImageManifest>,
    /// The shape that it was launched in.
    pub shape: Shape,
    /// What was asked: fresh, 32 bytes.
    pub nonce: [u8; 32],
    /// The keys that the evidence binds.
    pub hello: Hello,
    /// The evidence document, JSON.
    pub evidence: Vec<u8>,
}

impl ProbeGuest {
    /// Launches a guest of a confidential profile from one of these images and takes its evidence. Takes up to 90 s.
    ///
    /// # Errors
    /// Why there is none, with what was seen last.
    pub fn run(qemu: &Path, images: &[PathBuf], tees: &Tees, profile: LaunchProfile) -> Result<Self, String> {
        let launch = match (profile, tees.snp()) {
            (LaunchProfile::Snp, Some(host)) => Launch::Snp(host, Box::default()),
            (LaunchProfile::Tdx, _) => Launch::Tdx,
            (LaunchProfile::Cca, _) => Launch::Cca,
            _ => return Err(format!("profile {profile} has no evidence of its own")),
        };
        let images = Images::new(images.to_vec());
        images.scan();
        let image = images.with_part(launch.firmware_part()).ok_or_else(|| {
            format!("no image here has firmware for profile {profile}; build one on a host that has it installed")
        })?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| error.to_string())?.block_on(probe(qemu, &image, &launch))
    }
}

async fn probe(qemu: &Path, image: &Image, launch: &Launch) -> Result<ProbeGuest, String> {
    let nonce = random::<32>()?;
    let instance = InstanceId::random().map_err(|error| error.to_string())?;
    let folder = Folder::make(instance)?;
    let mut qemu = start(qemu, image, launch, instance, &folder.0)?;
    let mut last = "QEMU was started".to_owned();
    let asked = tokio::select! {
        asked = tokio::time::timeout(BOUND, converse(&folder.0, instance, &nonce, &mut last)) => asked,
        complaint = ended(&mut qemu) => Ok(Err(complaint)),
    };
    let killed = qemu.kill().await;
    if let Err(error) = killed {
        tracing::debug!(%error, "the probe's QEMU had ended");
    }
    match asked {
        Ok(Ok((hello, evidence))) => {
            Ok(ProbeGuest { manifest: image.manifest.clone(), shape: SHAPE, nonce, hello, evidence })
        }
        Ok(Err(why)) => Err(why),
        Err(_) => Err(format!("no evidence within {} s; last seen: {last}", BOUND.as_secs())),
    }
}

fn start(qemu: &Path, image: &Image, launch: &Launch, instance: InstanceId, folder: &Path) -> Result<Child, String> {
    let path = |name: &str| image.folder.join(name);
    let arguments = arguments::probe_guest(&ProbeMachine {
        instance,
        launch,
        acceleration: Acceleration::Kvm,
        shape: SHAPE,
        command_line: &image.manifest.command_line,
        firmware: &path(launch.firmware_part()),
        kernel: &path(part::KERNEL),
        initramfs: &path(part::INITRAMFS),
    });
    Command::new(qemu)
        .args(arguments)
        .env_clear()
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot run {}: {error}", qemu.display()))
}

/// Waits until QEMU ends, and gives what it said last.
async fn ended(qemu: &mut Child) -> String {
    let mut said = String::new();
    if let Some(errors) = qemu.stderr.take() {
        // What is no text is not worth telling, and the pipe ends with QEMU.
        let _ = errors.take(MAX_COMPLAINT).read_to_string(&mut said).await;
    }
    let status = qemu.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
    let last = said.lines().last().unwrap_or("it said nothing");
    format!("QEMU ended ({status}): {last}")
}

/// The node's side of the channel and the broker's side of the session, up to the evidence.
async fn converse(
    folder: &Path,
    instance: InstanceId,
    nonce: &[u8; 32],
    last: &mut String,
) -> Result<(Hello, Vec<u8>), String> {
    let mut channel = loop {
        match Channel::open(folder) {
            Ok(channel) => break channel,
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    };
    // It never comes as far as to use an interface.
    let unspecified = std::net::Ipv4Addr::UNSPECIFIED;
    let network =
        GuestNetwork { mac: "02:00:00:00:00:00".into(), address: unspecified, prefix: 30, gateway: unspecified };
    channel.send(guest::ToGuest::Start(Start { instance, ek_chain: Vec::new(), network }));
    *last = "the guest channel is open, and the guest says nothing".into();
    loop {
        match channel.hear().await {
            Heard::Frame(guest::FromGuest::Report { phase: GuestPhase::Failed, reason, .. }) => {
                let reason = reason.map_or_else(|| "no reason given", |reason| reason.code());
                return Err(format!("the guest gave up: {reason}"));
            }
            Heard::Frame(guest::FromGuest::Report { phase, .. }) => *last = format!("the guest is {phase:?}"),
            Heard::Frame(guest::FromGuest::ToBroker { seq, body, .. }) => {
                match serde_json::from_slice(body.as_slice())
                    .map_err(|error| format!("the guest's message: {error}"))?
                {
                    session::FromGuest::Hello(_) => {
                        *last = "the guest was challenged".into();
                        channel.send(challenge(seq, nonce)?);
                    }
                    session::FromGuest::Evidence { hello, evidence } => return Ok((hello, evidence.0)),
                    session::FromGuest::Report { .. } => return Err("the guest reports what it was not asked".into()),
                }
            }
            Heard::Frame(guest::FromGuest::Health { .. }) => {}
            Heard::Closed(error) => return Err(format!("{error}; last seen: {last}")),
        }
    }
}

fn challenge(seq: u64, nonce: &[u8; 32]) -> Result<guest::ToGuest, String> {
    let challenge = Challenge { nonce: nonce.to_vec().into(), credential: None };
    let body = serde_json::to_vec(&session::ToGuest::Challenge(challenge)).map_err(|error| error.to_string())?;
    Ok(guest::ToGuest::FromBroker { seq, body: Binary(body) })
}

fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// The probe's working folder, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn make(instance: InstanceId) -> Result<Self, String> {
        use std::os::unix::fs::DirBuilderExt as _;
        let path = std::env::temp_dir().join(format!("lambda-probe-{instance}"));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| format!("cannot make {}: {error}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "the probe's folder is left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::images::tests::{PARTS, write_image};

    /// A QEMU that does this, whatever it is asked: no machine of a test has the processor.
    fn probe_with(script: &str, parts: &[(&str, &[u8])]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let qemu = folder.path().join("qemu");
        std::fs::write(&qemu, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&qemu, std::fs::Permissions::from_mode(0o755)).unwrap();
        write_image(&folder.path().join("image"), parts);
        let images = [folder.path().join("image")];
        ProbeGuest::run(&qemu, &images, &Tees::default(), LaunchProfile::Tdx).unwrap_err()
    }

    #[test]
    fn an_image_without_the_profiles_firmware_is_not_tried() {
        let why = probe_with("exit 0", &PARTS);
        assert_eq!(why, "no image here has firmware for profile tdx; build one on a host that has it installed");
    }

    #[test]
    fn a_qemu_that_ends_is_quoted_and_nothing_of_the_probe_stays() {
        let with_firmware = [&PARTS[..], &[(part::FIRMWARE_TDX, b"t")]].concat();
        let why = probe_with("echo started >&2; pwd >&2; exit 3", &with_firmware);
        let (said, folder) = why.rsplit_once(": ").unwrap();
        assert_eq!(said, "QEMU ended (exit status: 3)");
        assert!(folder.contains("lambda-probe-inst_") && !Path::new(folder).exists(), "{why}");
    }
}
