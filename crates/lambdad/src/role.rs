//! One role in a process of its own: gives up privileges, then runs the layer that does the work.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use lambda_transport::Shutdown;
use tokio::signal::unix::{SignalKind, signal};

use crate::layout::{Layout, REGION, Settings};
use crate::privileges;

/// The roles of one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub(crate) enum RoleName {
    /// The public API.
    Gateway,
    /// The control plane.
    Control,
    /// The node agent.
    Node,
}

impl RoleName {
    /// Every role.
    pub(crate) const ALL: [Self; 3] = [Self::Gateway, Self::Control, Self::Node];

    /// As in commands, folders and logs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Control => "control",
            Self::Node => "node",
        }
    }

    /// The numeric user it runs as; the node keeps user 0 with few capabilities. Numbers need no entry in `/etc/passwd`, and
    /// nothing else uses this range on Debian.
    pub(crate) const fn uid(self) -> Option<u32> {
        match self {
            Self::Gateway => Some(61_001),
            Self::Control => Some(61_002),
            Self::Node => None,
        }
    }

    /// The group that may read its folder.
    pub(crate) const fn gid(self) -> u32 {
        match self.uid() {
            Some(id) => id,
            None => 0,
        }
    }
}

/// What a role is started with.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The data folder, made by `lambdad up` or `lambdad init`.
    #[arg(long)]
    data: PathBuf,
    /// End when this process does.
    #[arg(long, hide = true)]
    supervised_by: Option<u32>,
    #[command(flatten)]
    programs: Programs,
}

/// Programs that the node starts.
#[derive(Debug, Clone, Args)]
pub(crate) struct Programs {
    /// QEMU; found on the path by default.
    #[arg(long, value_name = "PATH")]
    pub(crate) qemu: Option<PathBuf>,
    /// The vTPM emulator; found on the path by default.
    #[arg(long, value_name = "PATH")]
    pub(crate) swtpm: Option<PathBuf>,
}

/// Runs the role until it is told to stop.
pub(crate) fn run(role: RoleName, options: &Options) -> Result<()> {
    let layout = Layout::new(&options.data)?;
    let settings = layout.settings()?.with_context(|| {
        format!("{} is not a data folder; `lambdad init --data` makes one", layout.root().display())
    })?;
    let listener = listener(settings.address(role), options.supervised_by.is_some())?;
    // Privileges and the supervisor's watch belong to a thread: both are settled while there is only one.
    match role.uid() {
        Some(uid) => privileges::become_user(uid)?,
        None => privileges::keep_only(lambda_node::CAPABILITIES)?,
    }
    privileges::bind_to_supervisor(options.supervised_by)?;
    start_log();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(serve(role, listener, &layout, &settings, &options.programs))
}

/// The supervisor's listener, which is standard input, or a new one.
fn listener(address: SocketAddr, supervised: bool) -> Result<TcpListener> {
    if supervised {
        let inherited = std::io::stdin().as_fd().try_clone_to_owned().context("the supervisor's listener")?;
        return Ok(TcpListener::from(inherited));
    }
    TcpListener::bind(address).with_context(|| format!("cannot listen on {address}: another program uses it"))
}

async fn serve(
    role: RoleName,
    listener: TcpListener,
    layout: &Layout,
    settings: &Settings,
    programs: &Programs,
) -> Result<()> {
    let shutdown = Shutdown::new();
    stop_on_signal(shutdown.clone())?;
    let folder = layout.role(role);
    match role {
        RoleName::Gateway => lambda_gateway::run(gateway(listener, &folder, settings), shutdown).await,
        RoleName::Control => lambda_control::run(control(listener, layout), shutdown).await,
        RoleName::Node => lambda_node::run(node(listener, &folder, settings, programs), shutdown).await,
    }
}

/// Cancels on the first SIGTERM or SIGINT.
pub(crate) fn stop_on_signal(shutdown: Shutdown) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        shutdown.cancel();
    });
    Ok(())
}

fn start_log() {
    let level = std::env::var("LAMBDA_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .json()
        .with_env_filter(tracing_subscriber::EnvFilter::new(level))
        .with_writer(std::io::stderr)
        .init();
}

fn gateway(listener: TcpListener, folder: &Path, settings: &Settings) -> lambda_gateway::GatewayConfig {
    lambda_gateway::GatewayConfig {
        listener,
        public_identity: folder.join("public"),
        internal_identity: folder.join("internal"),
        internal_ca: folder.join("internal-ca.pem"),
        control: settings.control,
    }
}

fn control(listener: TcpListener, layout: &Layout) -> lambda_control::ControlConfig {
    let folder = layout.role(RoleName::Control);
    lambda_control::ControlConfig {
        listener,
        database: layout.store(),
        identity: folder.join("internal"),
        internal_ca: folder.join("internal-ca.pem"),
        platform_ca: folder.join("platform-ca.pem"),
        region: REGION.into(),
    }
}

fn node(listener: TcpListener, folder: &Path, settings: &Settings, programs: &Programs) -> lambda_node::NodeConfig {
    let program = |given: &Option<PathBuf>, name: &str| given.clone().unwrap_or_else(|| installed(name));
    lambda_node::NodeConfig {
        node: settings.node,
        data_dir: folder.to_owned(),
        control: settings.control,
        identity: folder.join("internal"),
        internal_ca: folder.join("internal-ca.pem"),
        node_ca: folder.join("node-ca"),
        images: settings.images.iter().cloned().collect(),
        qemu: program(&programs.qemu, "qemu-system-x86_64"),
        swtpm: program(&programs.swtpm, "swtpm"),
        nft: program(&None, "nft"),
        uid_base: lambda_node::DEFAULT_UID_BASE,
        capacity: None,
        acceleration: None,
        vtpm_pool: lambda_node::DEFAULT_VTPM_POOL,
        tunnel: listener,
    }
}

/// Where a program is, by the path that this process was given; where Debian puts it, when it is not there: an instance that needs
/// it then says so, and starts once it was installed.
fn installed(name: &str) -> PathBuf {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| Path::new("/usr/bin").join(name))
}
