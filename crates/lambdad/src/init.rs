//! Makes a deployment: authorities, certificates, ports, the node's identity. Every step is skipped when it is done, so a
//! crash in between is repaired by the next start.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use lambda_types::NodeId;

use crate::certificates;
use crate::layout::{Layout, Settings, any_loopback};
use crate::role::RoleName;

/// What is chosen at a start and kept from then on.
#[derive(Debug, Default, Args)]
pub(crate) struct Choices {
    /// Address of the public API; port 0 takes a free one. Kept from then on.
    #[arg(long)]
    pub(crate) listen: Option<SocketAddr>,
    /// Another name or address that customers use for the public API, for its certificate; may be given more than once. Kept from
    /// then on.
    #[arg(long = "name", value_name = "HOST")]
    pub(crate) names: Vec<String>,
    /// Image folder to offer, or a folder of such; may be given more than once. Kept from then on.
    #[arg(long = "images", value_name = "DIR")]
    pub(crate) images: Vec<PathBuf>,
}

/// A deployment that is ready to run, with every role's listener bound: a role that is restarted keeps its port.
pub(crate) struct Deployment {
    pub(crate) settings: Settings,
    pub(crate) listeners: [(RoleName, TcpListener); 3],
}

/// Makes what is missing, and binds the listeners.
pub(crate) fn init(layout: &Layout, choices: &Choices) -> Result<Deployment> {
    if !rustix::process::geteuid().is_root() {
        bail!("needs root: it gives each role a user of its own and the node its capabilities; try sudo");
    }
    layout.make()?;
    let deployment = settings(layout, choices)?;
    for line in certificates::settle(layout, &deployment.settings)? {
        eprintln!("lambdad: {line}");
    }
    Ok(deployment)
}

fn settings(layout: &Layout, choices: &Choices) -> Result<Deployment> {
    let mut settings = match layout.settings()? {
        Some(settings) => settings,
        None => Settings {
            node: NodeId::random().context("no randomness")?,
            gateway: any_loopback(),
            control: any_loopback(),
            tunnel: any_loopback(),
            names: std::collections::BTreeSet::new(),
            images: [layout.role(RoleName::Node).join("images")].into(),
        },
    };
    for image in &choices.images {
        let folder = image.canonicalize().with_context(|| format!("there is no image folder {}", image.display()))?;
        settings.images.insert(folder);
    }
    for name in &choices.names {
        certificates::check_name(name)?;
        settings.names.insert(name.clone());
    }
    if let Some(listen) = choices.listen.filter(|listen| listen.port() != 0 || listen.ip() != settings.gateway.ip()) {
        settings.gateway = listen;
    }
    let gateway = TcpListener::bind(settings.gateway)
        .with_context(|| format!("the gateway cannot listen on {}; choose another with --listen", settings.gateway))?;
    // Nobody outside knows the internal ports: a taken one is exchanged.
    let internal =
        |kept| TcpListener::bind(kept).or_else(|_| TcpListener::bind(any_loopback())).context("no free port");
    let control = internal(settings.control)?;
    let tunnel = internal(settings.tunnel)?;
    settings.gateway = gateway.local_addr()?;
    settings.control = control.local_addr()?;
    settings.tunnel = tunnel.local_addr()?;
    layout.save_settings(&settings)?;
    let listeners = [(RoleName::Gateway, gateway), (RoleName::Control, control), (RoleName::Node, tunnel)];
    Ok(Deployment { settings, listeners })
}
