//! Makes a deployment: authorities, certificates, ports, the node's identity. Every step is skipped when it is done, so a
//! crash in between is repaired by the next start.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use lambda_transport::pki::{Authority, CERTIFICATE_FILE, write_file};
use lambda_transport::{PeerIdentity, Role};
use lambda_types::NodeId;

use crate::layout::{Layout, REGION, Settings, any_loopback, give};
use crate::role::RoleName;

/// A deployment that is ready to run, with every role's listener bound: a role that is restarted keeps its port.
pub(crate) struct Deployment {
    pub(crate) settings: Settings,
    pub(crate) listeners: [(RoleName, TcpListener); 3],
}

/// Makes what is missing, and binds the listeners.
pub(crate) fn init(layout: &Layout, listen: Option<SocketAddr>, images: &[PathBuf]) -> Result<Deployment> {
    if !rustix::process::geteuid().is_root() {
        bail!("needs root: it gives each role a user of its own and the node its capabilities; try sudo");
    }
    layout.make()?;
    let deployment = settings(layout, listen, images)?;
    certificates(layout, &deployment.settings)?;
    Ok(deployment)
}

fn settings(layout: &Layout, listen: Option<SocketAddr>, images: &[PathBuf]) -> Result<Deployment> {
    let mut settings = match layout.settings()? {
        Some(settings) => settings,
        None => Settings {
            node: NodeId::random().context("no randomness")?,
            gateway: any_loopback(),
            control: any_loopback(),
            tunnel: any_loopback(),
            images: [layout.role(RoleName::Node).join("images")].into(),
        },
    };
    for image in images {
        let folder = image.canonicalize().with_context(|| format!("there is no image folder {}", image.display()))?;
        settings.images.insert(folder);
    }
    if let Some(listen) = listen.filter(|listen| listen.port() != 0 || listen.ip() != settings.gateway.ip()) {
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

fn certificates(layout: &Layout, settings: &Settings) -> Result<()> {
    let internal = Authority::load_or_generate(&layout.authority("internal"), "Lambda internal CA")?;
    let public = Authority::load_or_generate(&layout.authority("public"), "Lambda public CA")?;
    let platform = Authority::load_or_generate(&layout.authority("platform"), &format!("Lambda platform CA {REGION}"))?;
    for role in RoleName::ALL {
        let folder = layout.role(role);
        let (peer, address) = match role {
            RoleName::Gateway => (PeerIdentity::new(Role::Gateway, "main"), settings.gateway),
            RoleName::Control => (PeerIdentity::new(Role::Control, "main"), settings.control),
            RoleName::Node => (PeerIdentity::new(Role::Node, settings.node.to_string()), settings.tunnel),
        };
        unless_there(&folder.join("internal"), |at| Ok(internal.issue_peer(&peer, &[address.ip()])?.save(at)?))?;
        write_file(&folder.join("internal-ca.pem"), internal.certificate_pem().as_bytes(), 0o644)?;
    }
    let names = public_names(settings.gateway.ip());
    unless_there(&layout.role(RoleName::Gateway).join("public"), |at| {
        Ok(public.issue_server(&["localhost"], &names)?.save(at)?)
    })?;
    let node_name = format!("Lambda node CA {}", settings.node);
    unless_there(&layout.role(RoleName::Node).join("node-ca"), |at| {
        Ok(platform.issue_authority(&node_name)?.save(at)?)
    })?;
    let platform_pem = platform.certificate_pem().as_bytes();
    write_file(&layout.role(RoleName::Control).join("platform-ca.pem"), platform_pem, 0o644)?;
    write_file(&layout.customer("ca.pem"), public.certificate_pem().as_bytes(), 0o644)?;
    for role in RoleName::ALL {
        if let Some(uid) = role.uid() {
            give(&layout.role(role), uid)?;
        }
    }
    Ok(())
}

fn unless_there(folder: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if folder.join(CERTIFICATE_FILE).exists() { Ok(()) } else { make(folder) }
}

/// Addresses that the gateway's certificate is good for.
fn public_names(listen: IpAddr) -> Vec<IpAddr> {
    let mut names = vec![IpAddr::from([127, 0, 0, 1])];
    if !listen.is_unspecified() && !names.contains(&listen) {
        names.push(listen);
    }
    names
}
